"""A convolution of frames, its activation and their gradients, in a form that is fast on a CPU.

The gradient of a convolution's kernel is itself a convolution, of images with the minibatch as
channels. XLA's CPU backend transposes frames for it byte by byte; words of four bytes are faster.
It also computes the bias's index of each number by a division, unless bias and images are flat.
docs/performance_details.md has the times.

With the kernels off (`cpu.use_kernels`), for a single state, for other dtypes, and for frames with
colours or without whole words, JAX's own convolution is used. The kernels have no forward-mode
derivative (`jax.jvp`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import dtypes

from implicit_rl.cpu import matmul

_IMAGES = ('NHWC', 'HWIO', 'NHWC')
_TURNED = ('CHWN', 'HWIO', 'NHWC')
_WORD = 4  # bytes


def stack_to_channels(state: jax.Array) -> jax.Array:
  """[B, S, H, W] or [B, S, H, W, C] -> [B, H, W, S] or [B, H, W, C·S]; dtype unchanged."""
  if state.ndim == 4:
    return jnp.moveaxis(state, 1, -1)
  if state.ndim == 5:
    state = jnp.moveaxis(state, 1, -1)  # [B, H, W, C, S]
    return state.reshape(*state.shape[:-2], -1)
  raise ValueError(
    f'An image network takes [B, S, H, W] or [B, S, H, W, C], not {state.shape}; '
    'for flat observations bind an MLP to Agent.network.'
  )


def of_frames(
  state: jax.Array, kernel: jax.Array, stride: int, padding: str, dtype: Any = None
) -> jax.Array:
  """Returns the convolution of frames, divided by 255.

  Args:
    state: [B, S, H, W], or [B, S, H, W, C], uint8.
    kernel: [h, w, C·S, D] float32.
    stride: distance of two neighbouring outputs, down and across.
    padding: 'SAME' or 'VALID'.
    dtype: of the computation; None is float32.

  Returns:
    [B, H', W', D] in that dtype.
  """
  usual = (
    dtype is None and state.ndim == 4 and state.dtype == jnp.uint8 and kernel.dtype == jnp.float32
  )
  if usual and math.prod(state.shape[1:]) % _WORD == 0 and matmul.use_kernel(state):
    return _of_frames(state, kernel, stride, padding)
  return of_images(_shares(stack_to_channels(state)), kernel, stride, padding, dtype)


def of_images(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  padding: str,
  dtype: Any = None,
  order: tuple[str, str, str] = _IMAGES,
) -> jax.Array:
  """[B, H, W, C] and [h, w, C, D] -> [B, H', W', D], or in the layout `order`."""
  x, kernel = dtypes.promote_dtype(x, kernel, dtype=dtype)
  strides = (stride, stride)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=order)


def rectified(x: jax.Array, bias: jax.Array) -> jax.Array:
  """max(x + bias, 0): [B, H, W, D] and [D] -> [B, H, W, D]."""
  if matmul.use_kernel(x, bias):
    return _rectified(x, bias)
  return jax.nn.relu(x + bias[None, None, None, :])


def _shares(frames: jax.Array) -> jax.Array:
  return frames.astype(jnp.float32) / 255.0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _of_frames(state: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
  return of_images(_shares(stack_to_channels(state)), kernel, stride, padding)


def _of_frames_forward(state, kernel, stride, padding):
  return _of_frames(state, kernel, stride, padding), (state, kernel)


def _of_frames_backward(stride, padding, kept, gradient):
  state, kernel = kept
  images = _shares(_turned(state))
  by_kernel = lambda kernel: of_images(images, kernel, stride, padding, order=_TURNED)
  (for_kernel,) = jax.linear_transpose(by_kernel, kernel)(gradient)
  return None, for_kernel  # Bytes have no gradient.


_of_frames.defvjp(_of_frames_forward, _of_frames_backward)


def _turned(state: jax.Array) -> jax.Array:
  """[B, S, H, W] uint8 -> [S, H, W, B] uint32 of the same values."""
  batch, *frames = state.shape
  words = jax.lax.bitcast_convert_type(state.reshape(batch, -1, _WORD), jnp.uint32)
  words = matmul.apart(jnp.transpose, words)[:, None, :]  # [S·H·W/4, 1, B]
  shifts = 8 * jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None]
  return ((words >> shifts) & 255).reshape(*frames, batch)


@jax.custom_vjp
def _rectified(x: jax.Array, bias: jax.Array) -> jax.Array:
  batch, *image = x.shape
  repeated = matmul.apart(lambda bias: jnp.broadcast_to(bias, image).reshape(-1), bias)
  add = lambda both: jnp.maximum(both[0] + both[1][None, :], 0)
  return matmul.apart(add, (x.reshape(batch, -1), repeated)).reshape(x.shape)


def _rectified_forward(x, bias):
  y = _rectified(x, bias)
  return y, y


def _rectified_backward(y, gradient):
  gradient = jnp.where(y > 0, gradient, 0)
  return gradient, jnp.sum(gradient, axis=(0, 1, 2))


_rectified.defvjp(_rectified_forward, _rectified_backward)

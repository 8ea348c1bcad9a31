"""Products of a layer's inputs with its kernel, and their gradients, as a CPU computes them fast.

XLA's CPU backend is fast where a product runs along the rows of what stands left. A gradient with
respect to a kernel runs along its columns, the minibatch, and takes up to 2.5 times as long as one
on a turned copy, which costs little; so does one with few outputs. The barriers keep XLA from
moving such a copy into the product again. Elsewhere than on a CPU a product is what JAX makes of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_FEW = 32  # outputs below which a kernel's gradient is computed turned
_barrier = jax.lax.optimization_barrier


def dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **settings: Any):
  """`jax.lax.dot_general` for `nn.Dense.dot_general`: [..., p] and [p, q] -> [..., q].

  Raises:
    ValueError: for other dimensions than those of a dense layer.
  """
  if dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())) or kernel.ndim != 2:
    raise ValueError(f'Not the dimensions of a dense layer: {dimension_numbers}.')
  if jax.default_backend() != 'cpu':
    return jax.lax.dot_general(x, kernel, dimension_numbers, **settings)
  return columns(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, p] and a kernel of columns [p, q] -> [B, q]."""
  return x @ kernel


def _columns_forward(x, kernel):
  return columns(x, kernel), (x, kernel)


def _columns_backward(kept, gradient):
  x, kernel = kept
  inputs, outputs = kernel.shape
  if inputs < _FEW:
    for_kernel = x.T @ gradient
  elif outputs < _FEW:
    for_kernel = _barrier(gradient.T @ x).T
  else:
    for_kernel = _apart(jnp.transpose, x) @ gradient
  return gradient @ kernel.T, for_kernel


def _apart(f, *arguments):
  """f(*arguments), which XLA does not merge with what is computed before and after."""
  return jax.lax.cond(_barrier(True), f, f, *arguments)


columns.defvjp(_columns_forward, _columns_backward)


@jax.custom_vjp
def rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, p] and a kernel of rows [q, p] -> [B, q]."""
  if x.shape[0] == 1:  # As a product of matrices it makes XLA turn the kernel, 16 MB for Atari.
    return (kernel @ x[0])[None, :]
  if jax.default_backend() != 'cpu':
    return x @ kernel.T
  return _barrier(kernel @ x.T).T


def _rows_forward(x, kernel):
  return rows(x, kernel), (x, kernel)


def _rows_backward(kept, gradient):
  x, kernel = kept
  return gradient @ kernel, gradient.T @ x


rows.defvjp(_rows_forward, _rows_backward)

"""Products of a layer's inputs with its kernel, and their gradients, as a CPU computes them fast.

XLA's CPU backend is fast where a product runs along the rows of what stands left, and where the
larger matrix stands left. The gradient of a kernel runs along the columns of the inputs, over the
minibatch, and takes up to 2.5 times as long as a product with their turned copy; others are turned
as wholes. The barriers keep XLA from turning them back.

Elsewhere than on a CPU, and of a single state, a product is what JAX makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_FEW = 32  # inputs or outputs of a small layer
_barrier = jax.lax.optimization_barrier


def apart(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """function(x) as a step of its own, which XLA does not merge with what is before and after."""
  return jax.lax.cond(_barrier(True), function, function, x)


def dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **settings: Any):
  """`jax.lax.dot_general` for `nn.Dense.dot_general`: [..., p] and [p, q] -> [..., q].

  Raises:
    ValueError: for other dimensions than those of a dense layer.
  """
  if dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())) or kernel.ndim != 2:
    raise ValueError(f'Not the dimensions of a dense layer: {dimension_numbers}.')
  if settings.get('preferred_element_type') is not None or x.dtype != kernel.dtype:
    return jax.lax.dot_general(x, kernel, dimension_numbers, **settings)
  return columns(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


def columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, p] and a kernel of columns [p, q] -> [B, q]."""
  return _columns(x, kernel) if _ours(x) else x @ kernel


def rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, p] and a kernel of rows [q, p] -> [B, q]."""
  if len(x) == 1:  # As a product of matrices it makes XLA turn the kernel, 16 MB for Atari.
    return (kernel @ x[0])[None, :]
  return _rows(x, kernel) if _ours(x) else x @ kernel.T


def _ours(x: jax.Array) -> bool:
  """Whether a product is computed here. JAX merges those of single states that are mapped over."""
  return jax.default_backend() == 'cpu' and len(x) > 1


@jax.custom_vjp
def _columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return x @ kernel


def _columns_backward(
  kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  inputs, outputs = kernel.shape
  if inputs < _FEW:
    for_kernel = x.T @ gradient
  elif outputs < _FEW:
    for_kernel = _barrier(gradient.T @ x).T
  else:
    for_kernel = apart(jnp.transpose, x) @ gradient  # Merged, a turn takes four times as long.
  if 4 * len(x) <= outputs:
    return _barrier(kernel @ gradient.T).T, for_kernel
  return gradient @ kernel.T, for_kernel


_columns.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _columns_backward)


@jax.custom_vjp
def _rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return _barrier(kernel @ x.T).T


def _rows_backward(
  kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  return gradient @ kernel, gradient.T @ x


_rows.defvjp(lambda x, kernel: (_rows(x, kernel), (x, kernel)), _rows_backward)

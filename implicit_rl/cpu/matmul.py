"""Products of a layer's inputs with its kernel, and their gradients, in forms fast on a CPU.

XLA's CPU backend is fast if a product runs along the rows of the left matrix. A kernel's gradient
xᵀ·g runs along columns, over the minibatch. A copy of xᵀ makes it faster, and with few outputs
(gᵀ·x)ᵀ is faster still. If the kernel is much larger than the minibatch, it is the left matrix. The
barriers stop XLA from undoing this. docs/performance_details.md has the times.

With the kernels off (`cpu.use_kernels`), for a single state and for mixed dtypes JAX's own product
is used. The kernels have no forward-mode derivative (`jax.jvp`); training needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from implicit_rl import cpu

_FEW = 32  # inputs or outputs of a small layer
_barrier = jax.lax.optimization_barrier


def apart(function: Callable[[Any], jax.Array], x: Any) -> jax.Array:
  """Returns function(x); with the kernels on, XLA does not merge it with other operations."""
  if not cpu.kernels_in_use():
    return function(x)
  return jax.lax.cond(_barrier(True), function, function, x)


def dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **settings: Any):
  """`jax.lax.dot_general` for `nn.Dense.dot_general`: [..., p] and [p, q] -> [..., q]."""
  plain = x.ndim != 2 or dimension_numbers != (((1,), (0,)), ((), ()))
  if plain or any(value is not None for value in settings.values()):
    return jax.lax.dot_general(x, kernel, dimension_numbers, **settings)
  return columns(x, kernel)


def columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, p] and a kernel of columns [p, q] -> [B, q]."""
  return _columns(x, kernel) if use_kernel(x, kernel) else x @ kernel


def rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, p] and a kernel of rows [q, p] -> [B, q]."""
  if cpu.kernels_in_use() and len(x) == 1:
    return (kernel @ x[0])[None, :]  # `@` of matrices would transpose the kernel, 16 MB.
  return _rows(x, kernel) if use_kernel(x, kernel) else x @ kernel.T


def use_kernel(x: jax.Array, *others: jax.Array) -> bool:
  """Whether a kernel is used for x [B, ...] and others.

  Not for a single state: JAX merges products of single states that are mapped over.
  """
  same = all(other.dtype == x.dtype for other in others)
  return cpu.kernels_in_use() and same and len(x) > 1


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
  else:  # Merged with an activation, transposing x takes five times as long.
    for_kernel = apart(jnp.transpose, x) @ gradient
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

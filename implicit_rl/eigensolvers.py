"""Ways to find the two eigenpairs that the rank penalty needs.

A solver takes a symmetric matrix [n, n], finite, float32 or float64, and returns its largest and
smallest eigenvalue [2] with a unit vector of each [2, n]. If an eigenvalue repeats, the vector is
one of its eigenspace. Derivatives are defined where solvers are used, in `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from implicit_rl.cpu.eigenpairs import extreme_eigenpairs

Solver = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def by_eigh(symmetric: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Calls `jnp.linalg.eigh`, JAX's solver for all eigenpairs."""
  values, vectors = jnp.linalg.eigh(symmetric)  # Ascending.
  return jnp.stack([values[-1], values[0]]), jnp.stack([vectors[:, -1], vectors[:, 0]])


def by_squaring(symmetric: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Squares I + G/‖G‖ and I − G/‖G‖ until one eigenspace of each remains.

  This is power iteration with 2^k steps in k products of [2, n, n], in a program without loop or
  branch. After p steps an eigenvalue at a distance g from the end has the weight (1 − g/2‖G‖)^p,
  and so adds at most 2‖G‖/(e·p) to the residual: k is chosen for rounding.
  """
  size, limits = len(symmetric), jnp.finfo(symmetric.dtype)
  if size == 1:
    return by_eigh(symmetric)  # I − G/‖G‖ is zero.
  norm = jnp.linalg.norm(symmetric)  # Frobenius: no eigenvalue is larger.
  scaled, identity = symmetric / jnp.where(norm == 0, 1, norm), jnp.eye(size, dtype=symmetric.dtype)
  powers = jnp.stack([identity + scaled, identity - scaled])  # [2, n, n]
  for step in range(limits.nmant + 2 + math.ceil(math.log2(size) / 2)):
    if step % 3 == 0:  # With trace 1 the largest eigenvalue is at least 1/n, after three n^-8.
      powers /= jnp.trace(powers, axis1=1, axis2=2)[:, None, None]
    powers = jnp.matmul(
      powers, powers.mT, precision='highest'
    )  # The transpose is equal, and keeps rounding symmetric.
  # In a positive matrix the column with the largest diagonal element is far from 0.
  column = jnp.argmax(jnp.diagonal(powers, axis1=1, axis2=2), axis=1)
  vectors = jnp.take_along_axis(powers, column[:, None, None], axis=2)[..., 0]
  vectors /= jnp.max(jnp.abs(vectors), axis=1, keepdims=True)  # The squares would underflow.
  vectors /= jnp.linalg.norm(vectors, axis=1, keepdims=True)
  values = jnp.sum(jnp.matmul(vectors, symmetric, precision='highest') * vectors, axis=1)
  return values, vectors


SOLVERS: dict[str, Solver] = {
  'auto': extreme_eigenpairs,  # bisection on the CPU, `eigh` elsewhere and above 256 rows
  'eigh': by_eigh,
  'squaring': by_squaring,
}

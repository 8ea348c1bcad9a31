"""The two eigenpairs of a small symmetric matrix that the rank penalty needs. Needs only jax.

On a CPU `jnp.linalg.eigh` uses LAPACK and finds every eigenpair: 50 µs for 32 × 32, an eighth of a
MinAtar update. Here the matrix is made tridiagonal, T = QᵀGQ, as in LAPACK. Sturm counts bracket
T's smallest and largest eigenvalue, many shifts at a time, and inverse iteration finds their
vectors (Golub and Van Loan, Matrix Computations, 8.3 and 8.4).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_LARGEST = 256  # Sturm counts are unrolled, which takes a second to compile at this size.
_SHIFTS = 16  # at a time; fewer need more rounds, more do not fit into a CPU's vectors
_ITERATIONS = 2  # of inverse iteration; one is almost always enough
_START = np.random.default_rng(0).uniform(0.5, 1, (2, _LARGEST))


def extreme_eigenpairs(symmetric: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the largest and the smallest eigenvalue and their unit vectors: [n, n] -> [2], [2, n].

  If an eigenvalue repeats, the vector is one of its eigenspace. Do not differentiate. The method
  above is used for matrices of up to 256 rows if JAX's default backend is the CPU, otherwise
  `eigh`.

  Args:
    symmetric: float32 or float64, finite; zero, or with a norm between 1e-12 and 1e18.
  """
  if jax.default_backend() != 'cpu' or not 3 <= len(symmetric) <= _LARGEST:
    values, vectors = jnp.linalg.eigh(symmetric)  # Ascending.
    return jnp.stack([values[-1], values[0]]), jnp.stack([vectors[:, -1], vectors[:, 0]])
  reflectors, diagonal, beside, factors = lax.linalg.tridiagonal(symmetric, lower=True)
  values = _extreme_values(diagonal, beside)
  vectors = _inverse_iteration(diagonal, beside, values, 4)
  # If rounding moves the shift onto an eigenvalue, a pivot may be zero. Under vmap both branches
  # are computed.
  vectors = lax.cond(
    jnp.all(jnp.isfinite(vectors)),
    lambda: vectors,
    lambda: _inverse_iteration(diagonal, beside, values, 64),
  )
  # Q does not change the first coordinate, since its reflectors are below the diagonal.
  rest = lax.linalg.ormqr(reflectors[1:, :-1], factors, vectors[:, 1:].T)
  return values, jnp.concatenate([vectors[:, :1], rest.T], axis=1)


def _inverse_iteration(
  diagonal: jax.Array, beside: jax.Array, values: jax.Array, distance: float
) -> jax.Array:
  """Unit eigenvectors of a tridiagonal matrix: [n], [n − 1], [2] -> [2, n].

  The shifts lie outside the spectrum by `distance` rounding errors, so that all pivots have one
  sign. A matrix of zeros is treated as a tiny one.
  """
  limits = jnp.finfo(diagonal.dtype)
  away = distance * limits.eps * jnp.maximum(jnp.max(jnp.abs(values)), limits.tiny**0.25)
  shifts = values + away * jnp.array([1, -1], values.dtype)
  middle = diagonal[None] - shifts[:, None]  # [2, n]
  zero = jnp.zeros(1, beside.dtype)
  lower = jnp.broadcast_to(jnp.concatenate([zero, beside]), middle.shape)
  upper = jnp.broadcast_to(jnp.concatenate([beside, zero]), middle.shape)
  vectors = jnp.asarray(_START[:, : len(diagonal)], diagonal.dtype)
  for _ in range(_ITERATIONS):
    vectors = lax.linalg.tridiagonal_solve(lower, middle, upper, vectors[..., None])[..., 0]
    vectors /= jnp.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors


def _extreme_values(diagonal: jax.Array, beside: jax.Array) -> jax.Array:
  """Returns largest and smallest eigenvalue of a tridiagonal matrix: [n], [n − 1] -> [2]."""
  size, limits = len(diagonal), jnp.finfo(diagonal.dtype)
  zero = jnp.zeros(1, diagonal.dtype)
  # Gershgorin's discs contain all.
  radius = jnp.concatenate([zero, jnp.abs(beside)]) + jnp.concatenate([jnp.abs(beside), zero])
  low, high = jnp.min(diagonal - radius), jnp.max(diagonal + radius)
  # Fewer than n are below the largest, and fewer than one below the smallest.
  fewer = jnp.array([[size], [1]], diagonal.dtype)
  parts = jnp.arange(1, _SHIFTS + 1, dtype=diagonal.dtype)
  rounds = math.ceil((limits.nmant + 1) / math.log2(_SHIFTS + 1))

  def narrow(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    lows, width = bracket[0], bracket[1] / (_SHIFTS + 1)
    counts = _below(diagonal, beside, lows + width * parts[None])
    return lows + width * jnp.sum(counts < fewer, axis=1, keepdims=True), width

  lows, width = lax.fori_loop(0, rounds, narrow, (jnp.full((2, 1), low), high - low))
  return (lows + width / 2)[:, 0]


def _below(diagonal: jax.Array, beside: jax.Array, shifts: jax.Array) -> jax.Array:
  """Returns how many eigenvalues are below each shift: negative pivots of T − shift (Sturm)."""
  # Never 0, so that after a pivot of 0 the next is infinite and adds nothing.
  squares = jnp.maximum(jnp.square(beside), jnp.finfo(beside.dtype).tiny)
  pivot = diagonal[0] - shifts
  count = (pivot < 0).astype(shifts.dtype)
  for row in range(1, len(diagonal)):
    pivot = diagonal[row] - shifts - squares[row - 1] / pivot
    count += pivot < 0
  return count

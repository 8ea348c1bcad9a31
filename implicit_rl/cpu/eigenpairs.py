"""The two eigenpairs of a small symmetric matrix that the rank penalty needs. Needs jax alone.

On a CPU `jnp.linalg.eigh` is LAPACK's and finds every eigenpair: 50 µs for 32 × 32, an eighth of
a MinAtar update. Here the matrix is made tridiagonal, T = QᵀGQ, as there; T's least and largest
eigenvalue are bracketed by Sturm counts, many shifts at a time, and inverse iteration finds their
vectors (Golub and Van Loan, Matrix Computations, 8.3 and 8.4).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_LARGEST = 256  # Sturm counts are unrolled: a second of compiling for that.
_SHIFTS = 16  # at a time; fewer need more rounds, more do not fit a CPU's vectors
_ITERATIONS = 2  # of inverse iteration; one would nearly always do
_START = np.random.default_rng(0).uniform(0.5, 1, (2, _LARGEST))


def extreme_eigenpairs(symmetric: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the largest and the least eigenvalue and their unit vectors: [n, n] -> [2], [2, n].

  Where an eigenvalue repeats, one vector of its eigenspace. Not to be differentiated. Matrices of
  up to 256 rows take the way above where JAX's default backend is the CPU, others `eigh`.

  Args:
    symmetric: float32 or float64, finite; zero, or of a norm between 1e-12 and 1e18.
  """
  if jax.default_backend() != 'cpu' or not 3 <= len(symmetric) <= _LARGEST:
    values, vectors = jnp.linalg.eigh(symmetric)  # Ascending.
    return jnp.stack([values[-1], values[0]]), jnp.stack([vectors[:, -1], vectors[:, 0]])
  reflectors, diagonal, beside, factors = lax.linalg.tridiagonal(symmetric, lower=True)
  values = _extreme_values(diagonal, beside)
  vectors = _inverse_iteration(diagonal, beside, values, 4)
  # Rounding may have moved the shift onto an eigenvalue, and then a pivot may be zero. Under vmap
  # both are computed.
  vectors = lax.cond(
    jnp.all(jnp.isfinite(vectors)),
    lambda: vectors,
    lambda: _inverse_iteration(diagonal, beside, values, 64),
  )
  # Q leaves the first coordinate, for its reflectors stand below the diagonal.
  rest = lax.linalg.ormqr(reflectors[1:, :-1], factors, vectors[:, 1:].T)
  return values, jnp.concatenate([vectors[:, :1], rest.T], axis=1)


def _inverse_iteration(
  diagonal: jax.Array, beside: jax.Array, values: jax.Array, distance: float
) -> jax.Array:
  """Unit eigenvectors of a tridiagonal matrix: [n], [n − 1], [2] -> [2, n].

  The shifts lie outside the spectrum by `distance` rounding errors, so that all pivots have one
  sign. A matrix of zeros is taken for a tiny one.
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
  """Largest and least eigenvalue of a tridiagonal matrix: [n], [n − 1] -> [2]."""
  size, limits = len(diagonal), jnp.finfo(diagonal.dtype)
  zero = jnp.zeros(1, diagonal.dtype)
  # Gershgorin's discs hold all.
  radius = jnp.concatenate([zero, jnp.abs(beside)]) + jnp.concatenate([jnp.abs(beside), zero])
  low, high = jnp.min(diagonal - radius), jnp.max(diagonal + radius)
  # Below the largest lie fewer than n, below the least fewer than one.
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
  """How many eigenvalues lie below each shift: negative pivots of T − shift (Sturm)."""
  # Never 0, so that a pivot of 0 gives an infinite one next, and that one nothing.
  squares = jnp.maximum(jnp.square(beside), jnp.finfo(beside.dtype).tiny)
  pivot = diagonal[0] - shifts
  count = (pivot < 0).astype(shifts.dtype)
  for row in range(1, len(diagonal)):
    pivot = diagonal[row] - shifts - squares[row - 1] / pivot
    count += pivot < 0
  return count

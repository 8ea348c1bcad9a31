"""The extreme eigenpairs of symmetric matrices, against NumPy in float64."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.cpu import eigenpairs

SIZES = (3, 4, 7, 32, 64, 256)
extreme = jax.jit(eigenpairs.extreme_eigenpairs)


def check(symmetric, values, vectors, tolerance=2e-6):
  """Values, residuals and lengths are right to the rounding of float32, of the norm.

  A residual may be n rounding errors, LAPACK's measure: where rank is low, the float32 matrix
  itself has that wide a cluster about 0, and any vector of it will do (256 rows: 7e-6 was seen).
  """
  rounding = np.finfo(values.dtype).eps
  symmetric = np.asarray(symmetric, np.float64)
  values, vectors = np.asarray(values, np.float64), np.asarray(vectors, np.float64)
  expected = np.linalg.eigvalsh(symmetric)[[-1, 0]]
  norm = max(np.abs(expected))
  np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * norm)
  residual = vectors @ symmetric - expected[:, None] * vectors
  np.testing.assert_allclose(residual, 0, atol=max(tolerance, len(symmetric) * rounding) * norm)
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=tolerance)
  assert values[0] >= values[1]


def gram(rng, n, d, rank=None):
  """Of random features [n, d]."""
  x = (
    rng.normal(size=(n, d))
    if rank is None
    else rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))
  )
  return (x @ x.T).astype(np.float32)


def special(n):
  """Matrices on which eigenvalues repeat, lie together, or the tridiagonal form falls apart."""
  rng = np.random.default_rng(n)
  rotation = np.linalg.qr(rng.normal(size=(n, n)))[0]
  halves = np.r_[np.ones(n // 2), 2 * np.ones(n - n // 2)]
  return {
    'identity': np.eye(n),
    'diagonal': np.diag(rng.uniform(size=n)),
    'ones': np.ones((n, n)),
    'rank one': gram(rng, n, 2 * n, 1),
    'two values': rotation * halves @ rotation.T,
    'near the identity': np.eye(n) + 1e-7 * gram(rng, n, n),
    'duplicates': gram(rng, n, 5)[np.ix_(np.arange(n) // 2, np.arange(n) // 2)],
    'blocks': np.kron(np.eye(-(-n // 2)), np.ones((2, 2)))[:n, :n],
    'graded': np.diag(10.0 ** -np.arange(n).clip(max=30)),
    'Wilkinson': np.diag(abs(np.arange(n) - n // 2)) + np.eye(n, k=1) + np.eye(n, k=-1),
    'dead rows': np.pad(np.ones((2, 2)), (0, n - 2)),
    'negative': -gram(rng, n, n),
    'indefinite': rotation + rotation.T,
  }


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('name', special(3))
def test_special_matrices(name, n):
  symmetric = special(n)[name].astype(np.float32)
  check(symmetric, *extreme(symmetric))


@hypothesis.given(
  st.integers(0, 2**32 - 1), st.sampled_from(SIZES), st.integers(1, 70), st.booleans()
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_features_of_any_rank(seed, n, rank, rectified):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, 2 * n))
  x = np.maximum(x, 0) if rectified else x
  symmetric = (x @ x.T / max(np.abs(x).max(), 1e-3) ** 2).astype(np.float32)
  hypothesis.assume(symmetric.any())
  check(symmetric, *extreme(symmetric))


@pytest.mark.parametrize('n', [1, 2, *SIZES, 257])
def test_zero_and_every_size_by_whichever_way(n):
  zero = np.zeros((n, n), np.float32)
  check(zero, *extreme(zero))
  symmetric = gram(np.random.default_rng(n), n, 2 * n)
  check(symmetric, *extreme(symmetric))


@pytest.mark.parametrize('name', special(3))
def test_the_second_shift_does_as_well(name, monkeypatch):
  monkeypatch.setattr(
    eigenpairs,
    '_inverse_iteration',
    lambda diagonal, beside, values, distance, real=eigenpairs._inverse_iteration: (
      real(diagonal, beside, values, distance) * (np.nan if distance == 4 else 1)
    ),
  )
  symmetric = special(8)[name].astype(np.float32)
  check(symmetric, *eigenpairs.extreme_eigenpairs(symmetric))


def test_mapped_over():
  rng = np.random.default_rng(0)
  many = np.stack([gram(rng, 32, 64), np.zeros((32, 32), np.float32), gram(rng, 32, 64, 3)])
  values, vectors = jax.vmap(extreme)(many)
  for each in zip(many, values, vectors, strict=True):
    check(*each)


def test_float64():
  with jax.enable_x64(True):
    symmetric = np.float64(gram(np.random.default_rng(1), 32, 64))
    values, vectors = extreme(symmetric)
    assert values.dtype == np.float64
    check(symmetric, values, vectors, tolerance=1e-14)

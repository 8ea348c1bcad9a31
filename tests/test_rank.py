"""Rank measures and the penalty against NumPy and SciPy in float64, closed forms and properties."""

import functools
import itertools
import logging
import subprocess
import sys

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from implicit_rl import rank

EPS = float(np.finfo(np.float32).eps)
SVD_ERROR = 16  # Mean |σ_float32 − σ_float64| in units of eps · σ_max; a test asserts it.
SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (8, 8), (5, 40), (32, 32), (40, 12), (16, 64)]
SHAPES += [(64, 64), (100, 30), (32, 128), (96, 64), (96, 96)]
SCALARS = [
  rank.srank,
  rank.stable_rank,
  rank.effective_rank,
  rank.numerical_rank,
  rank.condition_number,
  rank.feature_norm,
  rank.dead_units,
  rank.lp_penalty,
]


@jax.jit
def all_measures(x):
  """SCALARS of `x`, compiled together: [8]."""
  return jnp.stack([measure(x) for measure in SCALARS])


all_gradients = jax.jit(jax.jacrev(all_measures))  # [8, n, d]
name_of = lambda f: getattr(f, '__name__', str(f))
each_scalar = pytest.mark.parametrize('measure', SCALARS, ids=name_of)


def make_matrix(rng, n, d, condition):
  """A float32 matrix with known condition number, one of three spectra, and any scale."""
  m = min(n, d)
  u = np.linalg.qr(rng.normal(size=(n, m)))[0]
  v = np.linalg.qr(rng.normal(size=(d, m)))[0]
  spectra = [
    np.geomspace(1, 1 / condition, m),
    np.linspace(1, 1 / condition, m),
    10 ** -rng.uniform(0, np.log10(condition), m),
  ]
  return ((u * spectra[rng.integers(3)]) @ v.T * 10 ** rng.uniform(-3, 3)).astype(np.float32)


def reference_svd(x):
  return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def reference_srank(values, delta):
  """The paper's definition, written as it stands there."""
  share = np.cumsum(values) / np.sum(values)
  return int(np.flatnonzero(share >= 1 - delta)[0]) + 1


def is_tie(values, delta):
  """Whether singular values within SVD_ERROR could give another rank.

  With Σ|Δσ_i| ≤ e = m · SVD_ERROR · eps · σ_max the tail T and the sum S change by at most e each,
  so T/S near δ changes by at most (1 + δ) · e / S, to first order.
  """
  tails = 1 - np.cumsum(values) / np.sum(values)
  margin = (1 + delta) * len(values) * SVD_ERROR * EPS * values[0] / np.sum(values)
  return np.min(np.abs(tails - delta)) <= margin


def penalty_64(x):
  values = np.linalg.svd(x, compute_uv=False)
  return values[0] ** 2 - values[-1] ** 2


def test_srank_equals_numpy_float64_up_to_condition_1e8():
  rng = np.random.default_rng(0)
  deltas = [0.01, 0.1, 0.001]
  measure = jax.vmap(jax.vmap(rank.srank, (None, 0)), (0, None))
  total = kept = gram_errors = 0
  seen = set()
  for n, d in SHAPES:
    stack = np.stack([make_matrix(rng, n, d, 10 ** rng.uniform(0, 8)) for _ in range(40)])
    for x, found in zip(stack, np.asarray(measure(stack, np.float32(deltas))), strict=True):
      values = reference_svd(x)
      gram = x @ x.T if n <= d else x.T @ x
      roots = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
      for delta, one in zip(deltas, found, strict=True):
        total += 1
        if is_tie(values, delta):
          continue
        kept += 1
        expected = reference_srank(values, delta)
        assert one == expected, (n, d, delta)
        seen.add((n, d, expected))
        gram_errors += reference_srank(roots, delta) != expected
  assert total == 3 * 600
  assert kept >= 0.95 * total
  assert len(seen) > 200  # Many different ranks occurred.
  assert gram_errors > 10  # The matrices are hard enough to tell an SVD from a float32 Gram matrix.


@pytest.mark.parametrize('shape', SHAPES[1::2])
def test_singular_values_equal_numpy(shape):
  rng = np.random.default_rng(1)
  for _ in range(10):
    x = make_matrix(rng, *shape, 10 ** rng.uniform(0, 8))
    expected = reference_svd(x)
    values = rank.singular_values(x)
    assert values.shape == (min(shape),)
    errors = np.abs(values - expected) / (EPS * expected[0])
    assert np.mean(errors) <= SVD_ERROR
    assert np.max(errors) <= 8 * SVD_ERROR
    assert np.all(np.diff(values) <= 0)


def reference_counts(values, rows):
  """PCA rank and Lyle et al.'s feature rank of a float64 spectrum."""
  held = np.cumsum(values**2) / np.sum(values**2)
  return {
    'pca_rank': 1 + np.argmax(held >= 0.99),
    'feature_rank': np.sum(values / np.sqrt(rows) > 0.01),
  }


@pytest.mark.parametrize('shape', [(1, 7), (7, 1), (6, 6), (32, 80), (80, 32)])
def test_every_measure_equals_its_reference(shape):
  rng = np.random.default_rng(2)
  x = np.maximum(rng.normal(size=shape), 0).astype(np.float32)
  x[0, 0] = 1  # Never all zero.
  if shape[1] > 6:
    x[:, [2, 5]] = 0
  values = reference_svd(x)
  shares = values / values.sum()
  expected = {
    'srank': reference_srank(values, 0.05),
    'stable_rank': np.linalg.norm(np.float64(x)) ** 2 / np.linalg.norm(np.float64(x), 2) ** 2,
    'effective_rank': np.exp(scipy.stats.entropy(shares)),
    'numerical_rank': np.linalg.matrix_rank(x),
    'sigma_max': values[0],
    'sigma_min': values[-1],
    'lp_penalty': penalty_64(np.float64(x)),
    'feature_norm': np.mean(np.linalg.norm(np.float64(x), axis=1)),
    'dead_units': np.mean(~np.any(x, axis=0)),
    'dormant_units': np.mean(np.mean(np.abs(np.float64(x)), 0) <= 0.025 * np.mean(np.abs(x))),
    **reference_counts(values, shape[0]),
  }
  found = dict(rank.rank_metrics(x, 0.05, centred=False))
  condition = found.pop('condition_number')
  assert set(found) == set(expected)
  for key, value in expected.items():
    np.testing.assert_allclose(found[key], value, rtol=3e-6, atol=3e-6, err_msg=key)
  alone = dict(zip(map(name_of, SCALARS), all_measures(x), strict=True))
  for key in alone.keys() - {'srank', 'condition_number'}:
    np.testing.assert_allclose(alone[key], expected[key], rtol=3e-6, atol=3e-6, err_msg=key)
  if np.linalg.cond(np.float64(x)) < 1e4:
    np.testing.assert_allclose(condition, np.linalg.cond(np.float64(x)), rtol=1e-3)
  else:
    assert condition > 0.1 / EPS


@pytest.mark.parametrize('shape', [(1, 7), (7, 1), (6, 6), (32, 80), (80, 32)])
def test_every_rank_of_centred_features_equals_its_reference(shape):
  rng = np.random.default_rng(3)
  x = np.maximum(rng.normal(size=shape), 0).astype(np.float32) + np.float32(2)
  found = dict(rank.rank_metrics(x, 0.05, spectra=True))
  wide = np.float64(x) - np.float64(x).mean(axis=0)
  values = np.linalg.svd(wide, compute_uv=False)
  np.testing.assert_allclose(rank.centred(x), wide, atol=1e-6)
  np.testing.assert_array_equal(found.pop('singular_values'), rank.singular_values(x))
  np.testing.assert_allclose(found.pop('centred_singular_values'), values, rtol=1e-5, atol=1e-5)
  raw = {name for name in found if not name.startswith('centred_')}
  assert raw == set(rank.rank_metrics(x, centred=False))
  ranks = {name for name in raw if name.endswith('rank')}
  assert len(ranks) == 6 and set(found) == raw | {f'centred_{name}' for name in ranks}
  if shape[0] == 1:
    assert all(found[f'centred_{name}'] == 0 for name in ranks)
    return
  shares = values[values > 0] / values.sum()
  expected = {
    'srank': reference_srank(values, 0.05),
    'stable_rank': np.sum(values**2) / values[0] ** 2,
    'effective_rank': np.exp(scipy.stats.entropy(shares)),
    'numerical_rank': min(shape[0] - 1, shape[1]),
    **reference_counts(values, shape[0]),
  }
  for key, value in expected.items():
    np.testing.assert_allclose(found[f'centred_{key}'], value, rtol=1e-5, err_msg=key)


def test_a_dominating_mean_is_gone_once_centred():
  rng = np.random.default_rng(4)
  x = (rng.normal(size=(200, 10)) + 1000).astype(np.float32)
  found = rank.rank_metrics(x)
  assert found['pca_rank'] == 1 and found['srank'] == 1
  assert found['centred_pca_rank'] == 10 and found['centred_srank'] == 10
  equal = np.full((2048, 5), 0.1, np.float32)  # Whose mean, in float32, is another number.
  assert rank.rank_metrics(equal)['centred_numerical_rank'] == 0
  assert not np.any(rank.centred(equal))


def test_feature_rank_depends_on_the_scale_and_not_on_repeated_rows():
  x = np.diag(np.float32([4, 1, 0.5, 0.019])) * 0.02  # √n is 2: the threshold on σ is 0.02.
  assert rank.feature_rank(x) == 1  # 1 · 0.02 is not above it.
  assert rank.feature_rank(2 * x) == 2
  assert rank.feature_rank(x[[0, 1, 2, 3] * 50]) == 1
  assert rank.feature_rank(np.float32(1e38) * np.eye(3, dtype=np.float32)) == 3


def test_dormant_units_by_hand():
  x = np.float32([[1, 0.03, 0, -1], [1, 0.03, 0, 3]])  # Mean sizes 1, 0.03, 0, 2: of all 0.7575.
  np.testing.assert_allclose(rank.dormancy_scores(x), np.array([1, 0.03, 0, 2]) / 0.7575, rtol=1e-6)
  assert rank.dormant_units(x) == rank.dormant_units(x, 0) == rank.dead_units(x) == 0.25
  assert rank.dormant_units(x, 0.1) == 0.5
  assert rank.dormant_units(np.zeros((3, 2))) == 1  # No unit does anything.
  assert np.isnan(rank.dormant_units(np.float32([[1, np.nan]])))
  assert rank.dormant_units(np.zeros((3, 0))) == 0


def test_one_pass_gives_the_condition_number_of_a_regular_matrix():
  x = make_matrix(np.random.default_rng(3), 20, 50, 100.0)
  np.testing.assert_allclose(rank.condition_number(x), np.linalg.cond(np.float64(x)), rtol=1e-4)


def test_a_spectrum_at_hand_costs_no_second_svd():
  x = make_matrix(np.random.default_rng(4), 40, 30, 1e3)
  values = rank.singular_values(x)
  shuffled = np.random.default_rng(0).permutation(values)
  assert rank.srank_from_singular_values(shuffled) == rank.srank(x)
  # 6 + 3 + 1 = 10: the first two hold nine tenths.
  assert rank.srank_from_singular_values([6, 3, 1], 0.1) == 2
  assert rank.srank_from_singular_values([6, 3, 1], 0.099) == 3
  assert rank.srank_from_singular_values([3e38, 3e38]) == 2
  assert rank.srank_from_singular_values([0.0, 0.0]) == 0
  assert rank.srank_from_singular_values([]) == 0
  for bad in ([1, np.nan], [1, np.inf], [1, -1]):
    assert np.isnan(rank.srank_from_singular_values(bad))
  with pytest.raises(ValueError, match='1 dimension'):
    rank.srank_from_singular_values(x)


@pytest.mark.parametrize('host', [False, True])
def test_eigenvalue_srank_equals_numpy(monkeypatch, host):
  if host:  # What GPUs and TPUs run.
    measure = jax.jit(
      lambda x: rank.srank_from_singular_values(rank._host_eigenvalue_norms(jnp.asarray(x)))
    )
  else:
    measure = rank.eigenvalue_srank
  rng = np.random.default_rng(5)
  stack, expected = [], []
  while len(stack) < 30:
    # A spiral source: complex pairs, norms from 1 to 1e-3, and well away from normal.
    blocks = [10 ** -rng.uniform(0, 3) * np.array([[1, -1], [1, 1]]) for _ in range(6)]
    basis = rng.normal(size=(12, 12)) + 4 * np.eye(12)
    x = basis @ scipy.linalg.block_diag(*blocks) @ np.linalg.inv(basis)
    norms = np.sort(np.abs(np.linalg.eigvals(np.float64(np.float32(x)))))[::-1]
    tails = 1 - np.cumsum(norms) / norms.sum()
    if np.min(np.abs(tails - 0.01)) > 1e-4:
      stack.append(np.float32(x))
      expected.append(reference_srank(norms, 0.01))
  np.testing.assert_array_equal([measure(x) for x in stack], expected)
  np.testing.assert_array_equal(jax.vmap(measure)(np.stack(stack)), expected)
  assert len(set(expected)) > 3


def test_eigenvalue_srank_in_special_cases():
  normal = np.diag([5.0, -3.0, 1.0, 0.001])
  assert rank.eigenvalue_srank(normal) == rank.srank(normal) == 3
  assert rank.eigenvalue_srank(np.zeros((3, 3))) == 0
  assert rank.eigenvalue_srank(np.zeros((0, 0))) == 0
  assert np.isnan(rank.eigenvalue_srank([[1.0, np.nan], [0.0, 1.0]]))
  np.testing.assert_array_equal(jax.grad(rank.eigenvalue_srank)(jnp.eye(3)), np.zeros((3, 3)))
  with pytest.raises(ValueError, match='square'):
    rank.eigenvalue_srank(np.ones((3, 4)))


# --- the penalty -------------------------------------------------------------------------------


def directional(function, x, direction, h=1e-6):
  return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


@pytest.mark.parametrize('shape', [(6, 9), (9, 6), (32, 64), (12, 12)])
def test_penalty_gradient_equals_float64_central_differences(shape):
  rng = np.random.default_rng(6)
  x = rng.normal(size=shape).astype(np.float32)
  np.testing.assert_allclose(rank.lp_penalty(x), penalty_64(np.float64(x)), rtol=1e-5)
  gradient = np.float64(jax.grad(rank.lp_penalty)(x))
  for _ in range(10):
    direction = rng.normal(size=shape)
    expected = directional(penalty_64, np.float64(x), direction)
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert abs(np.sum(gradient * direction) - expected) < 3e-5 * scale
  with jax.enable_x64(True):
    exact = jax.grad(rank.lp_penalty)(np.float64(x))
    assert exact.dtype == jnp.float64
    np.testing.assert_allclose(np.sum(np.asarray(exact) * direction), expected, rtol=1e-6)


def test_penalty_gradient_through_a_network():
  rng = np.random.default_rng(7)
  sizes = [10, 24, 16]
  pairs = itertools.pairwise(sizes)
  weights = [np.float32(rng.normal(size=pair) / np.sqrt(pair[0])) for pair in pairs]
  inputs = np.float32(rng.normal(size=(12, 10)))

  def features(weights, inputs, xp):
    for weight in weights:
      inputs = xp.maximum(inputs @ weight, 0)
    return inputs

  gradient = jax.grad(lambda w: rank.lp_penalty(features(w, inputs, jnp)))(weights)
  reference = lambda w: penalty_64(features(w, np.float64(inputs), np))
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradient))
  for _ in range(10):
    directions = [rng.normal(size=w.shape) for w in weights]
    moved = [
      [np.float64(w) + h * d for w, d in zip(weights, directions, strict=True)]
      for h in (1e-6, -1e-6)
    ]
    expected = (reference(moved[0]) - reference(moved[1])) / 2e-6
    found = sum(np.sum(g * d) for g, d in zip(gradient, directions, strict=True))
    assert abs(found - expected) < 3e-5 * norm * np.sqrt(sum(np.sum(d**2) for d in directions))


def degenerate_matrices():
  rng = np.random.default_rng(8)
  x = rng.normal(size=(8, 12)).astype(np.float32)
  dead_columns, zero_rows, duplicates = x.copy(), x.copy(), x.copy()
  dead_columns[:, ::2] = 0
  zero_rows[::2] = 0
  duplicates[1::2] = x[::2]
  return {
    'all zero': 0 * x,
    'dead columns': dead_columns,
    'dead columns, tall': np.ascontiguousarray(zero_rows.T),
    'zero rows': zero_rows,
    'duplicate rows': duplicates,
    'equal rows': np.tile(x[:1], (8, 1)),
    'rank one': np.outer(x[:, 0], x[0]),
    'identity': np.eye(8, dtype=np.float32),
    'orthogonal': np.linalg.qr(x[:, :8])[0],
    'duplicate directions': np.tile(np.eye(4, dtype=np.float32), (2, 3)),
    'one row': x[:1],
    'one column': x[:, :1],
    'one number': x[:1, :1],
    'constant': np.ones((8, 12), np.float32),
    'no rows': x[:0],
    'no columns': x[:, :0],
  }


DEGENERATE = degenerate_matrices()


@jax.jit
def penalty_and_gradient(x):
  return jax.value_and_grad(rank.lp_penalty)(x)


@jax.jit
def sum_of_singular_values_gradient(x):
  return jax.grad(lambda x: jnp.sum(rank.singular_values(x)))(x)


@pytest.mark.parametrize('name', DEGENERATE)
def test_degenerate_matrices_have_finite_values_and_gradients(name):
  x = DEGENERATE[name]
  values = reference_svd(x) if x.size else np.zeros(1)
  tolerance = 1e-5 * max(values[0] ** 2, 1)
  value, gradient = penalty_and_gradient(x)
  np.testing.assert_allclose(value, values[0] ** 2 - values[-1] ** 2, atol=tolerance)
  assert np.all(np.isfinite(gradient))
  # Euler: the penalty is homogeneous of degree 2, for every subgradient.
  np.testing.assert_allclose(np.sum(gradient * x), 2 * value, atol=4 * tolerance)
  positive = values > max(x.shape) * EPS * values[0]
  assert rank.numerical_rank(x) == np.sum(positive)
  assert rank.srank(x) == (reference_srank(values, 0.01) if values[0] > 0 else 0)
  assert np.all(np.isfinite(sum_of_singular_values_gradient(x)))
  for measure, value, gradient in zip(SCALARS, all_measures(x), all_gradients(x), strict=True):
    if measure is not rank.condition_number:  # inf, and so is its gradient.
      assert np.isfinite(value) and np.all(np.isfinite(gradient)), measure


@pytest.mark.parametrize(
  'measure', [rank.stable_rank, rank.effective_rank, rank.feature_norm, rank.condition_number]
)
def test_other_gradients_equal_central_differences(measure):
  with jax.enable_x64(True):
    rng = np.random.default_rng(9)
    x = rng.normal(size=(5, 8))
    direction = rng.normal(size=x.shape)
    found = np.sum(np.asarray(jax.grad(measure)(x)) * direction)
    expected = directional(lambda y: float(measure(y)), x, direction)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradients_of_single_singular_values():
  with jax.enable_x64(True):
    rng = np.random.default_rng(10)
    x, direction = rng.normal(size=(2, 7, 4))
    jacobian = np.asarray(jax.jacobian(rank.singular_values)(x))  # [4, 7, 4]
    expected = directional(lambda y: np.linalg.svd(y, compute_uv=False), x, direction)
    np.testing.assert_allclose(np.einsum('kij,ij->k', jacobian, direction), expected, rtol=1e-6)


# --- the defined outcomes ----------------------------------------------------------------------


def test_zero_and_empty_matrices():
  for shape in ((4, 6), (0, 5), (5, 0), (0, 0)):
    found = rank.rank_metrics(np.zeros(shape))
    dead = 1.0 if shape[1] else 0.0
    dormant = {'dead_units': dead, 'dormant_units': dead}
    expected = dict.fromkeys(found, 0.0) | {'condition_number': np.inf, **dormant}
    assert {key: float(value) for key, value in found.items()} == expected
    assert rank.singular_values(np.zeros(shape)).shape == (min(shape),)


@pytest.mark.parametrize('size', [50, 100, 200, 300, 512])
def test_equal_singular_values_count_exactly(size):
  expected = size - size // 100  # 1 % of them may be left out; "≥" decides the exact tie.
  assert rank.srank(np.eye(size)) == expected
  assert rank.srank_from_singular_values(np.full(size, 3.7)) == expected


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_non_finite_features_give_nan_never_a_rank(bad):
  x = np.ones((5, 4), np.float32)
  x[2, 1] = bad
  assert np.all(np.isnan(all_measures(x)))
  assert np.all(np.isnan(rank.singular_values(x)))
  assert all(np.isnan(value) for value in rank.rank_metrics(x).values())
  for measure, gradient in zip(SCALARS, all_gradients(x), strict=True):
    if measure not in (rank.srank, rank.numerical_rank, rank.dead_units):
      assert np.all(np.isnan(gradient)), measure  # A zero would hide the fault from the training.


@each_scalar
def test_shapes_other_than_two_dimensions_are_refused(measure):
  for shape in ((), (4,), (2, 3, 4)):
    with pytest.raises(ValueError, match=r'features must have 2 dimension.*vmap'):
      measure(np.ones(shape))
  with pytest.raises(TypeError, match='real'):
    measure(np.ones((2, 2), np.complex64))


def test_delta_outside_its_range():
  x = np.eye(3)
  calls = [rank.srank, rank.eigenvalue_srank, rank.rank_metrics]
  calls.append(lambda x, delta: rank.srank_from_singular_values(x[0], delta))
  for call in calls:
    for delta in (0, 1, -0.1, 2, np.nan):
      with pytest.raises(ValueError, match='between 0 and 1'):
        call(x, delta)
    with pytest.raises(ValueError, match='single number'):
      call(x, np.array([0.1, 0.2]))
  deltas = np.float32([0.01, 0.5, 0, 1, -1, np.nan])
  traced = jax.vmap(rank.srank, (None, 0))(x, deltas)
  np.testing.assert_array_equal(traced, [3, 2, np.nan, np.nan, np.nan, np.nan])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.bool_])
def test_narrow_dtypes_are_computed_in_float32(dtype):
  x = jnp.asarray(np.random.default_rng(11).integers(0, 3, (6, 9)), dtype)
  found, expected = rank.rank_metrics(x), rank.rank_metrics(x.astype(jnp.float32))
  assert all(value.dtype == jnp.float32 for value in found.values())
  assert found == expected
  assert rank.singular_values(x).dtype == rank.lp_penalty(x).dtype == jnp.float32


@pytest.mark.parametrize('dtype', [np.int64, np.uint64])
def test_wide_integers_are_not_cut_to_32_bits(dtype):
  """Without float64 JAX would wrap them: 2**40 would be 0."""
  x = np.diag(np.array([2**40, 2**33 + 7, 2**35], dtype)) + dtype(2**32)
  for features in (x, x.tolist()):
    assert rank.srank(features) == rank.srank(x.astype(np.float64)) == 3
    np.testing.assert_allclose(rank.singular_values(features), reference_svd(x), rtol=1e-5)
  assert rank.srank(np.full((3, 3), 2**40, dtype)) == 1
  assert rank.srank_from_singular_values(np.array([2**40, 2**40], dtype)) == 2


def test_float64_stays_float64():
  x = make_matrix(np.random.default_rng(12), 20, 20, 1e7).astype(np.float64)
  with jax.enable_x64(True):
    values = rank.singular_values(x)
    assert values.dtype == rank.lp_penalty(x).dtype == rank.stable_rank(x).dtype == jnp.float64
    np.testing.assert_allclose(values, reference_svd(x), atol=1e-13 * float(values[0]))
    assert rank.srank(x).dtype == jnp.float32
    assert rank.eigenvalue_srank(x, 1e-6) == reference_srank(
      np.sort(np.abs(np.linalg.eigvals(x)))[::-1], 1e-6
    )


@pytest.mark.parametrize('scale', [1e-33, 1e-20, 1e20, 1e38])
def test_scale_changes_no_rank(scale):
  x = make_matrix(np.random.default_rng(13), 24, 40, 50.0)
  x /= np.max(np.abs(x))
  base, scaled = rank.rank_metrics(x), rank.rank_metrics(x * np.float32(scale))
  names = ['srank', 'numerical_rank', 'stable_rank', 'effective_rank', 'condition_number']
  for name in [*names, 'dead_units']:
    np.testing.assert_allclose(scaled[name], base[name], rtol=2e-5, err_msg=name)
  for name in ('sigma_max', 'feature_norm'):
    np.testing.assert_allclose(scaled[name], base[name] * scale, rtol=1e-5, err_msg=name)
  square = x[:, :24]
  assert rank.eigenvalue_srank(square) == rank.eigenvalue_srank(square * np.float32(scale))


def test_penalty_beyond_float32():
  x = np.random.default_rng(14).normal(size=(4, 6)).astype(np.float32)
  assert rank.lp_penalty(x * np.float32(1e20)) == np.inf
  assert rank.lp_penalty(x * np.float32(1e-25)) == 0
  assert rank.lp_penalty(np.eye(4) * 1e20) == 0
  large = x * np.float32(1e17)
  np.testing.assert_allclose(rank.lp_penalty(large), penalty_64(np.float64(large)), rtol=1e-5)
  assert np.all(np.isfinite(jax.grad(rank.lp_penalty)(large)))


# --- properties --------------------------------------------------------------------------------

property_test = lambda f: hypothesis.settings(
  max_examples=20, deadline=None, derandomize=True, database=None
)(f)
matrices = st.builds(
  lambda seed, shape, power: make_matrix(np.random.default_rng(seed), *shape, 10.0**power),
  st.integers(0, 2**32 - 1),
  st.sampled_from([(1, 5), (6, 6), (12, 30), (30, 12)]),
  st.floats(0, 8),
)


@property_test
@hypothesis.given(matrices, st.integers(0, 1000), st.sampled_from([0.01, 0.1]))
def test_srank_is_invariant(x, seed, delta):
  hypothesis.assume(not is_tie(reference_svd(x), delta))
  n, d = x.shape
  rng = np.random.default_rng(seed)
  expected = rank.srank(x, delta)
  rotation = np.linalg.qr(rng.normal(size=(n, n)))[0] @ x @ np.linalg.qr(rng.normal(size=(d, d)))[0]
  hypothesis.assume(not is_tie(reference_svd(np.float32(rotation)), delta))
  assert rank.srank(rotation, delta) == expected
  assert rank.srank(x[rng.permutation(n)][:, rng.permutation(d)], delta) == expected
  assert rank.srank(x.T, delta) == expected
  assert rank.srank(-x, delta) == expected
  assert rank.srank(x * np.float32(2.0**-40), delta) == expected
  assert rank.srank(np.concatenate([x, np.zeros((3, d), np.float32)]), delta) == expected
  assert rank.srank(np.concatenate([x, np.zeros((n, 2), np.float32)], axis=1), delta) == expected


@property_test
@hypothesis.given(matrices)
def test_bounds_and_order(x):
  m = min(x.shape)
  sranks = [int(rank.srank(x, delta)) for delta in (0.001, 0.01, 0.1, 0.5, 0.99)]
  assert sranks == sorted(sranks, reverse=True)
  assert 1 <= sranks[-1] and sranks[0] <= m
  found = {key: float(value) for key, value in rank.rank_metrics(x).items()}
  assert 1 - 1e-5 <= found['stable_rank'] <= found['numerical_rank'] * (1 + 1e-4)
  assert 1 - 1e-5 <= found['effective_rank'] <= m * (1 + 1e-5)
  assert found['numerical_rank'] <= m and found['condition_number'] >= 1
  assert found['sigma_max'] <= np.linalg.norm(np.float64(x)) * (1 + 1e-5)
  scale = found['sigma_max'] ** 2
  assert 0 <= rank.lp_penalty(x) <= scale * (1 + 1e-5)
  np.testing.assert_allclose(rank.lp_penalty(x), found['lp_penalty'], atol=1e-5 * scale)


@property_test
@hypothesis.given(matrices, st.integers(0, 1000))
def test_penalty_is_invariant_and_homogeneous(x, seed):
  rng = np.random.default_rng(seed)
  value, scale = rank.lp_penalty(x), reference_svd(x)[0] ** 2
  shuffled = x[rng.permutation(x.shape[0])][:, rng.permutation(x.shape[1])]
  np.testing.assert_allclose(rank.lp_penalty(shuffled), value, atol=1e-5 * scale)
  np.testing.assert_allclose(rank.lp_penalty(x.T), value, atol=1e-5 * scale)
  assert rank.lp_penalty(x * 4) == value * 16  # Powers of two scale exactly.


# --- transformations ---------------------------------------------------------------------------


def test_vmap_equals_a_loop():
  rng = np.random.default_rng(15)
  stack = np.stack([make_matrix(rng, 10, 16, 100.0) for _ in range(4)])
  stack[1] = 0
  stack[2, 3, 3] = np.nan
  batched = jax.vmap(all_measures)(stack)
  np.testing.assert_allclose(batched, [all_measures(x) for x in stack], rtol=1e-5)
  gradients = jax.vmap(all_gradients)(stack)
  for one, x in zip(gradients, stack, strict=True):
    for found, expected in zip(one, all_gradients(x), strict=True):
      scale = np.nan_to_num(np.max(np.abs(expected)))
      np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_the_same_shape_is_compiled_once(caplog):
  rng = np.random.default_rng(16)
  calls = [*SCALARS, rank.singular_values, rank.rank_metrics]
  calls += [functools.partial(rank.srank, delta=delta) for delta in (0.02, 0.3)]
  fresh = lambda: jnp.asarray(rng.normal(size=(9, 11)), jnp.float32)
  for call in calls:
    call(fresh())
  inputs = fresh()
  with jax.log_compiles(), caplog.at_level(logging.DEBUG, 'jax'):
    for call in calls:
      call(inputs)
    assert 'ompil' not in caplog.text
    rank.srank(inputs[:5])  # A new shape is: the log does see compilations.
    assert 'ompil' in caplog.text


def test_inside_jit_and_from_lists():
  x = [[3.0, 0.0], [0.0, 4.0]]
  assert jax.jit(rank.srank)(jnp.asarray(x)) == rank.srank(x) == 2
  np.testing.assert_allclose(jax.jit(rank.lp_penalty)(jnp.asarray(x)), 16 - 9, rtol=1e-6)
  np.testing.assert_allclose(rank.feature_norm(x), 3.5, rtol=1e-6)
  np.testing.assert_allclose(rank.stable_rank(x), 25 / 16, rtol=1e-6)


def test_import_needs_jax_alone():
  code = (
    'import sys, implicit_rl.rank\n'
    "heavy = ('tensorflow', 'dopamine', 'flax', 'optax', 'gin', 'chex', 'tensorflow_datasets')\n"
    'print([name for name in heavy if name in sys.modules])'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == '[]'

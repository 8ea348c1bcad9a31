"""Eigenpairs by squaring, and the penalty from them, against NumPy in float64.

Kinds, sizes and tolerances are those of the CPU's solver: `tests/cpu/test_eigenpairs.py`.
"""

import functools

import gin
import jax
import jax.export
import numpy as np
import pytest

from implicit_rl import eigensolvers, learner, rank  # noqa: F401  # gin names
from tests.cpu.test_eigenpairs import check, gram, special
from tests.test_rank import DEGENERATE, EPS
from tests.test_rank_derivatives import gradient_64, hessian_product_64, matrices

squaring = jax.jit(eigensolvers.by_squaring)
penalty = functools.partial(rank.lp_penalty, solver='squaring')


@pytest.mark.parametrize('n', [3, 4, 7, 32, 64])
@pytest.mark.parametrize('name', special(3))
def test_special_matrices(name, n):
  symmetric = special(n)[name].astype(np.float32)
  check(symmetric, *squaring(symmetric))


@pytest.mark.parametrize('n', [1, 2, 33, 256])
def test_zero_and_odd_sizes(n):
  for symmetric in (np.zeros((n, n), np.float32), gram(np.random.default_rng(n), n, 2 * n)):
    check(symmetric, *squaring(symmetric))


def random_grams(count, n, seed):
  """Gram matrices [count, n, n] of features of random rank, half of them rectified, scaled."""
  rng = np.random.default_rng(seed)
  ranks = rng.integers(1, n + 1, count)
  left = rng.normal(size=(count, n, n)) * (np.arange(n) < ranks[:, None])[:, None]
  x = left @ rng.normal(size=(n, 2 * n))
  x[::2] = np.maximum(x[::2], 0)
  x[::5] *= 10.0 ** -rng.uniform(0, 4, (len(x[::5]), n, 1))  # Rows of different size.
  x *= (10.0 ** rng.uniform(-4, 4, count))[:, None, None]
  return (x @ x.mT).astype(np.float32)


def test_ten_thousand_random_matrices():
  solve = jax.jit(jax.vmap(squaring))
  for seed in range(10):
    many = random_grams(1000, 32, seed)
    values, vectors = map(np.float64, solve(many))
    expected = np.linalg.eigvalsh(np.float64(many))[:, [-1, 0]]
    norm = expected[:, :1]
    np.testing.assert_array_less(np.abs(values - expected) / norm, 2e-6)
    residual = vectors @ np.float64(many) - expected[..., None] * vectors
    np.testing.assert_array_less(np.abs(residual) / norm[..., None], 32 * EPS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, rtol=2e-6)


def test_float64():
  with jax.enable_x64(True):
    symmetric = np.float64(gram(np.random.default_rng(1), 32, 64))
    values, vectors = squaring(symmetric)
    assert values.dtype == np.float64
    check(symmetric, values, vectors, tolerance=1e-14)


def test_the_penalty_of_degenerate_matrices_and_its_derivatives():

  @jax.jit
  def measured(x, direction):
    value, gradient = jax.value_and_grad(penalty)(x)
    return value, gradient, *jax.jvp(jax.grad(penalty), (x,), (direction,))

  shapes = {}
  for name, x in DEGENERATE.items():
    shapes.setdefault(x.shape, []).append(name)
  for shape, names in shapes.items():
    x = np.stack([DEGENERATE[name] for name in names])
    for one, value, gradient, _, along in zip(x, *jax.vmap(measured)(x, x), strict=True):
      squares = np.linalg.svd(np.float64(one), compute_uv=False) ** 2 if one.size else np.zeros(1)
      scale = max(squares[0], 1)
      np.testing.assert_allclose(value, squares[0] - squares[-1], atol=1e-5 * scale)
      # Euler: homogeneous of degree 2, so <gradient, Φ> is twice the value, and the Hessian maps Φ
      # to the gradient.
      np.testing.assert_allclose(np.sum(gradient * one), 2 * value, atol=4e-5 * scale)
      size = np.abs(gradient).max(initial=0)
      np.testing.assert_allclose(along, gradient, atol=2e-4 * size, err_msg=f'{names} {shape}')


@pytest.mark.parametrize('shape', [(5, 3), (12, 12), (32, 40)])
def test_first_and_second_derivatives_equal_float64_ones(shape):
  x, directions = matrices(shape, seed=sum(shape))
  expected = np.stack([hessian_product_64(*one) for one in zip(x, directions, strict=True)])
  with jax.enable_x64(True):
    product = lambda x, v: jax.jvp(jax.grad(penalty), (x,), (v,))
    gradient, found = map(np.asarray, jax.jit(jax.vmap(product))(x, directions))
  slopes = np.stack([gradient_64(one) for one in x])
  np.testing.assert_allclose(gradient, slopes, atol=1e-9 * np.abs(slopes).max())
  size = np.abs(expected).max(axis=(1, 2)) + 1
  np.testing.assert_array_less(np.abs(found - expected).max(axis=(1, 2)) / size, 1e-6)


def test_the_penalty_composes():
  x, v = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
  gradient = jax.grad(penalty)(x)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  close(jax.jvp(penalty, (x,), (v,))[1], np.vdot(gradient, v))
  close(jax.linearize(penalty, x)[1](v), np.vdot(gradient, v))
  close(jax.grad(jax.checkpoint(penalty))(x), gradient)
  close(jax.lax.scan(lambda carry, y: (carry, penalty(y)), 0, np.stack([v, x]))[1][1], penalty(x))
  close(jax.grad(lambda y: jax.jvp(penalty, (y,), (v,))[1])(x), _along(penalty, x, v))


def _along(penalty, x, v):
  return jax.jvp(jax.grad(penalty), (x,), (v,))[1]


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_a_gradient_on_an_accelerator_calls_no_library(platform):
  features = jax.ShapeDtypeStruct((32, 512), np.float32)
  found = {}
  for solver in ('eigh', 'squaring'):
    gradient = jax.jit(jax.grad(functools.partial(rank.lp_penalty, solver=solver)))
    text = jax.export.export(gradient, platforms=[platform])(features).mlir_module()
    found[solver] = 'custom_call' in text, 'stablehlo.while' in text
  assert found['eigh'][0] and found['squaring'] == (False, False)


def test_an_unknown_solver_is_named():
  with pytest.raises(ValueError, match=r'lp_penalty.solver must be one of auto, .*svd'):
    rank.lp_penalty(np.eye(3), solver='svd')


def test_gin_chooses_the_solver():
  gin.parse_config('rank.lp_penalty.solver = "svd"')
  chosen = gin.get_configurable(rank.lp_penalty)
  with pytest.raises(ValueError, match='svd'):
    chosen(np.eye(3))
  gin.clear_config()
  gin.parse_config('rank.lp_penalty.solver = "squaring"')
  x = np.diag(np.float32([3, 2, 1]))
  assert chosen(x) == penalty(x) and abs(chosen(x) - 8) < 1e-5

"""Second derivatives of the penalty against float64, and every measure under JAX's transformations.

A Hessian-vector product's reference is the central difference of the gradient in NumPy's float64:
∇L_p(Φ) = 2 (u uᵀΦ − w wᵀΦ) for the unit vectors u and w of λ_max and λ_min of Φ·Φᵀ.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl import rank
from tests.cases import cases
from tests.test_rank import DEGENERATE, SCALARS, name_of

SHAPES = [(2, 2), (3, 5), (5, 3), (6, 8), (12, 12), (32, 40), (40, 20)]
EACH = 30  # matrices of a shape; 210 in all


def gradient_64(x):
  wide = x if x.shape[0] <= x.shape[1] else x.T
  _, vectors = np.linalg.eigh(wide @ wide.T)
  least, largest = vectors[:, 0], vectors[:, -1]
  gradient = 2 * (np.outer(largest, largest @ wide) - np.outer(least, least @ wide))
  return gradient if wide is x else gradient.T


def hessian_product_64(x, direction, h=1e-6):
  return (gradient_64(x + h * direction) - gradient_64(x - h * direction)) / (2 * h)


def forward_over_reverse(x, direction):
  return jax.jvp(jax.grad(rank.lp_penalty), (x,), (direction,))[1]


def reverse_over_reverse(x, direction):
  return jax.grad(lambda y: jnp.vdot(jax.grad(rank.lp_penalty)(y), direction))(x)


def reverse_over_forward(x, direction):
  return jax.grad(lambda y: jax.jvp(rank.lp_penalty, (y,), (direction,))[1])(x)


WAYS = [forward_over_reverse, reverse_over_reverse, reverse_over_forward]


def spectra(rng, m):
  """Singular values [m]: generic, and repeated, tiny or zero where the penalty is still smooth."""
  generic = np.sort(rng.uniform(0.1, 3, m))[::-1]
  inner = generic.copy()
  inner[1:-1] = 1.0  # All but the largest and the least are equal.
  inner[0], inner[-1] = 2.0, 0.4
  singular = generic.copy()
  singular[-1] = 0  # The kernel has one dimension.
  inner_singular = inner.copy()
  inner_singular[-1] = 0
  return [generic, inner, singular, inner_singular]


def matrices(shape, seed):
  """EACH matrices and directions of a shape, by turns random and with one of `spectra`."""
  rng = np.random.default_rng(seed)
  m = min(shape)
  drawn, directions = [], rng.normal(size=(EACH, *shape))
  for number in range(EACH):
    if number % 5 == 4:
      drawn.append(rng.normal(size=shape))
      continue
    u = np.linalg.qr(rng.normal(size=(shape[0], m)))[0]
    v = np.linalg.qr(rng.normal(size=(shape[1], m)))[0]
    drawn.append(u * spectra(rng, m)[number % 5] @ v.T)
  return np.stack(drawn), directions


@pytest.mark.parametrize(
  ('way', 'shape'),
  cases(
    itertools.product(WAYS, SHAPES),
    lambda way, shape: way is forward_over_reverse or shape in ((5, 3), (32, 40)),
  ),
  ids=lambda one: getattr(one, '__name__', str(one)),
)
def test_hessian_vector_products_equal_float64_central_differences(way, shape):
  x, directions = matrices(shape, seed=sum(shape))
  expected = np.stack([hessian_product_64(*one) for one in zip(x, directions, strict=True)])
  with jax.enable_x64(True):
    found = np.asarray(jax.jit(jax.vmap(way))(x, directions))
    assert found.dtype == np.float64
  size = np.abs(expected).max(axis=(1, 2)) + 1
  np.testing.assert_array_less(np.abs(found - expected).max(axis=(1, 2)) / size, 1e-6)
  narrow = jax.jit(jax.vmap(way))(np.float32(x), np.float32(directions))
  # A float32 eigenvector is known to rounding over the gap to the next eigenvalue.
  squares = np.linalg.svd(x, compute_uv=False) ** 2
  ends = np.minimum(squares[:, 0] - squares[:, 1], squares[:, -2] - squares[:, -1])
  apart = ends > 0.02 * squares[:, 0]
  assert apart.any()
  error = np.abs(narrow - expected).max(axis=(1, 2)) / size
  np.testing.assert_array_less(error[apart], 2e-3)


@pytest.mark.parametrize('name', DEGENERATE)
@pytest.mark.parametrize('way', WAYS, ids=name_of)
def test_second_derivatives_of_degenerate_matrices_are_finite(way, name):
  x = DEGENERATE[name]
  direction = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
  found = jax.jit(way)(x, direction)
  assert np.all(np.isfinite(found))
  # Euler: the gradient is homogeneous of degree 1, so the Hessian maps Φ to it.
  along = jax.jit(way)(x, x)
  gradient = jax.grad(rank.lp_penalty)(x)
  scale = np.abs(gradient).max(initial=0)
  np.testing.assert_allclose(along, gradient, atol=2e-4 * scale)


def test_second_derivatives_of_non_finite_features_are_nan():
  x = np.ones((3, 4), np.float32)
  x[1, 1] = np.inf
  assert np.all(np.isnan(forward_over_reverse(x, np.ones_like(x))))


def test_a_gradient_on_a_cpu_needs_no_full_eigenproblem():
  x = jax.ShapeDtypeStruct((32, 64), np.float32)
  direction = x
  texts = [
    jax.jit(f).lower(*args).as_text()
    for f, args in [
      (jax.grad(rank.lp_penalty), (x,)),
      (lambda x, v: jax.jvp(rank.lp_penalty, (x,), (v,)), (x, direction)),
      (forward_over_reverse, (x, direction)),
    ]
  ]
  full = ['lapack_ssyevd' in text for text in texts]
  assert full == ([False, False, True] if jax.default_backend() == 'cpu' else full)


def _of_spectrum(x):
  return rank.srank_from_singular_values(rank.singular_values(x))


MEASURES = [
  *SCALARS,
  rank.singular_values,
  rank.eigenvalue_srank,
  _of_spectrum,
  lambda x: rank.rank_metrics(x)['lp_penalty'],
]


@pytest.mark.parametrize(
  'measure',
  cases(
    ((one,) for one in MEASURES), (rank.srank, rank.effective_rank, rank.lp_penalty).__contains__
  ),
  ids=name_of,
)
def test_every_measure_composes_with_jaxs_transformations(measure):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x, v = jnp.asarray(rng.normal(size=(2, 5, 5)))
    value = measure(x)
    total = jax.jit(lambda y: jnp.sum(jnp.sin(measure(y))))
    slope = jax.jit(jax.grad(total))
    gradient = slope(x)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8)
    close(jax.jit(measure)(x), value)
    close(jax.jit(jax.vmap(measure))(jnp.stack([x, v]))[0], value)
    close(jax.jvp(total, (x,), (v,))[1], jnp.vdot(gradient, v))
    close(jax.linearize(total, x)[1](v), jnp.vdot(gradient, v))
    close(jax.grad(jax.checkpoint(total))(x), gradient)
    assert jax.make_jaxpr(jax.grad(total))(x).eqns
    _, values = jax.lax.scan(lambda carry, y: (carry, measure(y)), 0, jnp.stack([v, x]))
    close(values[1], value)
    by_hessian = jnp.einsum('ijkl,kl->ij', jax.jit(jax.hessian(total))(x), v)
    h = 1e-6
    expected = (slope(x + h * v) - slope(x - h * v)) / (2 * h)
    np.testing.assert_allclose(by_hessian, expected, rtol=1e-5, atol=1e-5)
    close(jax.jit(jax.grad(lambda y: jnp.vdot(slope(y), v)))(x), by_hessian)
    close(jax.jit(lambda y: jax.jvp(jax.grad(total), (y,), (v,))[1])(x), by_hessian)

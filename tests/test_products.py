"""Products of inputs and kernels, and their gradients, against NumPy in float64."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_rl import products

# On both sides of where the way to compute changes: one state, small layers, small minibatches.
SIZES = st.sampled_from([1, 2, 5, 31, 32, 40, 130])
PRODUCTS = {
  'columns': (products.columns, lambda x, kernel: x @ kernel, lambda p, q: (p, q)),
  'rows': (products.rows, lambda x, kernel: x @ kernel.T, lambda p, q: (q, p)),
}


def drawn(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize('name', PRODUCTS)
@given(batch=SIZES, inputs=SIZES, outputs=SIZES)
@settings(max_examples=30, deadline=None)
def test_products_and_their_gradients(name, batch, inputs, outputs):
  product, expected, kernel_shape = PRODUCTS[name]
  x, kernel, gradient = drawn(0, (batch, inputs), kernel_shape(inputs, outputs), (batch, outputs))
  value, pull = jax.vjp(jax.jit(product), x, kernel)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  x, kernel, gradient = (np.asarray(a, np.float64) for a in (x, kernel, gradient))
  close(value, expected(x, kernel))
  for_x, for_kernel = pull(gradient.astype(np.float32))
  close(for_kernel, x.T @ gradient if name == 'columns' else gradient.T @ x)
  close(for_x, gradient @ (kernel.T if name == 'columns' else kernel))


@pytest.mark.parametrize('lead', [(3,), (4, 3), (2, 4, 3)])
def test_a_dense_layer_is_flaxs(lead):
  x, *_ = drawn(1, (*lead, 40))
  ours = nn.Dense(50, dot_general=products.dot_general)
  params = ours.init(jax.random.PRNGKey(0), x)
  loss = lambda layer: lambda params, x: (layer.apply(params, x) ** 2).sum()
  got, expected = (jax.grad(loss(layer), (0, 1))(params, x) for layer in (ours, nn.Dense(50)))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), got, expected)


@pytest.mark.parametrize('batch', [1, 6])
def test_seeds_side_by_side_have_their_own_gradients(batch):
  x, kernels = drawn(2, (3, batch, 40), (3, 40, 50))
  gradient = jax.grad(lambda kernel, x: (products.columns(x, kernel) ** 2).sum())
  together = jax.jit(jax.vmap(gradient))(kernels, x)
  for kernel, own, got in zip(kernels, x, together, strict=True):
    np.testing.assert_allclose(got, 2 * own.T @ (own @ kernel), rtol=1e-4, atol=1e-3)


def test_other_dimensions_than_a_dense_layers_are_refused():
  x, kernel = drawn(3, (4, 5), (6, 5))
  with pytest.raises(ValueError, match='dense layer'):
    products.dot_general(x, kernel, (((1,), (1,)), ((), ())))
  with pytest.raises(ValueError, match='dense layer'):
    products.dot_general(x, kernel[None], (((1,), (2,)), ((), ())))


@pytest.mark.usefixtures('compiled_fully')
def test_a_kernels_gradient_runs_along_rows():
  """A turned copy is a step of its own, which is what makes it cheap."""

  @jax.jit
  def gradient(x, kernel):
    return jax.grad(lambda k: (products.columns(jax.nn.relu(x), k) ** 2).sum())(kernel)

  text = gradient.lower(*drawn(4, (256, 256), (256, 256))).compile().as_text()
  assert 'conditional(' in text and 'lhs_contracting_dims={0}' not in text

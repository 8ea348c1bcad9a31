"""Products of inputs and kernels, and their gradients, against NumPy in float64."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_rl.cpu import matmul

pytestmark = pytest.mark.usefixtures('cpu_kernels')

# On both sides of where the way to compute changes: one state, small layers, small minibatches.
SIZES = st.sampled_from([1, 2, 5, 31, 32, 40, 130])
PRODUCTS = {
  'columns': (matmul.columns, lambda x, kernel: x @ kernel, lambda p, q: (p, q)),
  'rows': (matmul.rows, lambda x, kernel: x @ kernel.T, lambda p, q: (q, p)),
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


@pytest.mark.parametrize('lead', [(), (0,), (3,), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize('settings', [{}, {'precision': 'highest'}, {'dtype': 'bfloat16'}])
def test_a_dense_layer_is_flaxs(lead, settings):
  x, *_ = drawn(1, (*lead, 40))
  ours, flaxs = (nn.Dense(50, dot_general=d, **settings) for d in (matmul.dot_general, None))
  params = ours.init(jax.random.PRNGKey(0), x)
  loss = lambda layer: lambda params, x: (layer.apply(params, x).astype('float32') ** 2).sum()
  got, expected = (jax.grad(loss(layer), (0, 1))(params, x) for layer in (ours, flaxs))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
  jax.tree.map(close if 'dtype' not in settings else lambda *_: None, got, expected)
  assert jax.tree.map(lambda g: (g.shape, g.dtype), got) == jax.tree.map(
    lambda g: (g.shape, g.dtype), expected
  )
  texts = [jax.jit(layer.apply).lower(params, x).as_text() for layer in (ours, flaxs)]
  assert ('HIGHEST' in texts[0]) == ('HIGHEST' in texts[1]) == ('precision' in settings)


@pytest.mark.parametrize('name', PRODUCTS)
def test_mixed_dtypes_give_each_its_own(name):
  product, _, kernel_shape = PRODUCTS[name]
  x, kernel = drawn(5, (6, 40), kernel_shape(40, 50))
  x = x.astype('bfloat16')
  for_x, for_kernel = jax.grad(lambda x, k: product(x, k).sum(), (0, 1))(x, kernel)
  assert (for_x.dtype, for_kernel.dtype) == (x.dtype, kernel.dtype)


@pytest.mark.parametrize('name', PRODUCTS)
@pytest.mark.parametrize('batch', [1, 6])
def test_seeds_side_by_side_have_their_own_gradients(name, batch):
  product, expected, kernel_shape = PRODUCTS[name]
  x, kernels = drawn(2, (3, batch, 40), (3, *kernel_shape(40, 50)))
  gradient = jax.grad(lambda kernel, x: (product(x, kernel) ** 2).sum())
  together = jax.jit(jax.vmap(gradient))(kernels, x)
  for kernel, own, got in zip(kernels, x, together, strict=True):
    by_value = 2 * expected(own, kernel)
    wanted = own.T @ by_value if name == 'columns' else by_value.T @ own
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)


def test_a_step_apart_is_the_function_also_side_by_side():
  keys = jax.random.split(jax.random.PRNGKey(0), 3)
  draw = lambda key: jax.random.normal(key, (4,))
  together = jax.jit(jax.vmap(functools.partial(matmul.apart, draw)))(keys)
  np.testing.assert_array_equal(together, [draw(key) for key in keys])


@pytest.mark.skipif("jax.default_backend() != 'cpu'")
@pytest.mark.usefixtures('compiled_fully')
def test_a_kernels_gradient_runs_along_rows():
  """A turned copy is a step of its own, which is what makes it cheap."""

  @jax.jit
  def gradient(x, kernel):
    return jax.grad(lambda k: (matmul.columns(jax.nn.relu(x), k) ** 2).sum())(kernel)

  text = gradient.lower(*drawn(4, (256, 256), (256, 256))).compile().as_text()
  assert 'conditional(' in text and 'lhs_contracting_dims={0}' not in text

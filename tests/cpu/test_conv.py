"""The convolution of frames against Flax's, with its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from implicit_rl.cpu import conv as convolutions
from implicit_rl.layers import Conv

pytestmark = pytest.mark.usefixtures('cpu_kernels')


def frames(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def applied(convolution):
  """What a convolution computes, after its rectifier if it has one."""

  def apply(params, x):
    done = convolution.apply(params, x)
    return done.activation if convolution.rectify else done

  return apply


def flaxs(width, size, stride, padding, rectify):
  conv = nn.Conv(width, (size, size), (stride, stride), padding)
  activate = nn.relu if rectify else lambda y: y

  def apply(params, state):
    x = convolutions.stack_to_channels(state).astype(jnp.float32) / 255.0
    return activate(conv.apply(params, x))

  return apply


@pytest.mark.parametrize(
  'shape',
  [
    (2, 4, 20, 20),
    (32, 4, 16, 12),
    (1, 4, 20, 20),  # One state.
    (5, 1, 9, 12),
    (3, 3, 9, 7),  # Not of whole words.
    (2, 2, 12, 12, 3),  # In colour.
  ],
)
@pytest.mark.parametrize('padding', ['SAME', pytest.param('VALID', marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize('rectify', [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_values_and_gradients_are_those_of_flaxs_convolution(shape, padding, rectify):
  setting = (5, 4, 3, padding)  # Strides that leave a rest.
  state = frames(*shape)
  ours = Conv(*setting, frames=True, rectify=rectify)
  params = ours.init(jax.random.PRNGKey(1), state)
  params['params']['bias'] = jnp.arange(-2.0, 3.0)
  outputs = applied(ours)(params, state)
  np.testing.assert_allclose(outputs, flaxs(*setting, rectify)(params, state), rtol=1e-5, atol=1e-5)
  direction = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
  loss = lambda apply: lambda params: jnp.sum(apply(params, state) * direction)
  found, expected = (jax.grad(loss(f))(params) for f in (applied(ours), flaxs(*setting, rectify)))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), found, expected)


def test_seeds_side_by_side_have_their_own_gradients():
  ours, states = Conv(5, 4, 2, 'SAME', frames=True), frames(3, 8, 4, 12, 12)
  params = jax.vmap(lambda key: ours.init(key, states[0]))(jax.random.split(jax.random.key(0), 3))
  gradient = jax.grad(lambda params, state: jnp.sum(ours.apply(params, state) ** 2))
  together = jax.vmap(gradient)(params, states)
  for seed in range(3):
    alone = gradient(jax.tree.map(lambda x, s=seed: x[s], params), states[seed])
    jax.tree.map(
      lambda x, y, s=seed: np.testing.assert_allclose(x[s], y, rtol=1e-4, atol=1e-4),
      together,
      alone,
    )


def test_bytes_keep_their_places_when_they_are_turned_by_words():
  state = frames(3, 2, 4, 6)
  turned = convolutions._turned(jnp.asarray(state))
  np.testing.assert_array_equal(turned, state.transpose(1, 2, 3, 0))


@pytest.mark.parametrize('dtype', [bool, np.float32])
def test_other_frames_than_bytes_have_the_same_values(dtype):
  state = frames(3, 4, 12, 12) // 128
  ours = Conv(5, 4, 2, frames=True)
  params = ours.init(jax.random.PRNGKey(1), state)
  np.testing.assert_allclose(
    ours.apply(params, state.astype(dtype)), ours.apply(params, state), rtol=1e-6
  )


@pytest.mark.parametrize('of', ['parameters', 'images'])
def test_mixed_dtypes_give_each_its_own(of):
  """As Flax's convolution, which computes in the wider one."""
  x = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
  ours, theirs = Conv(5, 3, rectify=True), nn.Conv(5, (3, 3))
  params = ours.init(jax.random.PRNGKey(1), x)
  narrow = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)
  params, x = (narrow(params), x) if of == 'parameters' else (params, narrow(x))
  found = jax.grad(lambda p: jnp.sum(applied(ours)(p, x) ** 2))(params)
  expected = jax.grad(lambda p: jnp.sum(nn.relu(theirs.apply(p, x)) ** 2))(params)
  assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, expected)
  close = lambda a, b: np.testing.assert_allclose(
    np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0.05, atol=0.05
  )
  jax.tree.map(close, found, expected)


@pytest.mark.usefixtures('compiled_fully')
def test_on_a_cpu_frames_are_turned_by_words_and_rectified_flat():
  ours, state = Conv(8, 4, 2, frames=True, rectify=True), frames(16, 4, 20, 20)
  params = ours.init(jax.random.PRNGKey(1), state)
  gradient = jax.jit(jax.grad(lambda params, state: jnp.sum(applied(ours)(params, state) ** 2)))
  text = gradient.lower(params, state).compile().as_text()
  on_cpu = jax.default_backend() == 'cpu'
  assert ('u32[400,16]' in text) == on_cpu
  assert ('f32[16,800]' in text) == on_cpu
  expected = jax.grad(lambda p: jnp.sum(flaxs(8, 4, 2, 'SAME', True)(p, state) ** 2))(params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3),
    gradient(params, state),
    expected,
  )

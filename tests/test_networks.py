"""Networks: shapes, named features, and equality with Flax's and Dopamine's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from implicit_rl import networks
from implicit_rl.cpu import conv
from implicit_rl.heads import QHead
from tests.dopamine_parameters import as_dopamines

KEY = jax.random.PRNGKey(0)


@pytest.mark.parametrize(
  ('network', 'shape', 'dtype', 'width'),
  [
    (networks.NatureCNN, (3, 4, 84, 84), np.uint8, 512),
    (networks.SmallCNN, (3, 4, 84, 84), np.uint8, 256),
    (networks.MinAtarCNN, (3, 1, 10, 10, 6), np.uint8, 128),
    (networks.MLP, (3, 1, 16), np.float32, 64),
  ],
)
def test_outputs(network, shape, dtype, width):
  module = network(num_actions=5)
  state = np.ones(shape, dtype)
  outputs = module.apply(module.init(KEY, state), state)
  assert outputs.q_values.shape == (3, 5)
  assert outputs.features.shape == (3, width)
  assert outputs.q_values.dtype == outputs.features.dtype == np.float32
  assert (np.asarray(outputs.features) >= 0).all(), 'features are taken after the activation'


@pytest.mark.parametrize(
  ('network', 'shape'),
  [
    (functools.partial(networks.NatureCNN, hidden_units=8), (3, 4, 84, 84)),
    (networks.SmallCNN, (3, 4, 84, 84)),
    (networks.MinAtarCNN, (3, 1, 10, 10, 6)),
    (functools.partial(networks.MLP, activation='linear'), (3, 1, 16)),
  ],
)
def test_layer_norm_takes_mean_and_scale_off_every_hidden_layer(network, shape):
  """At the start, gain 1 and bias 0, each state's units have mean 0 and variance 1."""
  plain, normed = network(num_actions=5), network(num_actions=5, layer_norm=True)
  state = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  capture = lambda module, _: isinstance(module, nn.LayerNorm)
  _, seen = jax.jit(functools.partial(normed.init_with_output, capture_intermediates=capture))(
    KEY, state
  )
  added = {name for name in seen['params'] if name.startswith('LayerNorm')}
  layers = set(jax.eval_shape(plain.init, KEY, state)['params'])
  assert set(seen['params']) == layers | added
  assert len(added) == len(layers) - 1, 'all but the last layer, which is the head'
  for name in added:
    (x,) = seen['intermediates'][name]['__call__']
    x = np.asarray(x, np.float64).reshape(len(state), -1)
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(x.var(1), 1, rtol=1e-2)


@pytest.mark.parametrize(('padding', 'inputs'), [('SAME', 7744), ('VALID', 3136)])
def test_nature_cnn_flat_size(padding, inputs):
  module = networks.NatureCNN(num_actions=4, padding=padding)
  params = module.init(KEY, np.zeros((1, 4, 84, 84), np.uint8))
  assert params['params']['RowDense_0']['kernel'].shape == (512, inputs)


def test_nature_cnn_equals_dopamines():
  """The same parameters give the same Q-values, frames last there and first here."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax import networks as dopamine_networks

  state = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
  ours, theirs = networks.NatureCNN(num_actions=6), dopamine_networks.NatureDQNNetwork(6)
  params = ours.init(KEY, state)
  same = as_dopamines(params)
  expected = jax.vmap(lambda s: theirs.apply(same, s).q_values)(state.transpose(0, 2, 3, 1))
  np.testing.assert_allclose(ours.apply(params, state).q_values, expected, rtol=1e-4, atol=1e-5)


def test_small_cnn_sees_each_frame_at_half_its_size():
  """The largest of four neighbours is all that a network gets of them."""
  small = networks.SmallCNN(num_actions=3)
  state = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
  largest = state.reshape(2, 4, 42, 2, 42, 2).max((3, 5))
  params = small.init(KEY, state)
  spread = largest.repeat(2, axis=2).repeat(2, axis=3)
  ours, expected = (small.apply(params, s).q_values for s in (state, spread))
  np.testing.assert_array_equal(ours, expected)
  assert not np.array_equal(small.apply(params, state // 2).q_values, ours)


def test_patch_conv_equals_flax_conv_with_its_gradient():
  x = jax.random.normal(KEY, (2, 10, 10, 4))
  ours, theirs = networks.PatchConv(16), nn.Conv(16, (3, 3), padding='VALID')
  params = ours.init(KEY, x)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, theirs.init(KEY, x))
  params = jax.tree.map(lambda p: p + 0.1, params)  # So that the bias counts too.
  np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-4, atol=1e-4)
  gradients = [
    jax.grad(lambda p, m=m: jnp.sum(jnp.sin(m.apply(p, x))))(params) for m in (ours, theirs)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *gradients)


def test_stacked_colour_frames_become_channels():
  state = np.arange(2 * 3 * 2 * 2 * 5).reshape(2, 3, 2, 2, 5)
  channels = conv.stack_to_channels(jnp.asarray(state))
  assert channels.shape == (2, 2, 2, 15)
  np.testing.assert_array_equal(np.sort(channels[1, 0, 1]), np.sort(state[1, :, 0, 1].ravel()))


def test_flat_observations_are_refused_by_image_networks():
  with pytest.raises(ValueError, match='MLP'):
    networks.MinAtarCNN(num_actions=3).init(KEY, np.zeros((1, 4)))


def test_unknown_activation_is_named():
  with pytest.raises(ValueError, match="not 'rleu'"):
    networks.MLP(num_actions=3, activation='rleu').init(KEY, np.zeros((1, 4)))


@pytest.mark.parametrize('noisy', [False, True])
def test_one_state_has_the_values_that_it_has_among_others(noisy):
  """Acting multiplies a large kernel with a vector, learning with a matrix."""
  state = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
  module = networks.NatureCNN(num_actions=6, head=QHead(noisy=noisy))
  params = module.init(KEY, state)
  values = jax.jit(lambda s: module.apply(params, s, rngs={'noise': KEY}).q_values)
  alone = np.concatenate([values(state[i : i + 1]) for i in range(3)])
  np.testing.assert_allclose(alone, values(state), rtol=1e-5, atol=1e-6)

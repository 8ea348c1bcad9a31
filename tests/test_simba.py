"""SimBa's networks against NumPy in float64."""

import jax
import numpy as np
import pytest

from implicit_rl import networks, simba
from implicit_rl.heads import C51Head, HLGaussHead, QHead
from implicit_rl.layer_graph import layer_graph

KEY = jax.random.PRNGKey(0)
STATES = np.random.default_rng(0).normal(size=(4, 1, 6)).astype(np.float32)
SIZES = {'actor_width': 3, 'critic_width': 5}


def made(network, shift=0.1):
  """Parameters that have left their initial values, so that biases and gains count."""
  return jax.tree.map(lambda p: p + shift, network.init(KEY, STATES))


def dense(x, layer):
  return x @ np.asarray(layer['kernel'], np.float64) + np.asarray(layer['bias'], np.float64)


def norm(x, layer):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * np.asarray(layer['scale'], np.float64) + np.asarray(layer['bias'], np.float64)


def encoded(x, params, blocks):
  """Features, and each block's inner layer before its rectifier."""
  x, inner = dense(x.astype(np.float64), params['Dense_0']), []
  for i in range(blocks):
    block = params[f'ResidualBlock_{i}']
    inner.append(dense(norm(x, block['LayerNorm_0']), block['Dense_0']))
    x = x + dense(np.maximum(inner[-1], 0), block['Dense_1'])
  return norm(x, params['LayerNorm_0']), inner


@pytest.mark.parametrize('blocks', [1, 3])
def test_a_value_network_is_numpys(blocks):
  network = simba.SimBa(num_actions=3, width=5, blocks=blocks, expansion=2)
  params = made(network)
  outputs = network.apply(params, STATES)
  features, inner = encoded(STATES[:, 0], params['params']['Encoder_0'], blocks)
  np.testing.assert_allclose(outputs.features, features, rtol=1e-4, atol=1e-5)
  q_values = dense(features, params['params']['Dense_0'])
  np.testing.assert_allclose(outputs.q_values, q_values, rtol=1e-4, atol=1e-4)
  names = tuple(f'Encoder_0/ResidualBlock_{i}/Dense_0' for i in range(blocks))
  assert networks.hidden_layers(network, STATES) == names
  for name, x in zip(names, inner, strict=True):
    assert x.shape == (4, 10)
    np.testing.assert_allclose(outputs.layers[name].preactivation, x, rtol=1e-4, atol=1e-4)


def test_policy_and_critics_are_numpys():
  network = simba.SimBaActorCritic(num_actions=2, **SIZES)
  params = made(network)
  action = np.random.default_rng(1).uniform(-1, 1, (4, 2)).astype(np.float32)
  outputs = network.apply(params, STATES, action, method='critics')
  own = params['params']
  x = np.concatenate([STATES[:, 0], action], axis=1)
  for k in range(2):
    features, _ = encoded(x, own[f'critic_hidden_{k}'], 2)
    np.testing.assert_allclose(outputs.features[k], features, rtol=1e-4, atol=1e-4)
    value = dense(features, own[f'critic_value_{k}'])[:, 0]
    np.testing.assert_allclose(outputs.q_values[:, k], value, rtol=1e-4, atol=1e-4)
  features, _ = encoded(STATES[:, 0], own['actor_hidden'], 1)
  mean = network.apply(params, STATES, method='actor').mean
  np.testing.assert_allclose(mean, dense(features, own['actor_mean']), rtol=1e-4, atol=1e-4)


def test_sizes_and_initialisation_are_the_authors():
  params = simba.SimBaActorCritic(num_actions=2).init(KEY, STATES)['params']
  assert params['critic_hidden_0']['ResidualBlock_1']['Dense_0']['kernel'].shape == (512, 2048)
  assert params['actor_hidden']['ResidualBlock_0']['Dense_0']['kernel'].shape == (128, 512)
  assert 'ResidualBlock_1' not in params['actor_hidden']
  embed = np.asarray(params['critic_hidden_0']['Dense_0']['kernel'], np.float64)
  np.testing.assert_allclose(embed @ embed.T, np.eye(8), atol=1e-5)
  inner = np.asarray(params['critic_hidden_0']['ResidualBlock_0']['Dense_0']['kernel'])
  np.testing.assert_allclose(inner.std(), np.sqrt(2 / 512), rtol=0.02)


def test_the_layer_graph_knows_the_inner_layers():
  network = simba.SimBa(num_actions=3, width=5, blocks=2)
  graph = layer_graph(lambda key: network.init(key, STATES))
  for i, (name, layer) in enumerate(graph.layers.items()):
    block = ('params', 'Encoder_0', f'ResidualBlock_{i}')
    assert name == '/'.join(block[1:]) + '/Dense_0' and layer.units == 20
    assert [kernel.path for kernel in layer.incoming] == [(*block, 'Dense_0', 'kernel')]
    assert [kernel.path for kernel in layer.outgoing] == [(*block, 'Dense_1', 'kernel')]


@pytest.mark.parametrize('head', [QHead(dueling=True), C51Head(num_atoms=5), HLGaussHead()])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_every_head_and_dtype_fits(head, dtype):
  network = simba.SimBa(num_actions=3, width=5, head=head, dtype=dtype)
  outputs = network.apply(network.init(KEY, STATES), STATES)
  assert outputs.q_values.shape == (4, 3) and outputs.q_values.dtype == np.float32
  assert np.isfinite(outputs.q_values).all()


@pytest.mark.parametrize(
  ('network', 'message'),
  [
    (simba.SimBa(num_actions=3, blocks=0), 'SimBa blocks must be a whole number of at least 1'),
    (simba.SimBa(num_actions=3, head=QHead(noisy=True)), 'SimBa has no noisy layers'),
    (simba.SimBa(num_actions=3, activation='rleu'), "SimBa.activation must be .*'rleu'"),
    (
      simba.SimBaActorCritic(num_actions=2, hidden_units=(64, 64)),
      r'SimBaActorCritic.hidden_units must be \(256, 256\)',
    ),
    (
      simba.SimBaActorCritic(num_actions=2, feature_norm=True),
      'SimBaActorCritic.feature_norm must be False',
    ),
  ],
)
def test_settings_out_of_place_are_named(network, message):
  with pytest.raises(ValueError, match=message):
    network.init(KEY, STATES)


def test_frames_of_bytes_are_refused():
  with pytest.raises(ValueError, match=r'SimBa takes flat observations, got frames \(84, 84\)'):
    simba.SimBa(num_actions=3).init(KEY, np.zeros((1, 4, 84, 84), np.uint8))

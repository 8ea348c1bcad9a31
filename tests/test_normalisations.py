"""RMS, feature and spectral norm, Hadamard layers: against NumPy in float64, in every network."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from implicit_rl import networks
from implicit_rl.heads import QHead
from implicit_rl.layer_graph import layer_graph
from implicit_rl.normalisations import spectral_norm, unit_length
from tests.cases import cases
from tests.test_networks import LAYERS, NETWORKS, made

PENULTIMATE = {name: layers[-1:] for name, layers in LAYERS.items()}
PENULTIMATE['ActorCritic'] = ('critic_hidden_0/Dense_1', 'critic_hidden_1/Dense_1')


def double(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def at(params, path):
  return functools.reduce(lambda tree, key: tree[key], path.split('/'), params['params'])


@pytest.mark.parametrize('name', NETWORKS)
def test_rms_norm_divides_every_hidden_layer_by_its_root_mean_square(name):
  network, params, states = made(name, layer_norm='rms')
  capture = lambda module, _: isinstance(module, nn.RMSNorm)
  _, seen = network.apply(params, states, capture_intermediates=capture)
  found = jax.tree_util.tree_flatten_with_path(seen['intermediates'])[0]
  policys = 2 if name == 'ActorCritic' else 0
  assert len(found) == len(LAYERS[name]) + policys
  for path, x in found:
    assert set(at(params, '/'.join(key.key for key in path[:-2]))) == {'scale'}
    x = np.asarray(x, np.float64).reshape(len(states), -1)
    np.testing.assert_allclose(np.mean(x**2, axis=1), 1, rtol=1e-2)


def test_rms_norm_is_numpys():
  network, params, states = made('MLP', layer_norm='rms', hidden_units=(8,))
  params['params']['RMSNorm_0']['scale'] = jnp.linspace(-1, 2, 8)
  layer = double(params)['params']['Dense_0']
  x = states.reshape(len(states), -1).astype(np.float64) @ layer['kernel'] + layer['bias']
  expected = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-6) * np.linspace(-1, 2, 8)
  found = network.apply(params, states).layers['Dense_0'].preactivation
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_feature_norm_gives_the_head_features_of_length_one(name):
  network, params, states = made(name, feature_norm=True)
  outputs = network.apply(params, states)
  features = outputs.features if name == 'ActorCritic' else (outputs.features,)
  for path, found in zip(PENULTIMATE[name], features, strict=True):
    phi = np.asarray(outputs.layers[path].activation, np.float64)
    np.testing.assert_allclose(found, phi / np.linalg.norm(phi, axis=1, keepdims=True), rtol=1e-5)
  last = 'critic_value_0' if name == 'ActorCritic' else f'Dense_{len(set(params["params"])) - 1}'
  if name in ('MLP', 'ActorCritic'):  # What the head reads is what is reported.
    head = double(at(params, last))
    q_values = np.asarray(features[0], np.float64) @ head['kernel'] + head['bias']
    np.testing.assert_allclose(
      np.asarray(outputs.q_values)[:, : q_values.shape[1]], q_values, rtol=1e-4, atol=1e-5
    )
  if name == 'ActorCritic':
    plain = made(name)[0].apply(params, states, method='actor')
    policy = network.apply(params, states, method='actor')
    np.testing.assert_array_equal(policy.mean, plain.mean)


def test_unit_length_has_the_projections_gradient_and_none_at_zero():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
  jacobian = jax.vmap(jax.jacobian(unit_length))(x)
  for one, found in zip(double(x), jacobian, strict=True):
    length = np.linalg.norm(one)
    expected = (np.eye(5) - np.outer(one, one) / length**2) / length
    np.testing.assert_allclose(found, expected, atol=1e-5)
  assert not np.any(unit_length(jnp.zeros((2, 3))))
  assert np.isfinite(jax.grad(lambda x: jnp.sum(unit_length(x)))(jnp.zeros((2, 3)))).all()


def with_spectrum(shape, sigma, seed=0):
  """A matrix with the given singular values."""
  rng = np.random.default_rng(seed)
  u, _ = np.linalg.qr(rng.normal(size=(shape[0], len(sigma))))
  v, _ = np.linalg.qr(rng.normal(size=(shape[1], len(sigma))))
  return u * sigma @ v.T, u, v


@pytest.mark.parametrize('shape', [(9, 30), (30, 9)])
def test_power_iteration_finds_the_largest_singular_value_and_its_gradient(shape):
  kernel, u, v = with_spectrum(shape, np.array([5.0, 3.0, 2.0, 0.5]))
  np.testing.assert_allclose(spectral_norm(jnp.asarray(kernel), 20), 5, rtol=1e-5)
  gradient = jax.grad(lambda kernel: spectral_norm(kernel, 20))(jnp.asarray(kernel))
  np.testing.assert_allclose(gradient, np.outer(u[:, 0], v[:, 0]), atol=1e-4)
  estimates = [float(spectral_norm(jnp.asarray(kernel), k)) for k in (1, 2, 5, 10)]
  assert estimates == sorted(estimates) and estimates[-1] <= 5 * (1 + 1e-6)


def test_five_iterations_find_most_of_random_weights_norm():
  """Where no direction leads; as many as the mix-in takes."""
  bound = (6 / (512 + 3136)) ** 0.5
  kernel = np.random.default_rng(1).uniform(-bound, bound, (512, 3136))
  found = spectral_norm(jnp.asarray(kernel), 5) / np.linalg.norm(kernel, 2)
  assert 0.9 < found <= 1


@pytest.mark.parametrize(
  'name', cases(((one,) for one in NETWORKS), ('NatureCNN', 'ActorCritic').__contains__)
)
@pytest.mark.parametrize('layer_norm', [False, True])
def test_spectral_norm_divides_the_weights_that_lead_to_the_features(name, layer_norm):
  """Computed by an SVD, all layers but the penultimate are as they were."""
  settings = {'layer_norm': layer_norm}
  network, params, states = made(name, spectral_norm=200, **settings)
  plain, same, _ = made(name, **settings)
  jax.tree.map(np.testing.assert_array_equal, params, same)  # No parameter more.
  params = jax.tree.map(lambda p: p + 0.05, params)  # So that biases count.
  divided = jax.tree.map(lambda x: x, params)
  for path in PENULTIMATE[name]:
    layer = at(divided, path)
    layer['kernel'] = layer['kernel'] / np.linalg.norm(np.asarray(layer['kernel'], np.float64), 2)
  outputs, expected = network.apply(params, states), plain.apply(divided, states)
  scale = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(expected))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4 * max(scale, 1)),
    outputs,
    expected,
  )


def test_spectral_norms_gradient_is_that_of_the_divided_weights():
  """Against finite differences of NumPy's SVD in float64."""
  network, params, states = made('MLP', spectral_norm=100, hidden_units=(6,), activation='tanh')
  states = states / 256

  def values(kernel):
    own = double(params)['params']
    x = states.reshape(len(states), -1).astype(np.float64) @ (kernel / np.linalg.norm(kernel, 2))
    x = np.tanh(x + own['Dense_0']['bias'])
    return np.sum(x @ own['Dense_1']['kernel'] + own['Dense_1']['bias'])

  gradient = jax.grad(lambda p: jnp.sum(network.apply(p, states).q_values))(params)
  found = gradient['params']['Dense_0']['kernel']
  kernel = double(params['params']['Dense_0']['kernel'])
  expected = np.zeros_like(kernel)
  for index in np.ndindex(*kernel.shape):
    step = np.zeros_like(kernel)
    step[index] = 1e-6
    expected[index] = (values(kernel + step) - values(kernel - step)) / 2e-6
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_hadamard_layer_is_the_product_of_two():
  network, params, states = made('MLP', activation='hadamard')
  states = states / 256
  own = double(params)['params']
  x = states.reshape(len(states), -1)
  for one, other in (('Dense_0', 'Dense_1'), ('Dense_2', 'Dense_3')):
    assert not np.array_equal(own[one]['kernel'], own[other]['kernel'])
    x = np.tanh(x @ own[one]['kernel']) * np.tanh(x @ own[other]['kernel'])
  outputs = network.apply(params, states)
  np.testing.assert_allclose(outputs.features, x, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(outputs.q_values, x @ own['Dense_4']['kernel'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_the_layer_graph_knows_both_halves_of_a_hadamard_layer(name):
  network, _, states = made(name, activation='hadamard')
  graph = layer_graph(lambda key: network.init(key, states))
  assert set(graph.layers) >= set(networks.hidden_layers(network, states))
  for layer in graph.layers.values():
    assert len(layer.incoming) == 2 and len(layer.vectors) == 2 and layer.outgoing


NORMS = {'layer_norm': 'rms', 'feature_norm': True, 'spectral_norm': 5}


@pytest.mark.parametrize(
  ('name', 'activation', 'dtype'),
  cases(
    itertools.product(NETWORKS, ['relu', 'hadamard', 'fourier'], [None, 'bfloat16']),
    lambda name, activation, dtype: (
      (activation, dtype) == ('hadamard', None) and name != 'NatureCNN'
    ),
  ),
)
def test_all_norms_combine_with_every_activation_and_dtype(name, activation, dtype):
  network, params, states = made(name, activation=activation, dtype=dtype, **NORMS)
  outputs = network.apply(params, states)
  for features in jax.tree.leaves(outputs.features):
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-2)
  gradient = jax.grad(lambda p: jnp.sum(network.apply(p, states).q_values))(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'layer_norm': 'rsm'}, "MLP.layer_norm must be True, False or 'rms', got 'rsm'"),
    ({'spectral_norm': -1}, 'MLP.spectral_norm must be a whole number of at least 0, got -1'),
    ({'spectral_norm': True}, 'MLP.spectral_norm must be a whole number of at least 0, got True'),
    ({'spectral_norm': 5, 'head': QHead(noisy=True)}, 'MLP.spectral_norm must be 0 with noisy'),
    ({'spectral_norm': 5, 'hidden_units': ()}, 'MLP.hidden_units must not be empty'),
    ({'feature_norm': True, 'hidden_units': ()}, 'MLP.hidden_units must not be empty'),
  ],
)
def test_settings_out_of_place_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    made('MLP', **settings)

"""The layer graph against the networks themselves: a unit without outgoing weights is not felt."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from implicit_rl import networks
from implicit_rl.heads import C51Head, QHead, QuantileHead
from implicit_rl.layer_graph import layer_graph
from implicit_rl.layers import Hidden
from implicit_rl.types import Layer, QOutputs
from tests.cases import cases

A = 3
ATARI, SMALL, MINATAR, VECTOR = (2, 12, 12), (2, 42, 42), (1, 10, 10, 4), (1, 5)
CASES = {
  'NatureCNN': (networks.NatureCNN(A, 8, head=QHead(dueling=True)), ATARI),
  'SmallCNN': (networks.SmallCNN(A, 8, layer_norm=True, activation='tanh'), SMALL),
  'MinAtarCNN': (networks.MinAtarCNN(A, 8, activation='leaky_relu', dtype='bfloat16'), MINATAR),
  'Rainbow': (
    networks.MinAtarCNN(A, 8, head=C51Head(True, True, 5), activation='crelu'),
    MINATAR,
  ),
  'MLP': (networks.MLP(A, (4, 4, 4), 'crelu', head=QuantileHead(True, True, 2)), VECTOR),
  'linear MLP': (networks.MLP(A, (4, 6), 'linear', layer_norm=True), VECTOR),
  'ActorCritic': (networks.ActorCritic(A, (4, 6)), VECTOR),
  'normalised ActorCritic': (
    networks.ActorCritic(A, (4, 6), layer_norm=True, activation='crelu'),
    VECTOR,
  ),
}


def initialiser(network, shape):
  return lambda key: network.init(key, np.zeros((1, *shape), np.float32))


@functools.cache
def start(name):
  """A case's network, graph and parameters."""
  network, shape = CASES[name]
  init = initialiser(network, shape)
  return network, layer_graph(init), jitter(jax.jit(init)(jax.random.key(0)))


def jitter(params, seed=1):
  """Every array away from its symmetric start: biases and gains among them."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noise = [0.3 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
  return jax.tree.map(jnp.add, params, jax.tree.unflatten(tree, noise))


def everything(network, params, states):
  """All that a network returns on states, except its hidden layers."""
  if not isinstance(network, networks.ActorCritic):
    return network.apply(params, states)._replace(layers=None, features=None)
  actions = jnp.sin(states.reshape(len(states), -1)[:, :A])
  actor = network.apply(params, states, method='actor')._replace(layers=None)
  critics = network.apply(params, states, actions, method='critics')
  return actor, critics.q_values


def distance(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return sum(np.abs(np.asarray(a) - np.asarray(b)).sum() for a, b in pairs)


@pytest.mark.parametrize(
  'name', cases(((name,) for name in CASES), ('MinAtarCNN', 'MLP', 'ActorCritic').__contains__)
)
def test_a_unit_that_is_silenced_is_not_felt_and_one_that_is_not_is(name):
  network, graph, params = start(name)
  states = jax.random.uniform(jax.random.key(2), (3, *CASES[name][1])) * 2
  other = jitter(params, seed=3)
  normalised = network.layer_norm

  run = jax.jit(lambda params: everything(network, params, states))
  pick = lambda mask, one, rest: jax.tree.map(jnp.where, mask, one, rest)

  @functools.partial(jax.jit, static_argnums=0)
  def change(layer, unit):
    """Parameters with a unit silenced; with its own weights changed too; with these alone."""
    into, out_of = graph.masks({layer: jnp.arange(graph.layers[layer].units) == unit}, params)
    if normalised:  # What comes before a layer's normalisation is felt by its other units.
      into = jax.tree_util.tree_map_with_path(
        lambda path, x: x & ('LayerNorm' in jax.tree_util.keystr(path)), into
      )
    silent = pick(out_of, jax.tree.map(jnp.zeros_like, params), params)
    return silent, pick(into, other, silent), pick(into, other, params)

  plain = run(params)
  for layer in graph.layers.values():
    alive = []
    for unit in range(layer.units):
      silent, silent_changed, changed = map(run, change(layer.name, unit))
      assert distance(silent, silent_changed) == 0, (layer.name, unit)
      alive.append(distance(plain, changed) > 0)
    # A rectified unit may be dead on three states, before and after.
    assert np.mean(alive) >= 0.3, layer.name


@pytest.mark.parametrize(
  'name', cases(((one,) for one in CASES), ('MinAtarCNN', 'MLP', 'ActorCritic').__contains__)
)
def test_the_masks_of_all_units_are_all_parameters_but_the_inputs_and_the_heads(name):
  _, graph, params = start(name)
  every = {layer.name: jnp.ones(layer.units, bool) for layer in graph.layers.values()}
  into, out_of = graph.masks(every, params)
  heads = {kernel.path for kernel in graph.heads}
  layers = graph.layers.values()
  read = {kernel.path for layer in layers for kernel in layer.outgoing}
  first = {kernel.path for layer in layers for kernel in layer.incoming} - read
  for path, x in jax.tree_util.tree_leaves_with_path(into):
    path = tuple(key.key for key in path)
    of_head = path[:-1] in {head[:-1] for head in heads}
    assert np.all(x) == (not of_head and path[1] != 'log_temperature'), path
    assert np.all(x) or not np.any(x)
  for path, x in jax.tree_util.tree_leaves_with_path(out_of):
    path = tuple(key.key for key in path)
    is_reader = path in {kernel.path for kernel in graph.kernels} - first
    assert np.all(x) == is_reader and np.all(x) == np.any(x), path


def test_layers_stand_in_order_and_heads_apart():
  _, graph, _ = start('Rainbow')
  assert list(graph.layers) == ['PatchConv_0', 'NoisyDense_0']
  assert [layer.units for layer in graph.layers.values()] == [16, 8]
  names = {kernel.path[1:] for kernel in graph.heads}
  assert names == {(f'NoisyDense_{i}', f'kernel_{x}') for i in (1, 2) for x in ('mu', 'sigma')}
  graph = start('ActorCritic')[1]
  names = ['actor_mean', 'actor_log_std', 'critic_value_0', 'critic_value_1']
  assert [kernel.path[1] for kernel in graph.heads] == names
  assert list(graph.layers) == [
    f'{part}/Dense_{i}'
    for part in ('actor_hidden', 'critic_hidden_0', 'critic_hidden_1')
    for i in (0, 1)
  ]


@pytest.mark.parametrize(
  'name', cases(((one,) for one in CASES), ('MinAtarCNN', 'MLP', 'ActorCritic').__contains__)
)
def test_matrices_and_units_weights_are_those_that_the_masks_mark(name):
  _, graph, params = start(name)
  array_of = lambda tree, path: np.asarray(functools.reduce(lambda x, key: x[key], path, tree))
  for layer in graph.layers.values():
    for unit in (0, layer.units - 1):
      marks = graph.masks({layer.name: jnp.arange(layer.units) == unit}, params)
      for kernel in layer.incoming:
        weights, mark = array_of(params, kernel.path), array_of(marks[0], kernel.path)
        assert kernel.matrix(weights).shape == (mark.sum(), layer.units)
        column = kernel.matrix(weights)[:, unit]
        np.testing.assert_array_equal(np.sort(column), np.sort(weights[mark]))
      for kernel in layer.outgoing:
        weights, mark = array_of(params, kernel.path), array_of(marks[1], kernel.path)
        row = kernel.by_unit(weights, layer.units)[unit]
        np.testing.assert_array_equal(np.sort(row), np.sort(weights[mark]))


class Readers(nn.Module):
  """A reader's own network: pooling, a gated layer, a residual block, norms after activations."""

  @nn.compact
  def __call__(self, state):
    x = nn.relu(nn.Conv(6, (3, 3))(state.transpose(0, 2, 3, 1)))
    layers = {'images': Layer(x, x)}
    x = nn.LayerNorm()(jnp.mean(x, axis=(1, 2)))
    gated = jnp.tanh(nn.Dense(4, name='left')(x)) * jnp.tanh(nn.Dense(4, name='right')(x))
    stream = nn.Dense(5, name='stream')(gated)
    inner = nn.relu(nn.Dense(20, name='inner')(nn.LayerNorm()(stream)))
    features = nn.relu(stream + nn.Dense(5, name='back')(inner))
    added = features + nn.relu(nn.Dense(5, name='added')(features))
    layers |= {'gated': Layer(gated, gated), 'inner': Layer(inner, inner)}
    layers |= {'features': Layer(features, features), 'added': Layer(added, added)}
    return QOutputs(nn.Dense(2, name='head')(added), added, layers)


def test_a_readers_own_network():
  graph = layer_graph(initialiser(Readers(), (3, 6, 6)))
  # Units of 'features' go another way, and those of 'added' are not of one layer alone.
  assert list(graph.layers) == ['images', 'gated', 'inner']
  named = lambda kernels: [kernel.path[1] for kernel in kernels]
  assert named(graph.layers['images'].outgoing) == ['left', 'right']
  assert named(graph.layers['gated'].incoming) == ['left', 'right']
  assert named(graph.layers['gated'].outgoing) == ['stream']
  assert named(graph.layers['inner'].incoming) == ['inner']
  assert named(graph.layers['inner'].outgoing) == ['back']
  assert named(graph.heads) == ['head']
  assert graph.layers['inner'].vectors == (('params', 'inner', 'bias'),)


class ChannelsAveraged(nn.Module):
  """Reads an average of all channels."""

  @nn.compact
  def __call__(self, state):
    hidden = Hidden('ChannelsAveraged', 'relu', False, None)
    x = hidden(nn.Conv(6, (3, 3)), state.transpose(0, 2, 3, 1))
    x = jnp.mean(x, axis=-1).reshape(len(x), -1)
    return QOutputs(nn.Dense(2)(x), x, hidden.layers)


def test_units_that_do_not_stand_on_the_last_axis_are_refused():
  with pytest.raises(ValueError, match=r'Dense_0 has 25 inputs from the 6 units of Conv_0'):
    layer_graph(initialiser(ChannelsAveraged(), (3, 5, 5)))


def test_a_network_without_named_layers_has_kernels_alone():
  network = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
  graph = layer_graph(lambda key: network.init(key, np.zeros((1, 3))))
  assert len(graph.kernels) == 2 and graph.heads == graph.kernels[1:] and not graph.layers

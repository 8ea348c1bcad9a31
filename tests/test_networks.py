"""Networks: shapes, named features, and equality with Flax's and Dopamine's own."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from implicit_rl import networks
from implicit_rl.cpu import conv
from implicit_rl.heads import QHead
from tests.cases import cases
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
  state = state.astype(np.float32) if len(shape) == 3 else state  # Vectors of bytes are refused.
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


NETWORKS = {
  'NatureCNN': (networks.NatureCNN(num_actions=3, hidden_units=8), (2, 4, 36, 36), np.uint8),
  'SmallCNN': (networks.SmallCNN(num_actions=3, hidden_units=8), (2, 4, 42, 42), np.uint8),
  'MinAtarCNN': (networks.MinAtarCNN(num_actions=3, hidden_units=8), (2, 1, 10, 10, 4), np.uint8),
  'MLP': (networks.MLP(num_actions=3, hidden_units=(8, 7)), (2, 1, 5), np.float32),
  'ActorCritic': (networks.ActorCritic(num_actions=2, hidden_units=(8, 7)), (2, 1, 5), np.float32),
}
LAYERS = {
  'NatureCNN': ('Conv_0', 'Conv_1', 'Conv_2', 'RowDense_0'),
  'SmallCNN': ('Conv_0', 'Conv_1', 'Dense_0'),
  'MinAtarCNN': ('PatchConv_0', 'Dense_0'),
  'MLP': ('Dense_0', 'Dense_1'),
  'ActorCritic': tuple(f'critic_hidden_{k}/Dense_{i}' for k in range(2) for i in range(2)),
}


def made(name, seed=0, **settings):
  """A network, its parameters and a batch of states."""
  network, shape, dtype = NETWORKS[name]
  network = network.clone(**settings)
  high = 2 if name == 'MinAtarCNN' else 256
  states = np.random.default_rng(seed).integers(0, high, shape).astype(dtype)
  return network, jax.jit(network.init)(KEY, states), states


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('setting', ['activation', 'dtype'])
def test_an_unknown_setting_is_named(name, setting):
  with pytest.raises(ValueError, match=f"{name}.{setting} must be .*'rleu'"):
    made(name, **{setting: 'rleu'})


@pytest.mark.parametrize('name', NETWORKS)
def test_hidden_layers_are_named_in_order_by_their_place_in_the_parameters(name):
  network, params, states = made(name)
  assert networks.hidden_layers(network, states) == LAYERS[name]
  assert networks.hidden_layers(network, jax.ShapeDtypeStruct(states.shape, states.dtype))
  outputs = network.apply(params, states)
  assert tuple(outputs.layers) == LAYERS[name]
  for path, layer in outputs.layers.items():
    here = params['params']
    for key in path.split('/'):
      here = here[key]
    width = len(here['bias'])
    assert layer.preactivation.shape[-1] == width and len(layer.preactivation) == len(states)
    np.testing.assert_array_equal(layer.activation, np.maximum(layer.preactivation, 0))
  last = [outputs.layers[path].activation for path in LAYERS[name] if path.endswith('Dense_1')]
  if name == 'ActorCritic':
    jax.tree.map(np.testing.assert_array_equal, last, list(outputs.features))
  else:
    np.testing.assert_array_equal(outputs.layers[LAYERS[name][-1]].activation, outputs.features)


def test_a_policys_hidden_layers_are_its_own():
  network, params, states = made('ActorCritic')
  actor = network.apply(params, states, method='actor')
  assert tuple(actor.layers) == ('actor_hidden/Dense_0', 'actor_hidden/Dense_1')


ACTIVATIONS = [
  ('tanh', np.tanh),
  ('gelu', lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))),
  ('linear', lambda x: x),
  ('elu', lambda x: np.where(x > 0, x, np.expm1(x))),
  ('leaky_relu', lambda x: np.where(x > 0, x, 0.01 * x)),
  ('crelu', lambda x: np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=-1)),
  ('fourier', lambda x: np.concatenate([np.sin(x), np.cos(x)], axis=-1)),
  ('hadamard', lambda x: np.prod([np.tanh(half) for half in np.split(x, 2, axis=-1)], axis=0)),
]


@pytest.mark.parametrize(
  ('name', 'layer_norm', 'activation', 'expected'),
  cases(
    [(*one, *two) for one in itertools.product(NETWORKS, [False, True]) for two in ACTIVATIONS],
    lambda name, layer_norm, activation, _: (
      (name == 'MLP' and not layer_norm) or (activation == 'crelu' and name != 'NatureCNN')
    ),
  ),
)
def test_every_hidden_layer_has_the_chosen_activation(name, layer_norm, activation, expected):
  network, params, states = made(name, activation=activation, layer_norm=layer_norm)
  for layer in network.apply(params, states).layers.values():
    x = np.asarray(layer.preactivation, np.float64)
    np.testing.assert_allclose(layer.activation, expected(x), rtol=1e-4, atol=1e-5)
    if layer_norm:
      np.testing.assert_allclose(x.reshape(len(x), -1).mean(1), 0, atol=1e-4)


def test_layers_that_nothing_reads_cost_nothing():
  """The compiled program has no more operations than that of the values alone."""
  network, params, states = made('MLP')

  def values(params, states):
    return network.apply(params, states).q_values

  def plain(params, states):
    x = states.reshape(len(states), -1)
    for layer in ('Dense_0', 'Dense_1', 'Dense_2'):
      x = x @ params['params'][layer]['kernel'] + params['params'][layer]['bias'][None]
      x = jax.nn.relu(x) if layer != 'Dense_2' else x
    return x

  cost = lambda f: jax.jit(f).lower(params, states).compile().cost_analysis()['flops']
  assert cost(values) == cost(plain)


@pytest.mark.parametrize(
  'name', cases(((one,) for one in NETWORKS), ('MinAtarCNN', 'MLP').__contains__)
)
@pytest.mark.parametrize(
  'dtype', ['bfloat16', pytest.param(jnp.float16, marks=pytest.mark.exhaustive)]
)
def test_networks_compute_in_a_chosen_dtype(name, dtype):
  """Parameters, outputs and layers stay float32; values are near float32's, yet not the same."""
  network, params, states = made(name)
  half = network.clone(dtype=dtype)
  assert jax.tree.map(jnp.result_type, half.init(KEY, states)) == jax.tree.map(
    jnp.result_type, params
  )
  outputs, expected = half.apply(params, states), network.apply(params, states)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), outputs) == jax.tree.map(
    lambda x: (x.shape, x.dtype), expected
  )
  scale = float(jnp.max(jnp.abs(expected.q_values)))
  np.testing.assert_allclose(outputs.q_values, expected.q_values, atol=0.05 * scale)
  assert not np.array_equal(outputs.q_values, expected.q_values)
  products = str(jax.make_jaxpr(half.apply)(params, states))
  assert 'bf16[' in products or 'f16[' in products
  assert all(
    jnp.isfinite(leaf).all() and leaf.dtype == np.float32
    for leaf in jax.tree.leaves(jax.grad(lambda p: jnp.sum(half.apply(p, states).q_values))(params))
  )


@pytest.mark.parametrize('noisy', cases(((one,) for one in [False, True]), bool))
def test_one_state_has_the_values_that_it_has_among_others(noisy):
  """Acting multiplies a large kernel with a vector, learning with a matrix."""
  state = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
  module = networks.NatureCNN(num_actions=6, head=QHead(noisy=noisy))
  params = module.init(KEY, state)
  values = jax.jit(lambda s: module.apply(params, s, rngs={'noise': KEY}).q_values)
  alone = np.concatenate([values(state[i : i + 1]) for i in range(3)])
  np.testing.assert_allclose(alone, values(state), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('network', 'size', 'fits'),
  [
    (networks.SmallCNN(num_actions=3), (84, 84), True),
    (networks.SmallCNN(num_actions=3), (54, 66), True),
    (networks.SmallCNN(num_actions=3), (64, 64), False),
    (networks.SmallCNN(num_actions=3), (84, 83), False),
    (networks.SmallCNN(num_actions=3), (8, 84), False),
    (networks.NatureCNN(num_actions=3, padding='VALID'), (84, 84), True),
    (networks.NatureCNN(num_actions=3, padding='VALID'), (84, 85), False),
    (networks.NatureCNN(num_actions=3, padding='VALID'), (36, 36), True),
    (networks.NatureCNN(num_actions=3), (37, 50), True),
  ],
)
def test_frames_that_would_be_cropped_are_refused(network, size, fits):
  """What fits is seen to its last pixel, except SmallCNN's 84 × 84, as its docstring says."""
  states = np.random.default_rng(0).integers(0, 256, (1, 4, *size), dtype=np.uint8)
  if not fits:
    with pytest.raises(ValueError, match=f'{size[0]} × {size[1]}'):
      network.init(KEY, states)
    return
  params = network.init(KEY, states)
  seen = jax.grad(
    lambda x: jnp.sum(jnp.square(network.apply(params, x).layers['Conv_1'].preactivation))
  )(states.astype(np.float32))
  rows, columns = (np.flatnonzero(np.abs(seen).sum((0, 1, axis))) for axis in (3, 2))
  unseen = 6 if size == (84, 84) and isinstance(network, networks.SmallCNN) else 0
  last = {rows.max(), columns.max()}
  if unseen:
    assert last <= {76, 77}
  else:
    assert rows.max() >= size[0] - 2 and columns.max() >= size[1] - 2


def test_small_cnn_takes_coloured_frames():
  states = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84, 3), dtype=np.uint8)
  network = networks.SmallCNN(num_actions=3)
  params = network.init(KEY, states)
  assert params['params']['Conv_0']['kernel'].shape == (6, 6, 12, 16)


@pytest.mark.parametrize(
  ('shape', 'dtype', 'told', 'divisor'),
  [
    ((4, 84, 84), np.uint8, None, 255),
    ((2, 12, 12, 3), np.uint8, None, 255),
    ((2, 12, 12, 1), np.uint8, None, 255),
    ((1, 10, 10, 4), np.uint8, None, 1),  # MinAtar: zeros and ones.
    ((1, 10, 10, 4), np.uint8, 255, 255),
    ((4, 84, 84), np.uint8, 1, 1),
    ((4, 84, 84), np.float32, None, 1),
    ((1, 128), np.uint8, 255, 255),
    ((1, 128), np.float32, None, 1),
    ((1, 6), np.bool_, None, 1),
  ],
)
def test_an_mlp_divides_an_images_bytes_and_leaves_zeros_and_ones(shape, dtype, told, divisor):
  network = networks.MLP(num_actions=2, hidden_units=(4,), observation_max=told)
  states = np.random.default_rng(0).integers(0, 2, (3, *shape)).astype(dtype)
  params = network.init(KEY, states)
  expected = networks.MLP(num_actions=2, hidden_units=(4,)).apply(
    params, states.astype(np.float32) / np.float32(divisor)
  )
  found = network.apply(params, states)
  np.testing.assert_allclose(found.q_values, expected.q_values, rtol=1e-5, atol=1e-6)


def test_an_mlp_asks_what_a_vector_of_bytes_holds():
  with pytest.raises(ValueError, match=r'MLP.observation_max = 255 if .* = 1 if'):
    networks.MLP(num_actions=2).init(KEY, np.zeros((1, 1, 128), np.uint8))
  with pytest.raises(ValueError, match='observation_max must be above 0, got 0'):
    networks.MLP(num_actions=2, observation_max=0).init(KEY, np.zeros((1, 1, 8), np.uint8))

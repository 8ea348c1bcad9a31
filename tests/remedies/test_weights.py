"""Remedies that rewrite weights by rule: clipping, projection; and resets by gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from implicit_rl.context import Context
from implicit_rl.layer_graph import layer_graph
from implicit_rl.remedies.grama import ReGraMa
from implicit_rl.remedies.nap import NaP
from implicit_rl.remedies.weight_clipping import WeightClipping
from implicit_rl.simba import SimBa
from tests.cases import cases
from tests.remedies import small_learners
from tests.remedies.small_learners import assert_equal

KEY = jax.random.PRNGKey(1)


def operate(remedy, learner, state, name):
  run = jax.jit(functools.partial(remedy.operate, learner.context))
  return run(state, small_learners.batches(name), KEY)


def scattered(learner, scale=1.0):
  """A state with random parameters, biases and gains among them."""
  state = small_learners.start(learner)
  rng = np.random.default_rng(0)
  draw = lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32)
  return state._replace(params=jax.tree.map(draw, state.params))


# By module: inputs to each of its outputs.
FAN_IN = {
  'DQN': {'Dense_0': 5, 'Dense_1': 16, 'Dense_2': 8},
  'Rainbow': {'NoisyDense_0': 5, 'NoisyDense_1': 12, 'NoisyDense_2': 12, 'NoisyDense_3': 12},
  'Atari': {'Conv_0': 128, 'Conv_1': 512, 'Conv_2': 576, 'RowDense_0': 256, 'Dense_0': 8},
  'SAC': {
    'actor_hidden/Dense_0': 5,
    'actor_hidden/Dense_1': 8,
    'actor_mean': 6,
    'actor_log_std': 6,
    **{f'critic_hidden_{i}/Dense_0': 8 for i in (0, 1)},
    **{f'critic_hidden_{i}/Dense_1': 8 for i in (0, 1)},
    **{f'critic_value_{i}': 6 for i in (0, 1)},
  },
}


@pytest.mark.parametrize('name', FAN_IN)
def test_weights_and_biases_are_clipped_to_their_layers_bound(name):
  remedy = WeightClipping(scale=1.5)
  learner = small_learners.make(name, {'clip': remedy})
  state = scattered(learner, 0.3)
  new, metrics = operate(remedy, learner, state, name)
  old, flat = (traverse_util.flatten_dict(x['params']) for x in (state.params, new.params))
  clipped = total = 0
  for path, x in old.items():
    fan_in = FAN_IN[name].get('/'.join(path[:-1]))
    bound = np.inf if fan_in is None else 1.5 / np.sqrt(fan_in)
    np.testing.assert_allclose(flat[path], np.clip(x, -bound, bound), rtol=1e-6)
    clipped += np.sum(np.abs(x) > bound)
    total += 0 if fan_in is None else x.size
  assert 0 < clipped < total
  np.testing.assert_allclose(metrics['WeightClipping/Clipped'], clipped / total, rtol=1e-5)
  assert_equal(new._replace(params=None), state._replace(params=None))


@pytest.mark.parametrize('name', cases(((one,) for one in ['DQN', 'SAC']), 'DQN'.__eq__))
def test_a_wide_clip_trains_as_without(name):
  ends = []
  for remedies in ({}, {'clip': WeightClipping(scale=1e6)}):
    learner = small_learners.make(name, remedies)
    batches = small_learners.batches(name, 3)
    ends.append(learner.update_many(small_learners.start(learner), batches)[0])
  assert_equal(*ends)


def test_projection_restores_norms_and_keeps_what_the_network_says():
  remedy = NaP()
  learner = small_learners.make('Rainbow', {'nap': remedy})
  start = small_learners.start(learner)
  grown = jax.tree.map(lambda x: 3.0 * x, start.params['params'])
  grown = {
    **start.params['params'],
    **{f'NoisyDense_{i}': grown[f'NoisyDense_{i}'] for i in (0, 1)},
  }
  state = start._replace(params={'params': grown}, extra=start.extra['nap'])
  new, metrics = operate(remedy, learner, state, 'Rainbow')
  np.testing.assert_allclose(metrics['NaP/Growth'], 3.0, rtol=1e-5)
  batch = small_learners.batches('Rainbow')
  noisy = jax.jit(lambda params: learner.context.loss(params, params, batch, KEY)[1].outputs.logits)
  np.testing.assert_allclose(noisy(new.params), noisy(state.params), rtol=1e-3, atol=1e-4)
  assert_close(new.params, start.params)
  # One factor for weights of mean and noise and their biases, whatever their values.
  state = scattered(learner)._replace(extra=start.extra['nap'])
  new, _ = operate(remedy, learner, state, 'Rainbow')
  for i in range(4):
    old, layer = (x.params['params'][f'NoisyDense_{i}'] for x in (state, new))
    first = start.params['params'][f'NoisyDense_{i}']
    norm = lambda x: np.sqrt(sum(np.sum(np.square(x[f'kernel_{k}'])) for k in ('mu', 'sigma')))
    factor = norm(first) / norm(old) if i < 2 else 1.0  # The heads are not normalised.
    assert_close(layer, jax.tree.map(lambda x, f=factor: x * f, old))
    norm_layers = [x.params['params'][f'LayerNorm_{i % 2}'] for x in (state, new)]
    assert_equal(*norm_layers)


def test_norms_stay_through_training():
  learner = small_learners.make('Rainbow', {'nap': NaP()})
  start = small_learners.start(learner)
  kernels = lambda state: [
    np.linalg.norm(
      np.concatenate(
        [state.params['params'][f'NoisyDense_{i}'][f'kernel_{k}'] for k in ('mu', 'sigma')]
      )
    )
    for i in (0, 1)
  ]
  before = kernels(start)
  state, info = learner.update_many(start, small_learners.batches('Rainbow', 4))
  np.testing.assert_allclose(kernels(state), before, rtol=1e-5)
  assert np.all(np.asarray(info.metrics['NaP/Growth']) != 1)


def assert_close(one, other):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, other)


@pytest.mark.parametrize(
  'name', cases(((one,) for one in ['DQN', 'MinAtar', 'SAC']), ('MinAtar', 'SAC').__contains__)
)
def test_units_without_gradient_are_drawn_anew_though_they_are_active(name):
  """A unit whose outgoing weights are 0 gets none, whatever it does."""
  remedy = ReGraMa(threshold=0.0)
  learner = small_learners.make(name, {'grama': remedy})
  graph = layer_graph(learner.context.init)
  state = small_learners.start(learner)
  lively = jax.tree.map(lambda x: x + 1.0 if x.ndim == 1 else x / 10, state.params)
  cut = {layer.name: jnp.arange(layer.units) % 3 == 1 for layer in graph.layers.values()}
  into, out_of = graph.masks(cut, lively)
  params = jax.tree.map(lambda mask, x: jnp.where(mask, 0, x), out_of, lively)
  new, metrics = operate(remedy, learner, state._replace(params=params), name)
  assert metrics['ReGraMa/Reset'] == sum(int(np.sum(mask)) for mask in cut.values())
  fresh = jax.jit(learner.context.init)(jax.random.split(KEY)[1])
  pick = lambda i, o, new, old: np.where(o, 0, np.where(i, new, old))
  assert_equal(new.params, jax.tree.map(pick, into, out_of, fresh, params))


def test_units_are_scored_by_gradients_that_finite_differences_give():
  learner = small_learners.make('DQN', {})
  graph = layer_graph(learner.context.init)
  state, batch = scattered(learner, 0.3), small_learners.batches('DQN')
  found = ReGraMa().values(learner.context, graph, state, batch, KEY)['Dense_1']

  @jax.jit
  def loss(kernel):
    inner = {
      **state.params['params'],
      'Dense_1': {**state.params['params']['Dense_1'], 'kernel': kernel},
    }
    return learner.context.loss({'params': inner}, state.target_params, batch, KEY)[0]

  kernel, step = np.asarray(state.params['params']['Dense_1']['kernel']), 1e-2
  expected = np.zeros(kernel.shape)
  for place in np.ndindex(kernel.shape):
    moved = [kernel.copy() for _ in range(2)]
    moved[0][place] += step
    moved[1][place] -= step
    expected[place] = (float(loss(moved[0])) - float(loss(moved[1]))) / (2 * step)
  assert found.shape == (16, 8)
  np.testing.assert_allclose(found, expected, rtol=0.05, atol=2e-4)


@pytest.mark.parametrize('network', [small_learners.CASES['DQN'].network, SimBa(3, 8)])
def test_networks_without_normalised_layers_are_refused(network):
  """SimBa's normalisations stand before its dense layers; no mix-in adds others."""
  init = lambda key: network.init(key, np.zeros((1, 1, 5), np.float32))
  with pytest.raises(ValueError, match=r'NaP needs layers .* SimBa, normalise') as error:
    NaP().init(Context(init=init, network=network), init(KEY), KEY)
  assert type(network).__name__ in str(error.value)

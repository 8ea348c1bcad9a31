"""ReDo against the numbers of its authors' code, and what a reset must leave as it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from implicit_rl import losses, networks
from implicit_rl.context import Context
from implicit_rl.layer_graph import layer_graph
from implicit_rl.learner import Learner
from implicit_rl.rank import dormancy_scores
from implicit_rl.remedies import units
from implicit_rl.remedies.redo import ReDo
from tests.cases import cases
from tests.remedies import small_learners
from tests.remedies.small_learners import assert_equal

flatten = functools.partial(traverse_util.flatten_dict, sep='/')

# NeuronRecycler of google/dopamine at 5873f54, dopamine/labs/redo/weight_recyclers.py, run on the
# weights and states below: the units with a score of at most τ, by layer.
DORMANT = {
  0.0: {'Conv_0': [30], 'Conv_1': [], 'Conv_2': [23], 'RowDense_0': [4]},
  0.025: {'Conv_0': [12, 30], 'Conv_1': [], 'Conv_2': [2, 23, 37], 'RowDense_0': [4]},
  0.1: {
    'Conv_0': [2, 12, 25, 29, 30],
    'Conv_1': [0, 16, 55],
    'Conv_2': [2, 7, 23, 24, 36, 37],
    'RowDense_0': [4],
  },
}
# And for τ = 0.1 how many weights of each kernel it set to 0, and how many it changed, which are
# those whose moments it cleared too.
ZEROS = {'Conv_0': 0, 'Conv_1': 5120, 'Conv_2': 1728, 'RowDense_0': 192, 'Dense_0': 3}
CHANGED = {'Conv_0': 640, 'Conv_1': 6416, 'Conv_2': 5022, 'RowDense_0': 424, 'Dense_0': 3}


@pytest.fixture(scope='module')
def authors():
  """Network, parameters and states that the authors' code was run on."""
  network = networks.NatureCNN(3, 8)
  shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 2, 12, 12), np.uint8))
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(rng.normal(size=x.shape).astype(np.float32) * 0.1)
  params = jax.tree.map(draw, shapes)
  return network, params, rng.integers(0, 256, (32, 2, 12, 12), dtype=np.uint8)


def learner_of(network, remedy):
  loss = functools.partial(losses.dqn_loss, apply=network.apply, discount=0.9)
  init = lambda key: network.init(key, np.zeros((1, 2, 12, 12), np.uint8))
  context = Context(apply=network.apply, init=init, network=network)
  return Learner(loss, remedies={'redo': remedy}, context=context)


def batch_of(states):
  batch = jax.tree.map(lambda x: np.resize(x, (32, *x.shape[1:])), small_learners.batches('Atari'))
  return batch._replace(state=states)


@pytest.mark.parametrize('threshold', DORMANT)
def test_dormant_units_are_those_of_the_authors_code(authors, threshold):
  network, params, states = authors
  for name, layer in network.apply(params, states).layers.items():
    found = dormancy_scores(layer.activation.reshape(-1, layer.activation.shape[-1]))
    np.testing.assert_array_equal(np.flatnonzero(found <= threshold), DORMANT[threshold][name])


def test_what_is_reset_is_what_the_authors_code_resets_and_where_it_flattens_is_right(authors):
  network, params, states = authors
  learner = learner_of(network, ReDo(threshold=0.1))
  state = learner.init(params, jax.random.PRNGKey(0))
  ones = jax.tree.map(jnp.ones_like, params)
  adam = state.optimizer_state[0]._replace(mu=ones, nu=ones, count=jnp.asarray(5))
  state = state._replace(optimizer_state=(adam, *state.optimizer_state[1:]))
  batch = batch_of(states)
  operate = jax.jit(functools.partial(ReDo(threshold=0.1).operate, learner.context))
  new, metrics = operate(state, batch, jax.random.PRNGKey(1))
  assert metrics == {'ReDo/Reset': 15}
  old, moments = flatten(params), flatten(new.optimizer_state[0].mu)
  assert_equal(new.optimizer_state[0].nu, new.optimizer_state[0].mu)
  assert new.optimizer_state[0].count == 5
  assert_equal(new.target_params, state.target_params)
  for path, x in flatten(new.params).items():
    _, layer, kind = path.split('/')
    changed = np.asarray(x != old[path])
    if kind == 'kernel':
      assert np.sum(np.asarray(x) == 0) == ZEROS[layer]
      assert changed.sum() == CHANGED[layer]
      np.testing.assert_array_equal(changed, moments[path] == 0)
    else:  # The authors' code keeps the moments of biases, and those are cleared here.
      dormant = DORMANT[0.1].get(layer, [])
      np.testing.assert_array_equal(np.flatnonzero(changed), dormant)
      np.testing.assert_array_equal(np.flatnonzero(moments[path] == 0), dormant)
  # Channel c of 64 is input 64·p + c of the hidden layer. The authors' code took 4·c + p.
  silenced = np.flatnonzero(
    np.all(
      np.asarray(new.params['params']['RowDense_0']['kernel'])[[i for i in range(8) if i != 4]]
      == 0,
      axis=0,
    )
  )
  assert silenced.tolist() == sorted(64 * p + c for p in range(4) for c in DORMANT[0.1]['Conv_2'])


def kill(name, params, graph, every=3):
  """Parameters in which every third unit of each layer is inactive; and a mask of those."""
  dead = {
    layer.name: jnp.arange(layer.units) % every == 0
    for layer in graph.layers.values()
    if not layer.name.startswith('actor')
  }
  flat = traverse_util.flatten_dict(params)
  for layer, mask in dead.items():
    # The last vector comes last: a bias, or a normalisation's.
    bias = [path for path in graph.layers[layer].vectors if 'bias' in path[-1]][-1]
    if bias[-1] == 'bias_sigma':
      bias = (*bias[:-1], 'bias_mu')
    flat[bias] = jnp.where(mask, -1e3, flat[bias])
  return traverse_util.unflatten_dict(flat), dead


@pytest.mark.parametrize(
  'name', cases(((one,) for one in ['DQN', 'MinAtar', 'SAC']), ('MinAtar', 'SAC').__contains__)
)
def test_units_that_do_nothing_are_drawn_anew_and_the_outputs_stay(name):
  learner = small_learners.make(name, {'redo': ReDo(threshold=0.0)})
  state, batch = small_learners.start(learner), small_learners.batches(name)
  graph = layer_graph(learner.context.init)
  params, dead = kill(name, state.params, graph)
  state = state._replace(params=params)
  operate = jax.jit(functools.partial(ReDo(threshold=0.0).operate, learner.context))
  key = jax.random.PRNGKey(1)
  new, metrics = operate(state, batch, key)
  before, after = (small_learners.outputs(name, learner, p, batch) for p in (params, new.params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), before, after)
  dormant = {
    layer: jnp.all(h == 0, axis=0)
    for layer, h in units.activations(learner.context, graph, state, batch, key).items()
  }
  assert all(np.all(dormant[layer] >= mask) for layer, mask in dead.items())
  assert metrics['ReDo/Reset'] == sum(int(np.sum(mask)) for mask in dormant.values())
  into, out_of = graph.masks(dormant, params)
  fresh = jax.jit(learner.context.init)(jax.random.split(key)[1])
  pick = lambda i, o, new, old: np.where(o, 0, np.where(i, new, old))
  assert_equal(new.params, jax.tree.map(pick, into, out_of, fresh, params))
  # They live again. Critics see the batch's own actions.
  alive = units.activations(learner.context, graph, new, batch, key)
  for layer, mask in dead.items():
    assert np.any(np.asarray(alive[layer])[:, np.asarray(mask)] != 0), layer


def test_normalised_noisy_units_of_two_numbers_are_scored_and_reset_together():
  """With crelu a unit is dormant where both its halves are: its gain and bias are 0."""
  learner = small_learners.make('Rainbow', {'redo': ReDo(threshold=0.0)})
  state, batch = small_learners.start(learner), small_learners.batches('Rainbow')
  params = state.params['params']
  unit = jnp.arange(6) == 2
  norm = jax.tree.map(lambda x: jnp.where(unit, 0, x), params['LayerNorm_0'])
  state = state._replace(params={'params': {**params, 'LayerNorm_0': norm}})
  operate = jax.jit(functools.partial(ReDo(threshold=0.0).operate, learner.context))
  new, metrics = operate(state, batch, jax.random.PRNGKey(1))
  assert metrics == {'ReDo/Reset': 1}
  new = new.params['params']
  np.testing.assert_array_equal(new['LayerNorm_0']['scale'], 1)
  np.testing.assert_array_equal(new['LayerNorm_0']['bias'], 0)
  changed = np.asarray(new['NoisyDense_0']['kernel_mu'] != params['NoisyDense_0']['kernel_mu'])
  np.testing.assert_array_equal(changed, np.broadcast_to(np.asarray(unit)[:, None], (6, 5)))
  for kind in ('mu', 'sigma'):
    zero = np.all(np.asarray(new['NoisyDense_1'][f'kernel_{kind}']) == 0, axis=0)
    np.testing.assert_array_equal(np.flatnonzero(zero), [2, 8])


@pytest.mark.parametrize('name', cases(((one,) for one in ['DQN', 'MinAtar']), 'MinAtar'.__eq__))
def test_live_units_and_threshold_0_train_as_without(name):
  ends = []
  for remedies in ({}, {'redo': ReDo(period=1, threshold=0.0)}):
    learner = small_learners.make(name, remedies)
    state = small_learners.start(learner)
    lively = jax.tree.map(lambda x: x + 10.0 if x.ndim == 1 else x / 10, state.params)
    state = state._replace(params=lively)
    state, info = learner.update_many(state, small_learners.batches(name, 3))
    ends.append(state)
  assert float(np.sum(info.metrics['ReDo/Reset'])) == 0
  assert_equal(*ends)


def test_adams_count_is_reset_by_choice_where_a_unit_is(authors):
  network, params, states = authors
  batch = batch_of(states)
  counts = []
  for threshold, reset_count in ((0.1, True), (0.1, False), (0.0, True)):
    remedy = ReDo(threshold=threshold, reset_count=reset_count)
    learner = learner_of(network, remedy)
    lively = jax.tree.map(jnp.abs, params)  # No unit is dormant, with τ = 0.
    state = learner.init(params if threshold else lively, jax.random.PRNGKey(0))
    adam = state.optimizer_state[0]._replace(count=jnp.asarray(5, jnp.int32))
    state = state._replace(optimizer_state=(adam, *state.optimizer_state[1:]))
    operate = jax.jit(functools.partial(remedy.operate, learner.context))
    state, _ = operate(state, batch, jax.random.PRNGKey(0))
    counts.append(int(state.optimizer_state[0].count))
  assert counts == [0, 5, 5]


def test_a_network_without_units_is_refused():
  silent = Context(init=lambda key: {'params': {}}, optimizer=optax.sgd(0.1))
  with pytest.raises(ValueError, match=r'ReDo resets units of hidden layers, and NoneType names'):
    ReDo().init(silent, {}, jax.random.key(0))

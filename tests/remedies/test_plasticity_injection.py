"""Plasticity injection: no value changes at once, one head alone learns, and a peer's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from implicit_rl import networks, optimizers
from implicit_rl.context import Context
from implicit_rl.learner import Learner
from implicit_rl.remedies.beer import BEER
from implicit_rl.remedies.l2_init import L2Init
from implicit_rl.remedies.plasticity_injection import PlasticityInjection
from implicit_rl.remedies.pruning import MagnitudePruning
from implicit_rl.remedies.resets import HeadReset, ShrinkAndPerturb
from implicit_rl.remedies.weight_clipping import WeightClipping
from implicit_rl.types import Batch, LossAux
from tests.cases import cases
from tests.remedies import small_learners
from tests.remedies.small_learners import CASES, assert_equal

# What belongs to the head, by module; of SAC the critics' alone.
HEADS = {
  'DQN': {'Dense_1', 'Dense_2'},
  'Rainbow': {'NoisyDense_1', 'LayerNorm_1', 'NoisyDense_2', 'NoisyDense_3'},
  'MinAtar': {'Dense_0', 'Dense_1'},
  'Atari': {'RowDense_0', 'Dense_0'},
  'SAC': {f'critic_hidden_{i}/Dense_1' for i in (0, 1)} | {f'critic_value_{i}' for i in (0, 1)},
}


def head_of(name, params):
  """The head's arrays, and the rest's, by path."""
  flat = traverse_util.flatten_dict(params['params'])
  is_head = {path: '/'.join(path[:-1]) in HEADS[name] for path in flat}
  assert HEADS[name] == {'/'.join(path[:-1]) for path, own in is_head.items() if own}
  return ({p: x for p, x in flat.items() if is_head[p] == own} for own in (True, False))


def moments_of(state, name):
  """The heads' first moments."""
  is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)
  found = [x for x in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(x)]
  masked = lambda x: isinstance(x, optax.MaskedNode)
  for adam in found:
    flat = traverse_util.flatten_dict(adam.mu['params'])
    yield from (x for p, x in flat.items() if '/'.join(p[:-1]) in HEADS[name] and not masked(x))


@pytest.mark.parametrize('name', cases(((one,) for one in CASES), 'SAC'.__eq__))
def test_a_fresh_head_takes_over_and_no_value_changes(name):
  remedy = PlasticityInjection(after=3)
  learner = small_learners.make(name, {'inject': remedy})
  state, batch = small_learners.start(learner), small_learners.batches(name)
  draw = np.random.default_rng(0).normal
  jitter = lambda tree: jax.tree.map(lambda x: x + draw(size=x.shape, scale=0.1), tree)
  change = lambda params: {**params, 'params': jitter(params['params'])}
  state = state._replace(
    params=change(state.params),
    target_params=change(state.target_params),
    optimizer_state=jax.tree.map(jnp.ones_like, state.optimizer_state),
  )
  act = jax.jit(functools.partial(remedy.after_update, learner.context))
  key = jax.random.PRNGKey(4)
  idle, metrics = act(state._replace(updates=2), batch, key)
  assert_equal(idle, state._replace(updates=2))
  assert metrics == {'PlasticityInjection/Done': 0}
  new, metrics = act(state._replace(updates=3), batch, key)
  assert metrics == {'PlasticityInjection/Done': 1}
  fresh, _ = head_of(name, jax.jit(learner.context.init)(key))
  for before, after in ((state.params, new.params), (state.target_params, new.target_params)):
    (head, rest), (own, kept) = head_of(name, before), head_of(name, after)
    assert_equal(own, fresh)
    assert_equal(kept, rest)
    for part, expected in (('old', head), ('new', fresh)):
      named = {'params/' + '/'.join(path): x for path, x in expected.items()}
      assert_equal(after['injection'][part], named)
    values = [small_learners.outputs(name, learner, p, batch) for p in (before, after)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *values)
    # What the frozen heads say is no rounding.
    undone = {**after, 'injection': {**after['injection'], 'done': jnp.zeros(())}}
    apart = jax.tree.leaves(small_learners.outputs(name, learner, undone, batch))[0]
    assert np.max(np.abs(apart - jax.tree.leaves(values[0])[0])) > 1e-2
  moments = list(moments_of(new.optimizer_state, name))
  assert moments and all(np.all(np.asarray(x) == 0) for x in moments)


@pytest.mark.parametrize('name', ['Rainbow', 'SAC'])
@pytest.mark.exhaustive
def test_the_frozen_heads_stay_whatever_else_moves_weights(name):
  """Weight decay and L2-init move every array that is trained."""
  adam = optimizers.actor_critic_adam() if name == 'SAC' else optax.adam(1e-2)
  learner = small_learners.make(
    name,
    {'inject': PlasticityInjection(after=2), 'l2': L2Init(0.1)},
    optimizer=optimizers.with_weight_decay(adam, 0.1),
    target_update_rate=0.5,
  )
  batches = small_learners.batches(name, 5)
  part = lambda start, stop: jax.tree.map(lambda x: x[start:stop], batches)
  state, info = learner.update_many(small_learners.start(learner), part(0, 2))
  np.testing.assert_array_equal(info.metrics['PlasticityInjection/Done'], [0, 1])
  frozen, (head, _) = jax.tree.map(np.array, state.params['injection']), head_of(name, state.params)
  head = jax.tree.map(np.array, head)
  state, info = learner.update_many(state, part(2, 4))
  np.testing.assert_array_equal(info.metrics['PlasticityInjection/Done'], [1, 1])
  assert_equal(state.params['injection'], frozen)
  moved, _ = head_of(name, state.params)
  assert all(np.any(np.asarray(moved[path]) != x) for path, x in head.items())


# PlasticityInjectionHead of timoklein/plasticity-injection-torch at c51cd96, src/
# plasticity_injection.py, run in PyTorch on the weights below: two steps of SGD, the injection,
# three more. Its outputs on two states before the injection and at the end, and a row of the
# encoder's weights at the end.
BEFORE = [[-0.087547, 0.490252, 0.536606], [-0.24813, 0.497005, 0.215497]]
AFTER = [[-0.022998, 0.2424, 0.423633], [-0.185428, 0.346649, 0.119762]]
ENCODER = [0.060403, -0.067621, 0.310877, 0.045535, -0.258675, 0.189321]


def test_training_through_an_injection_is_that_of_a_peer():
  rng = np.random.default_rng(0)
  draw = lambda *shape: (rng.normal(size=shape) * 0.5).astype(np.float32)
  layer = lambda *shape: {'kernel': draw(*shape), 'bias': draw(shape[-1])}
  start = {'Dense_0': layer(5, 6), 'Dense_1': layer(6, 4), 'Dense_2': layer(4, 3)}
  fresh = {**start, 'Dense_1': layer(6, 4), 'Dense_2': layer(4, 3)}
  states, goals = draw(8, 5), draw(8, 3)
  network = PlasticityInjection(after=2).wrap(networks.MLP(3, (6, 4)), states[:1, None])
  made = network.init(jax.random.key(0), states[:, None])
  context = Context(
    apply=network.apply, init=lambda key: {**made, 'params': fresh}, network=network
  )

  def loss(params, target_params, batch, key):
    outputs = network.apply(params, batch.state)
    error = batch.reward - outputs.q_values
    return jnp.mean(jnp.square(error)), LossAux(outputs, error[:, 0], {})

  remedies = {'inject': PlasticityInjection(after=2)}
  learner = Learner(loss, optax.sgd(0.1), remedies=remedies, context=context)
  start = jax.tree.map(jnp.asarray, {**made, 'params': start})
  state = learner.init(start, jax.random.PRNGKey(0))
  batch = Batch(states[:, None], np.zeros(8, int), goals, *4 * (np.zeros(8),))
  for update in range(5):
    state, _ = learner.update(state, batch)
    if update == 1:
      found = network.apply(state.params, states[:2, None]).q_values
      np.testing.assert_allclose(found, BEFORE, atol=2e-6)
  found = network.apply(state.params, states[:2, None]).q_values
  np.testing.assert_allclose(found, AFTER, atol=2e-6)
  np.testing.assert_allclose(state.params['params']['Dense_0']['kernel'][0], ENCODER, atol=2e-6)


@pytest.mark.parametrize(
  'other, why',
  [
    (HeadReset(), 'a reset head would be added'),
    (ShrinkAndPerturb(), 'a reset head would be added'),
    (MagnitudePruning(), 'weights would change in the new head and not in its frozen copy'),
    (WeightClipping(), 'weights would change in the new head and not in its frozen copy'),
    (BEER(), 'values would no longer be the product of features and weights'),
  ],
)
def test_what_it_can_not_act_with_is_refused_in_one_line(other, why):
  injection = PlasticityInjection()
  said = rf'Remedies\.{{}} cannot be combined with Remedies\.{{}}: {why}.* Bind one of them'
  for names in (('a', 'b'), ('b', 'a')):
    with pytest.raises(ValueError, match=said.format(*names)):
      small_learners.make('DQN', dict(zip(names, (injection, other), strict=True)))
  off = PlasticityInjection(after=None)
  assert set(small_learners.make('DQN', {'a': off, 'b': other}).remedies) == {'b'}


def test_what_can_not_work_is_said():
  with pytest.raises(ValueError, match=r'PlasticityInjection\.after must be a whole number'):
    PlasticityInjection(after=0)
  with pytest.raises(ValueError, match=r'PlasticityInjection\.hidden_layers must be a whole'):
    PlasticityInjection(hidden_layers=0)
  with pytest.raises(ValueError, match=r'PlasticityInjection\.hidden_layers is 3: There are no 3'):
    small_learners.make('DQN', {'inject': PlasticityInjection(hidden_layers=3)})
  learner = small_learners.make('DQN', {})
  with pytest.raises(ValueError, match=r'needs a network with frozen heads, which an Agent makes'):
    PlasticityInjection().init(learner.context, {}, jax.random.key(0))

"""Resets: of everything it is a fresh agent, of the head it is the head, mixtures are NumPy's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from implicit_rl.layer_graph import layer_graph
from implicit_rl.remedies.resets import HeadReset, NetworkReset, ShrinkAndPerturb
from tests.cases import cases
from tests.remedies import small_learners
from tests.remedies.small_learners import CASES, assert_equal

KEY = jax.random.PRNGKey(3)
# What the last layers are, and the hidden one before them.
HEADS = {
  'DQN': ({'Dense_2'}, {'Dense_1'}),
  'Rainbow': ({'NoisyDense_2', 'NoisyDense_3'}, {'NoisyDense_1', 'LayerNorm_1'}),
  'MinAtar': ({'Dense_1'}, {'Dense_0'}),
  'Atari': ({'Dense_0'}, {'RowDense_0'}),
  'SAC': (
    {'actor_mean', 'actor_log_std', 'critic_value_0', 'critic_value_1'},
    {f'{part}/Dense_1' for part in ('actor_hidden', 'critic_hidden_0', 'critic_hidden_1')},
  ),
}


def trained(name, remedies):
  """A learner, and its state after two updates without remedies."""
  plain = small_learners.make(name, {})
  state, _ = plain.update_many(small_learners.start(plain), small_learners.batches(name, 2))
  return small_learners.make(name, remedies), state


def operate(remedy, learner, state, name):
  run = jax.jit(functools.partial(remedy.operate, learner.context))
  return run(state, small_learners.batches(name), KEY)


def modules(params):
  """The arrays of each module, by the name that HEADS has of it."""
  flat = traverse_util.flatten_dict(params['params'])
  return {path: '/'.join(path[:-1]) for path in flat}, flat


@pytest.mark.parametrize('name', ['DQN', 'SAC'])
@pytest.mark.exhaustive
def test_a_reset_of_everything_is_a_fresh_agent_with_the_old_count(name):
  remedy = NetworkReset(period=3, reset_count=False)
  learner = small_learners.make(name, {'reset': remedy})
  batches = small_learners.batches(name, 7)
  first, rest = (jax.tree.map(lambda x, s=s: x[s], batches) for s in (slice(3), slice(3, 5)))
  state, info = learner.update_many(small_learners.start(learner), first)
  np.testing.assert_array_equal(info.metrics['NetworkReset/Done'], [0, 0, 1])
  # The fresh agent, from the parameters that were drawn, with the clocks of the old one.
  plain = small_learners.make(name, {})
  fresh = plain.init(jax.tree.map(jnp.copy, state.params), state.key)
  is_count = lambda x: jnp.issubdtype(x.dtype, jnp.integer)
  assert all(x == 3 for x in jax.tree.leaves(state.optimizer_state) if is_count(x))
  with_count = jax.tree.map(lambda new, old: old if is_count(new) else new, fresh, state)
  assert_equal(state, with_count)
  before = small_learners.start(learner).params
  apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), before, state.params)
  kernels = [x for path, x in traverse_util.flatten_dict(apart).items() if path[-1] == 'kernel']
  assert all(x > 0.01 for x in kernels)
  twin = jax.tree.map(jnp.copy, state)
  assert_equal(learner.update_many(state, rest)[0], plain.update_many(twin, rest)[0])


@pytest.mark.exhaustive
def test_a_reset_of_everything_with_the_count_is_a_fresh_agent():
  learner, state = trained('Rainbow', {'reset': NetworkReset()})
  new, metrics = operate(NetworkReset(), learner, state, 'Rainbow')
  assert metrics == {'NetworkReset/Done': 1}
  fresh = learner.init(jax.jit(learner.context.init)(KEY), state.key)
  assert_equal(new, fresh._replace(updates=state.updates))


@pytest.mark.parametrize('name', cases(((one,) for one in CASES), 'SAC'.__eq__))
@pytest.mark.parametrize('hidden', [1, pytest.param(0, marks=pytest.mark.exhaustive)])
def test_the_head_is_drawn_anew_with_its_moments_and_the_rest_stays(name, hidden):
  remedy = HeadReset(hidden_layers=hidden)
  learner, state = trained(name, {'reset': remedy})
  new, metrics = operate(remedy, learner, state, name)
  assert metrics == {'HeadReset/Done': 1}
  fresh = jax.jit(learner.context.init)(KEY)
  expected = set.union(*HEADS[name][: hidden + 1])
  for before, after in ((state.params, new.params), (state.target_params, new.target_params)):
    names, flat = modules(after)
    for path, module in names.items():
      source = modules(fresh if module in expected else before)[1]
      np.testing.assert_array_equal(flat[path], source[path], err_msg=str(path))
  assert expected <= set(names.values())
  is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)
  found = [
    [x for x in jax.tree.leaves(one.optimizer_state, is_leaf=is_adam) if is_adam(x)]
    for one in (state, new)
  ]
  for before, after in zip(*found, strict=True):
    assert before.count == after.count == 2
    for moment in ('mu', 'nu'):
      old, flat = (traverse_util.flatten_dict(getattr(x, moment)) for x in (before, after))
      for path, x in flat.items():
        if not isinstance(x, optax.MaskedNode):
          module = '/'.join(path[1:-1])
          np.testing.assert_array_equal(x, 0 if module in expected else old[path])


def test_the_target_network_stays_by_choice():
  remedy = HeadReset(reset_target=False)
  learner, state = trained('DQN', {'reset': remedy})
  new, _ = operate(remedy, learner, state, 'DQN')
  assert_equal(new.target_params, state.target_params)


@pytest.mark.parametrize('reset_layers', [None, 0, 1])
def test_shrink_and_perturb_is_the_mixture(reset_layers):
  remedy = ShrinkAndPerturb(shrink=0.8, perturb=0.3, reset_layers=reset_layers)
  learner, state = trained('MinAtar', {'reset': remedy})
  new, metrics = operate(remedy, learner, state, 'MinAtar')
  assert metrics == {'ShrinkAndPerturb/Done': 1}
  _, fresh = modules(jax.jit(learner.context.init)(KEY))
  redrawn = set() if reset_layers is None else set.union(*HEADS['MinAtar'][: reset_layers + 1])
  for before, after in ((state.params, new.params), (state.target_params, new.target_params)):
    names, flat = modules(after)
    for path, module in names.items():
      old, drawn = (np.asarray(x[path], np.float64) for x in (modules(before)[1], fresh))
      expected = drawn if module in redrawn else 0.8 * old + 0.3 * drawn
      np.testing.assert_allclose(flat[path], expected, rtol=1e-6, atol=1e-7)
  assert_equal(new.optimizer_state, learner.context.optimizer.init(new.params))


def test_all_of_the_old_and_nothing_of_the_new_changes_no_parameter():
  remedy = ShrinkAndPerturb(shrink=1.0, perturb=0.0, reset_layers=None)
  learner, state = trained('DQN', {'reset': remedy})
  new, _ = operate(remedy, learner, state, 'DQN')
  assert_equal((new.params, new.target_params), (state.params, state.target_params))


def test_resets_end_after_the_given_update():
  learner = small_learners.make('DQN', {'reset': HeadReset(period=2, until=5)})
  _, info = learner.update_many(small_learners.start(learner), small_learners.batches('DQN', 8))
  np.testing.assert_array_equal(info.metrics['HeadReset/Done'], [0, 1, 0, 1, 0, 0, 0, 0])


def test_last_layers_of_all_are_all():
  learner = small_learners.make('Atari', {})
  params = jax.eval_shape(learner.context.init, KEY)
  assert all(jax.tree.leaves(layer_graph(learner.context.init).last(4, params)))


def test_more_layers_than_there_are_are_refused():
  said = r'HeadReset\.hidden_layers is 3: There are no 3 hidden layers before the head'
  with pytest.raises(ValueError, match=said):
    small_learners.start(small_learners.make('DQN', {'r': HeadReset(hidden_layers=3)}))

"""Continual backpropagation against a loop over units in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.layer_graph import layer_graph
from implicit_rl.remedies import units
from implicit_rl.remedies.continual_backprop import ContinualBackprop
from tests.remedies import small_learners
from tests.remedies.small_learners import assert_equal


def outgoing_by_loops(name, params):
  """Σ|w| over each unit's outgoing weights, from what is known of the networks."""
  p = jax.tree.map(np.asarray, params['params'])
  if name == 'DQN':
    return {
      'Dense_0': np.abs(p['Dense_1']['kernel']).sum(1),
      'Dense_1': np.abs(p['Dense_2']['kernel']).sum(1),
    }
  inputs = np.abs(p['Dense_0']['kernel']).sum(1)  # Of 64 positions and 16 channels.
  return {
    'PatchConv_0': np.array([sum(inputs[16 * q + c] for q in range(64)) for c in range(16)]),
    'Dense_0': np.abs(p['Dense_1']['kernel']).sum(1),
  }


@pytest.mark.parametrize('name', ['DQN', 'MinAtar'])
def test_the_units_that_are_replaced_are_those_of_a_loop(name):
  rate, decay, maturity = 0.06, 0.7, 3
  remedy = ContinualBackprop(rate, decay, maturity)
  learner = small_learners.make(name, {'cbp': remedy})
  graph = layer_graph(learner.context.init)
  state = small_learners.start(learner)
  state = state._replace(extra=state.extra['cbp'])
  step = jax.jit(functools.partial(remedy.after_update, learner.context))
  act = jax.jit(functools.partial(units.activations, learner.context, graph))
  units_of = {layer: one.units for layer, one in graph.layers.items()}
  utility = {layer: np.zeros(c) for layer, c in units_of.items()}
  age = {layer: np.zeros(c, int) for layer, c in units_of.items()}
  due = dict.fromkeys(units_of, 0.0)
  total = 0
  batches = small_learners.batches(name, 14)
  for k in range(14):
    batch = jax.tree.map(lambda x, k=k: x[k], batches)
    key = jax.random.PRNGKey(k)
    active = act(state, batch, jax.random.split(key)[0])
    weights = outgoing_by_loops(name, state.params)
    replaced = {}
    for layer in units_of:
      size = np.abs(np.asarray(active[layer], np.float64)).mean(0)
      utility[layer] = decay * utility[layer] + (1 - decay) * size * weights[layer]
      age[layer] += 1
      mature = [unit for unit in range(units_of[layer]) if age[layer][unit] > maturity]
      due[layer] += rate * len(mature)
      replaced[layer] = np.zeros(units_of[layer], bool)
      if mature and due[layer] >= 1:
        worst = min(mature, key=lambda unit: utility[layer][unit])
        replaced[layer][worst] = True
        utility[layer][worst] = age[layer][worst] = 0
        due[layer] -= 1
    before, (state, metrics) = state, step(state, batch, key)
    count = sum(mask.sum() for mask in replaced.values())
    assert metrics['ContinualBackprop/Reset'] == count
    total += count
    for layer, record in state.extra.items():
      np.testing.assert_array_equal(record.age, age[layer])
      np.testing.assert_allclose(record.utility, utility[layer], rtol=1e-4, atol=1e-6)
      np.testing.assert_allclose(record.due, due[layer], atol=1e-5)
    masks = {layer: jnp.asarray(mask) for layer, mask in replaced.items()}
    into, out_of = graph.masks(masks, before.params)
    fresh = jax.jit(learner.context.init)(jax.random.split(key)[1])
    pick = lambda i, o, new, old: np.where(o, 0, np.where(i, new, old))
    assert_equal(state.params, jax.tree.map(pick, into, out_of, fresh, before.params))
  assert total > 5


@pytest.mark.exhaustive
def test_before_maturity_it_trains_as_without():
  ends = []
  for remedies in ({}, {'cbp': ContinualBackprop(1.0, maturity=3)}):
    learner = small_learners.make('SAC', remedies)
    state, info = learner.update_many(
      small_learners.start(learner), small_learners.batches('SAC', 3)
    )
    ends.append(state._replace(extra={}))
  assert np.all(np.asarray(info.metrics['ContinualBackprop/Reset']) == 0)
  assert_equal(*ends)


def test_of_an_actor_critic_the_critics_units_are_replaced():
  learner = small_learners.make('SAC', {'cbp': ContinualBackprop(1.0, maturity=0)})
  state = small_learners.start(learner)
  state, info = learner.update_many(state, small_learners.batches('SAC', 2))
  np.testing.assert_array_equal(info.metrics['ContinualBackprop/Reset'], 4)  # One a layer.
  for layer, record in state.extra['cbp'].items():
    assert np.all(record.age == 0) == layer.startswith('actor'), layer


def test_rate_0_is_out_of_the_program_and_seeds_are_apart():
  assert small_learners.make('DQN', {'cbp': ContinualBackprop(rate=0.0)}).remedies == {}
  learner = small_learners.make('DQN', {'cbp': ContinualBackprop(0.2, maturity=1)})
  batches = [small_learners.batches('DQN', 4, seed) for seed in (1, 2)]
  states = [small_learners.start(learner, seed) for seed in (1, 2)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
  together, _ = learner.over_seeds(2).update_many(
    stacked, jax.tree.map(lambda *x: np.stack(x, 1), *batches)
  )
  for seed in range(2):
    alone, info = learner.update_many(small_learners.start(learner, seed + 1), batches[seed])
    assert np.sum(np.asarray(info.metrics['ContinualBackprop/Reset'])) > 0
    jax.tree.map(
      lambda a, b, s=seed: np.testing.assert_allclose(a, b[s], rtol=1e-4, atol=1e-5),
      alone,
      together,
    )

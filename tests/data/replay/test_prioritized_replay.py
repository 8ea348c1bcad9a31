"""Prioritised replay: what is drawn and how often, its weights, and Dopamine's buffer beside it."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.data.replay import online_replay, prioritized_replay
from tests.data import reference
from tests.data.replay.test_online_replay import complete_transitions, episodes_of, fill


def make(**kwargs):
  settings = dict(stack_size=2, update_horizon=2, gamma=0.9, seed=3, capacity=20) | kwargs
  return prioritized_replay.PrioritizedReplay((2, 3), **settings)


def order_of(episodes, total, capacity=20, stack_size=2, horizon=2):
  """The complete transitions, oldest first: {the state's bytes: (place, transition)}."""
  found = complete_transitions(episodes, total, capacity, stack_size, horizon, 0.9)
  return {t['state'].tobytes(): (place, t) for place, t in enumerate(found.values())}


def places(batch, order):
  """Which transitions a batch [K, B] holds."""
  return np.array(
    [[order[state.tobytes()][0] for state in states] for states in batch.state], np.int64
  )


@hypothesis.given(
  lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
  data=st.data(),
  capacity=st.integers(8, 30),
  stack_size=st.integers(1, 4),
  horizon=st.integers(1, 4),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_draws_only_complete_transitions_each_with_its_priority(
  lengths, data, capacity, stack_size, horizon
):
  """Steps come one by one with draws between, as in training; a dictionary keeps priorities too."""
  terminals = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
  episodes = reference.random_episodes(np.random.default_rng(1), lengths, terminals, shape=(3, 3))
  replay = prioritized_replay.PrioritizedReplay(
    (3, 3), stack_size=stack_size, update_horizon=horizon, gamma=0.9, capacity=capacity
  )
  rng = np.random.default_rng(2)
  expected, largest = {}, 1.0
  for total, step in enumerate([s for episode in episodes for s in episode], start=1):
    fill([[step]], replay)
    if rng.integers(3):
      continue
    order = order_of(episodes, total, capacity, stack_size, horizon)
    expected = {state: expected.get(state, largest) for state in order}
    if not order:
      with pytest.raises(ValueError, match='nothing to sample'):
        replay.sample(total, 1, 4)
      continue
    batch = replay.sample(total, 1, 6)
    states = [state.tobytes() for state in batch.state[0]]
    unweighted = batch._replace(weight=np.ones_like(batch.weight))
    for i, state in enumerate(states):
      reference.assert_transition(unweighted, (0, i), order[state][1])
    probability = np.array([expected[state] for state in states]) / sum(expected.values())
    weight = (probability + 1e-10) ** -0.5
    np.testing.assert_allclose(batch.weight[0], weight / weight.max(), rtol=1e-5)
    seen = {state: float(rng.exponential()) for state in states}
    replay.update_priorities(np.array([seen[state] for state in states]))
    expected |= seen
    largest = max(largest, *seen.values())
  tree = replay._tree
  held = tree.get(np.arange(capacity))
  assert tree.total == pytest.approx(held.sum())


def test_draws_are_proportional_and_stratified():
  """Counts stray no more than independent draws' would; each stratum is a piece of the sum."""
  episodes, replay = episodes_of(), make(capacity=64)
  order = order_of(episodes, fill(episodes, replay), 64)
  drawn = places(replay.sample(0, 1, 64), order)[0]
  p = np.random.default_rng(0).exponential(size=len(order)) ** 2 + 0.01
  replay.update_priorities(p[drawn])
  p = np.where(np.isin(np.arange(len(p)), drawn), p, 1.0)
  expected = p / p.sum()
  updates, size = 2000, 8
  batch = replay.sample(0, updates, size)
  found = places(batch, order)
  counts = np.bincount(found.ravel(), minlength=len(order))
  deviation = np.sqrt(updates * size * expected * (1 - expected))
  assert np.abs((counts - updates * size * expected) / deviation).max() < 4
  edges = np.append(0, np.cumsum(expected)) * size
  for stratum in range(size):
    assert (edges[found[:, stratum]] < stratum + 1).all()
    assert (edges[found[:, stratum] + 1] > stratum).all()
  weight = 1 / np.sqrt(expected[found])
  np.testing.assert_allclose(batch.weight, weight / weight.max(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(('alpha', 'beta'), [(0.6, 0.4), (0.0, 1.0), (1.0, 0.0)])
def test_the_exponents_are_the_papers(alpha, beta):
  """Schaul et al. (2016), equation 1 and section 3.4."""
  episodes, replay = episodes_of(), make(priority_exponent=alpha, weight_exponent=beta)
  order = order_of(episodes, fill(episodes, replay))
  drawn = places(replay.sample(0, 1, 256), order)[0]
  assert set(drawn) == set(range(len(order))), 'so that every priority is known'
  p = np.random.default_rng(0).exponential(size=len(order))
  replay.update_priorities(p[drawn])
  expected = p**alpha / np.sum(p**alpha)
  batch = replay.sample(1, 1, 32)
  weight = (len(order) * expected[places(batch, order)[0]]) ** -beta
  np.testing.assert_allclose(batch.weight[0], weight / weight.max(), rtol=1e-5)


def test_semantics_are_dopamines():
  """The same steps and priorities give the same probabilities, largest priority and weights.

  One long episode: at an episode's end Dopamine's accumulator makes one transition less.
  """
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.replay_memory import accumulator, elements, replay_buffer, samplers

  ours = make(capacity=32, stack_size=1)
  size = 32 - 2  # It counts transitions, ours counts rows; n of them wait for their next state.
  sampler = samplers.PrioritizedSamplingDistribution(seed=0, max_capacity=size)
  theirs = replay_buffer.ReplayBuffer(
    accumulator.TransitionAccumulator(stack_size=1, update_horizon=2, gamma=0.9),
    sampler,
    batch_size=8,
    max_capacity=size,
  )
  (episode,) = reference.random_episodes(np.random.default_rng(0), (100,), (False,))
  rng, tree = np.random.default_rng(1), sampler._sum_tree
  for written, step in enumerate(episode[:-1], start=1):
    fill([[step]], ours)
    theirs.add(
      elements.TransitionElement(step.observation, step.action, step.reward, False, False),
      priority=tree.max_recorded_priority,
    )
    if written < 6 or written % 3:
      continue
    order = order_of([episode], written, 32, stack_size=1)
    assert len(order) == len(theirs._memory)
    batch = ours.sample(written, 1, 8)
    keys = np.array(list(theirs._memory))[places(batch, order)[0]]  # Keys grow with time.
    for state, key in zip(batch.state[0], keys, strict=True):
      np.testing.assert_array_equal(theirs._memory[key].unpack().state[..., 0], state[0])
    probability = tree.get(np.array([sampler._index_by_key[key] for key in keys])) / tree.root
    weight = 1 / np.sqrt(probability + 1e-10)
    np.testing.assert_allclose(batch.weight[0], weight / weight.max(), rtol=1e-6)
    # One number for each transition, also where one was drawn twice.
    loss = rng.exponential(size=8)[np.unique(keys, return_inverse=True)[1]]
    ours.update_priorities(np.sqrt(loss + 1e-10))
    theirs.update(keys, priorities=np.sqrt(loss + 1e-10))
    assert ours._largest == tree.max_recorded_priority
    np.testing.assert_allclose(ours._tree.total, tree.root, rtol=1e-12)
  assert ours._largest > 1


def test_the_last_transition_has_its_reward_where_dopamines_accumulator_drops_it():
  """Should this fail, Dopamine has changed: docs/agents/dqn.md says what it does."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.replay_memory import accumulator, elements

  ours = make(stack_size=1, update_horizon=1)
  theirs, stored = accumulator.TransitionAccumulator(1, 1, 0.9), []
  for t in range(1, 5):
    observation = np.full((2, 3), t, np.uint8)
    ours.add(observation, 0, 10.0 * t, t == 4)
    stored += theirs.accumulate(
      elements.TransitionElement(observation, 0, 10.0 * t, t == 4, t == 4)
    )
  assert [(e.reward, e.is_terminal) for e in stored] == [(10, False), (20, False), (30, True)]
  batch = ours.sample(0, 1, 64)
  found = {*zip(batch.reward[0].tolist(), batch.discount[0].tolist(), strict=True)}
  assert found == {(10, 1), (20, 1), (30, 1), (40, 0)}


def train(replay, steps, first=0):
  """Adds steps, and after every third draws, and gives back what a learner might."""
  drawn = []
  for number, step in enumerate(steps, start=first + 1):
    fill([[step]], replay)
    if number >= 6 and number % 3 == 0:
      batch = replay.sample(number, 1, 5)
      replay.update_priorities(np.abs(batch.reward[0]) * number)
      drawn.append(batch)
  return drawn


@pytest.mark.parametrize('total', [1, 7, 20, 23, 30])
def test_a_restored_memory_goes_on_as_if_never_stopped(total):
  steps = [s for e in episodes_of((7, 9, 11, 8), (True, False, True, True)) for s in e]
  whole, before, after = make(), make(), make()
  straight = train(whole, steps)
  first = train(before, steps[:total])
  after.load_state_dict(before.state_dict())
  resumed = first + train(after, steps[total:], total)
  for a, b in zip(straight, resumed, strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)
  for name, array in whole.state_dict().items():
    np.testing.assert_array_equal(array, after.state_dict()[name])
  np.testing.assert_array_equal(whole._tree._nodes, after._tree._nodes)


def test_grouping_of_updates_changes_nothing():
  replay = make()
  fill(episodes_of(), replay)
  whole = replay.sample(3, 6, 5)
  for k in range(6):
    for a, b in zip(whole, replay.sample(3 + k, 1, 5), strict=True):
      np.testing.assert_array_equal(a if a is None else a[k], b if b is None else b[0])


def test_priorities_of_rows_that_are_gone_are_dropped():
  episodes, replay = episodes_of((20, 20), (True, True)), make()
  fill(episodes, replay, 20)
  replay.sample(0, 1, 8)
  fill([episodes[1]], replay)  # Every row that was drawn is overwritten.
  replay.update_priorities(np.full(8, 99.0))
  np.testing.assert_array_equal(replay._tree.get(np.arange(20)), 1.0)


def test_the_fixed_batch_is_uniform_and_unweighted():
  uniform = online_replay.OnlineReplay(
    (2, 3), stack_size=2, update_horizon=2, gamma=0.9, seed=3, capacity=20
  )
  replay = make()
  for memory in (uniform, replay):
    fill(episodes_of(), memory)
  replay.sample(0, 1, 8)
  replay.update_priorities(np.arange(8.0))
  for a, b in zip(uniform.fixed_batch(64), replay.fixed_batch(64), strict=True):
    np.testing.assert_array_equal(a, b)


def test_wrong_input_is_refused():
  with pytest.raises(ValueError, match=r'PrioritizedReplay\.priority_exponent must be at least 0'):
    make(priority_exponent=-1.0)
  replay = make()
  fill(episodes_of(), replay)
  replay.sample(0, 1, 4)
  with pytest.raises(ValueError, match='4 transitions were drawn, 3 priorities'):
    replay.update_priorities(np.ones(3))
  with pytest.raises(ValueError, match=r'training diverged.*@OnlineReplay'):
    replay.update_priorities(np.array([1.0, np.nan, 1.0, 1.0]))
  uniform = online_replay.OnlineReplay(
    (2, 3), stack_size=2, update_horizon=2, gamma=0.9, capacity=20
  )
  with pytest.raises(ValueError, match='replay without priorities'):
    make().load_state_dict(uniform.state_dict())

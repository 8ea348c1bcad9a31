"""The ring buffer against a direct implementation that keeps whole episodes."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.data.replay import online_replay
from tests.data import reference


def fill(episodes, replay, total=None):
  """Adds the first `total` steps."""
  steps = [s for episode in episodes for s in episode][:total]
  for s in steps:
    replay.add(s.observation, s.action, s.reward, s.terminal, s.episode_end)
  return len(steps)


def complete_transitions(episodes, total, capacity, stack_size, horizon, gamma):
  """What a memory of `capacity` may return after `total` steps: {first frame of state: ...}."""
  found, row = {}, 0
  for episode in episodes:
    start = row
    written = episode[: max(0, total - start)]
    for t in range(len(written)):
      transition = reference.transition(written, t, stack_size, horizon, gamma)
      oldest_frame = max(start, start + t - stack_size + 1)
      if transition and oldest_frame >= total - capacity:
        found[start + t] = transition
    row += len(episode)
  return found


@hypothesis.given(
  lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
  data=st.data(),
  capacity=st.integers(8, 40),
  stack_size=st.integers(1, 4),
  horizon=st.integers(1, 4),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_draws_exactly_the_complete_transitions(lengths, data, capacity, stack_size, horizon):
  terminals = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
  total = data.draw(st.integers(1, sum(lengths)))
  episodes = reference.random_episodes(np.random.default_rng(1), lengths, terminals, shape=(3, 3))
  replay = online_replay.OnlineReplay(
    (3, 3), stack_size=stack_size, update_horizon=horizon, gamma=0.9, capacity=capacity
  )
  fill(episodes, replay, total)
  expected = complete_transitions(episodes, total, capacity, stack_size, horizon, 0.9)
  assert len(replay) == len(expected)
  assert replay.size == min(total, capacity)
  if not expected:
    with pytest.raises(ValueError, match='nothing to sample'):
      replay.sample(0, 1, 4)
    return
  by_state = {t['state'].tobytes(): t for t in expected.values()}
  batch = replay.sample(5, 3, 16)
  for index in np.ndindex(3, 16):
    reference.assert_transition(batch, index, by_state[batch.state[index].tobytes()])


def make(**kwargs):
  settings = dict(stack_size=2, update_horizon=2, gamma=0.9, seed=3, capacity=20) | kwargs
  return online_replay.OnlineReplay((2, 3), **settings)


def episodes_of(lengths=(7, 9, 11), terminals=(True, False, True)):
  return reference.random_episodes(np.random.default_rng(0), lengths, terminals)


def test_draws_are_uniform_over_complete_transitions():
  episodes, replay = episodes_of(), make()
  total = fill(episodes, replay)
  expected = complete_transitions(episodes, total, 20, 2, 2, 0.9)
  order = {t['state'].tobytes(): i for i, t in enumerate(expected.values())}
  states = replay.sample(0, 500, 32).state.reshape(-1, 2, 2, 3)
  counts = np.bincount([order[s.tobytes()] for s in states], minlength=len(order))
  from scipy import stats

  assert stats.chisquare(counts).pvalue > 1e-4


def test_grouping_of_updates_changes_nothing():
  replay = make()
  fill(episodes_of(), replay)
  whole = replay.sample(3, 6, 5)
  for k in range(6):
    part = replay.sample(3 + k, 1, 5)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
      np.testing.assert_array_equal(a[k], b[0])


@pytest.mark.parametrize('total', [1, 10, 20, 23, 27])
def test_a_restored_memory_goes_on_as_if_never_stopped(total):
  steps = [s for e in episodes_of() for s in e]
  whole, before, after = make(), make(), make(seed=3)
  fill([steps], whole)
  fill([steps[:total]], before)
  after.load_state_dict(before.state_dict())
  fill([steps[total:]], after)
  for a, b in zip(whole.sample(0, 2, 8), after.sample(0, 2, 8), strict=True):
    np.testing.assert_array_equal(a, b)
  saved = whole.state_dict()
  assert set(saved) == set(after.state_dict())
  for name, array in after.state_dict().items():
    np.testing.assert_array_equal(array, saved[name])


def test_an_unfitting_checkpoint_is_refused():
  small = make(capacity=10)
  fill(episodes_of(), small)
  with pytest.raises(ValueError, match='Resume with the settings'):
    make().load_state_dict(small.state_dict())
  with pytest.raises(ValueError, match="lacks \\['added'"):
    make().load_state_dict({k: v for k, v in small.state_dict().items() if k != 'added'})


def test_end_episode_closes_the_newest_row():
  replay = make(stack_size=3, update_horizon=1)
  for value in (1, 2):
    replay.add(np.full((2, 3), value, np.uint8), 0, 0.0, False)
  replay.end_episode()
  for value in (3, 4):
    replay.add(np.full((2, 3), value, np.uint8), 0, 0.0, False)
  assert len(replay) == 2  # 1 to 2, and 3 to 4: nothing leads from 2 to 3.
  states = replay.sample(0, 1, 64).state[0, :, :, 0, 0].tolist()
  assert sorted({tuple(s) for s in states}) == [(0, 0, 1), (0, 0, 3)]


def test_wrong_input_is_refused():
  with pytest.raises(ValueError, match='capacity must be at least'):
    make(capacity=3)
  with pytest.raises(ValueError, match='Expected an observation of shape'):
    make().add(np.zeros((3, 3)), 0, 0.0, False)
  with pytest.raises(ValueError, match='terminal step ends'):
    make().add(np.zeros((2, 3)), 0, 0.0, True, False)

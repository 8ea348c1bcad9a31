"""Sources whose targets change: what they change, what they leave, how updates are grouped."""

import functools

import jax
import numpy as np
import pytest

from implicit_rl.data import source
from implicit_rl.data.sources.changing import LateReward, RandomTargets
from implicit_rl.gridworld.offline_data import GridworldData

TOLD = {
  'stack_size': 1,
  'update_horizon': 1,
  'gamma': 0.95,
  'seed': 3,
  'observation_shape': (16,),
  'observation_dtype': np.float32,
}
DATA = functools.partial(GridworldData, size=200)


def equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
  'make', [functools.partial(LateReward, reveal_at=5), functools.partial(RandomTargets, period=3)]
)
def test_updates_draw_the_same_however_they_are_grouped(make):
  made = make(source=DATA, **TOLD)
  source.check_source(made)
  whole = made.sample(2, 6, 8)
  for first, count in ((0, 1), (1, 3), (4, 2)):
    part = jax.tree.map(lambda x, a=first, n=count: x[a : a + n], whole)
    equal(made.sample(2 + first, count, 8), part)
  equal(made.fixed_batch(32), DATA(**TOLD).fixed_batch(32))
  assert made.describe()[make.func.__name__] == made.identity()[make.func.__name__]
  for name in ('observation_shape', 'stack_size', 'max_action', 'reward_range', 'return_range'):
    assert getattr(made, name) == getattr(DATA(**TOLD), name)


def test_rewards_are_hidden_until_they_are_revealed():
  plain = DATA(**TOLD).sample(0, 8, 16)
  late = LateReward(source=DATA, reveal_at=5, **TOLD).sample(0, 8, 16)
  assert plain.reward[:5].any() and not late.reward[:5].any()
  np.testing.assert_array_equal(late.reward[5:], plain.reward[5:])
  equal(late._replace(reward=plain.reward), plain)


def test_a_task_is_one_function_of_state_and_action():
  """Against the formula, with directions recovered by least squares from the targets alone."""
  made = RandomTargets(source=DATA, period=4, frequency=0.5, **TOLD)
  batch = made.sample(0, 8, 64)
  found = []
  for task in (slice(0, 4), slice(4, 8)):
    states = batch.state[task].reshape(-1, 16).astype(np.float64)
    actions, targets = batch.action[task].reshape(-1), batch.return_to_go[task].reshape(-1)
    assert len(states) > 16 * 5 and np.abs(targets).max() <= 1
    # Below π/2 the sine can be undone; a phase is linear in the state.
    assert np.linalg.norm(states, axis=1).max() * 0.5 < np.pi / 2
    for action in range(5):
      here = actions == action
      phase = np.arcsin(targets[here].astype(np.float64))
      direction, *_ = np.linalg.lstsq(0.5 * states[here], phase, rcond=1e-4)
      np.testing.assert_allclose(0.5 * states[here] @ direction, phase, atol=1e-3)
      found.append(phase.std())
  assert len(set(np.round(found, 6))) == 10


def test_tasks_and_seeds_have_directions_of_their_own():
  made = RandomTargets(source=DATA, period=4, **TOLD)
  other = RandomTargets(source=DATA, period=4, **TOLD | {'seed': 4})
  one, two, three = made._directions(0), made._directions(1), other._directions(0)
  np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1)
  for a, b in ((one, two), (one, three), (two, three)):
    assert np.abs(np.sum(a * b, axis=1)).max() < 0.9


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (functools.partial(LateReward, reveal_at=-1), 'LateReward.reveal_at must be a whole number'),
    (functools.partial(RandomTargets, period=0), 'RandomTargets.period must be a whole number'),
    (functools.partial(RandomTargets, frequency=0), 'RandomTargets.frequency must be a number'),
  ],
)
def test_settings_out_of_range_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make(source=DATA, **TOLD)

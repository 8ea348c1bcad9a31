"""The gridworld's dataset as a data source: values by an independent solver, dynamics, refusals."""

import numpy as np
import pytest

from implicit_rl.data import source
from implicit_rl.gridworld import mdp
from implicit_rl.gridworld.offline_data import GridworldData


def make(**settings):
  return GridworldData(**{'gamma': 0.9, 'seed': 1, 'size': 400} | settings)


def optimal_values(world, gamma):
  """Q* by policy iteration with exact linear solves: [S, A]."""
  size = len(world.rewards)
  policy = np.zeros(size, np.int64)
  while True:
    moves = world.transitions[np.arange(size), policy]
    values = np.linalg.solve(np.eye(size) - gamma * moves, world.rewards[np.arange(size), policy])
    q_values = world.rewards + gamma * world.transitions @ values
    better = np.where(
      q_values.max(1) > q_values[np.arange(size), policy] + 1e-9, q_values.argmax(1), policy
    )
    if (better == policy).all():
      return q_values
    policy = better


@pytest.mark.parametrize('shift', [0.0, 2.0])
def test_transitions_are_the_worlds_and_returns_are_optimal_values(shift):
  made = make(reward_shift=shift, world_seed=2)
  source.check_source(made)
  world = mdp.make_gridworld(2, discount=0.9)
  q_values = optimal_values(world, 0.9) + shift / (1 - 0.9)
  assert len(made) == 400 and made.max_action == 4
  (batch,) = made.in_order(1000)
  observed = world.observations.astype(np.float32)
  cells, following = (
    np.array([np.flatnonzero((observed == one[0]).all(1))[0] for one in seen])
    for seen in (batch.state, batch.next_state)
  )
  np.testing.assert_allclose(batch.reward, world.rewards[cells, batch.action] + shift, rtol=1e-5)
  np.testing.assert_allclose(batch.return_to_go, q_values[cells, batch.action], rtol=1e-4)
  assert (world.transitions[cells, batch.action, following] > 0).all()
  assert (batch.discount == 1).all() and np.ptp(batch.next_action) == 4
  known = batch.return_to_go
  assert made.return_range == pytest.approx((known.min(), known.max()))
  assert made.reward_range == pytest.approx((batch.reward.min(), batch.reward.max()))


def test_each_seed_has_data_of_its_own():
  one, two = make(), make(seed=2)
  assert one.with_seed(2) is None and one.identity() != two.identity()
  assert not np.array_equal(one.fixed_batch(50).state, two.fixed_batch(50).state)
  np.testing.assert_array_equal(one.fixed_batch(50).state, make().fixed_batch(50).state)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'update_horizon': 3}, 'Agent.update_horizon must be 1, got 1 and 3'),
    ({'observation_shape': (7,)}, r'observations of shape \(16,\), the environment \(7,\)'),
    ({'size': 0}, 'A dataset of 0 transitions'),
  ],
)
def test_what_does_not_fit_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    make(**settings)

"""Played datasets: episodes obey gymnasium's physics and the policy; whole episodes; refusals."""

import functools

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.data import source
from implicit_rl.data.sources.rollouts import Rollouts, push_under_pole
from implicit_rl.environments.gymnax import GymnaxEnvironment
from implicit_rl.gridworld.environment import GridworldEnvironment

CARTPOLE = functools.partial(GymnaxEnvironment, 'CartPole-v1')


@pytest.fixture(scope='module')
def cartpole():
  return Rollouts(
    environment=CARTPOLE,
    policy=push_under_pole,
    size=800,
    seed=1,
    num_environments=2,
    return_to_go=True,
  )


def test_transitions_obey_gymnasiums_physics(cartpole):
  source.check_source(cartpole)
  (batch,) = cartpole.in_order(1000)
  game = gymnasium.make('CartPole-v1').unwrapped
  game.reset(seed=0)
  for state, action, following, left in zip(
    batch.state[:, 0], batch.action, batch.next_state[:, 0], batch.discount, strict=True
  ):
    game.state, game.steps_beyond_terminated = state, None
    expected, _, terminated, _, _ = game.step(int(action))
    assert terminated == (left == 0)
    if left:
      np.testing.assert_allclose(following, expected, rtol=1e-4, atol=1e-5)


def test_the_policy_acts_but_for_a_share_of_random_actions(cartpole):
  (batch,) = cartpole.in_order(1000)
  scripted = (batch.state[:, 0, 2] + batch.state[:, 0, 3] > 0).astype(np.int32)
  agree = np.mean(scripted == batch.action)  # 1 − ε/2 = 0.85, give or take 5 standard errors
  assert abs(agree - 0.85) < 5 * np.sqrt(0.85 * 0.15 / len(batch.action))


def test_episodes_are_whole_and_returns_are_sums_of_ones(cartpole):
  """All rewards are 1, so the return of a row with k steps to its end is (1 − γᵏ)/(1 − γ)."""
  (batch,) = cartpole.in_order(1000)
  ended = batch.discount == 0
  assert ended[-1] and ended.sum() > 1
  at = np.arange(len(ended))
  left = np.flatnonzero(ended)[np.searchsorted(np.flatnonzero(ended), at)] - at + 1
  np.testing.assert_allclose(batch.return_to_go, (1 - 0.99**left) / 0.01, rtol=1e-4)
  assert len(cartpole) <= 800 and len(cartpole) == cartpole.describe()['rows']


def test_seeds_play_other_episodes(cartpole):
  make = functools.partial(
    Rollouts, environment=CARTPOLE, policy=push_under_pole, size=800, num_environments=2
  )
  same, other = make(seed=1), make(seed=2)
  np.testing.assert_array_equal(same.fixed_batch(9).state, cartpole.fixed_batch(9).state)
  assert not np.array_equal(same.fixed_batch(9).state, other.fixed_batch(9).state)
  assert cartpole.with_seed(2) is None


def test_without_a_policy_actions_are_uniform_and_time_limits_cut():
  made = Rollouts(environment=GridworldEnvironment, size=800, observation_shape=(16,))
  counts = np.bincount(made.in_order(1000).__next__().action, minlength=5)
  assert counts.min() > 0.1 * counts.sum()
  assert made.describe()['terminals'] == 0 and made.describe()['segments'] == 16


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'epsilon': 2.0}, 'Rollouts.epsilon must be a number in'),
    ({'size': 2}, 'Rollouts.size must be a whole number of at least 8'),
    ({'stack_size': 4}, 'stack_size must be 1, got 4'),
    ({'observation_shape': (3,)}, r'observations of shape \(4,\), the agent takes \(3,\)'),
    ({'size': 8}, 'no episode of CartPole-v1 ended within 8 steps'),
  ],
)
def test_what_does_not_fit_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    Rollouts(**{'environment': CARTPOLE} | settings)


def test_an_environment_without_rules_is_refused():
  class Host:
    name = 'Host'

    def __init__(self, seed):
      del seed

  with pytest.raises(ValueError, match='Host has no rules'):
    Rollouts(environment=Host)


def test_the_scripted_policy_pushes_to_the_falling_side():
  for angle, speed, action in ((0.1, 0.2, 1), (-0.1, -0.2, 0), (0.1, -0.5, 0)):
    assert push_under_pole(jnp.array([1.0, 2.0, angle, speed])) == action

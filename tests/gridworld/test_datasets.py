"""Datasets: distributions, order, and Monte Carlo returns against exact values."""

import numpy as np
import pytest

from implicit_rl.gridworld import datasets, mdp, oracle


def test_uniform_data_has_the_right_distribution():
  world = mdp.make_gridworld(0)
  data = datasets.uniform_data(world, 205_000, seed=1)
  assert not world.walls[data.state].any() and not world.walls[data.next_state].any()
  counts = np.bincount(data.state * 5 + data.action, minlength=1280).reshape(256, 5)
  expected = 205_000 / (205 * 5)
  chi_square = np.square(counts[world.free_cells] - expected).sum() / expected
  assert abs(chi_square - 1024) < 5 * np.sqrt(2 * 1024)  # 1024 degrees of freedom
  np.testing.assert_array_equal(data.reward, world.rewards[data.state, data.action])
  assert datasets.coverage(world, data) == 1.0


def test_next_states_follow_the_transition_matrix():
  world = mdp.make_gridworld(0)
  rng = np.random.default_rng(0)
  cell, n = world.start, 100_000
  following = datasets.step(world, rng, np.full(n, cell), np.full(n, 3))
  frequency = np.bincount(following, minlength=256) / n
  probability = world.transitions[cell, 3]
  assert np.abs(frequency - probability).max() < 5 * np.sqrt(0.25 / n)


def test_rollouts_are_trajectories_that_begin_at_the_start():
  world = mdp.make_gridworld(2, horizon=20)
  data = datasets.rollout_data(world, oracle.uniform_policy(world), 95, seed=3)
  assert len(data.state) == 95
  begins = np.arange(95) % 20 == 0
  assert (data.state[begins] == world.start).all()
  follows = ~begins[1:]
  np.testing.assert_array_equal(data.state[1:][follows], data.next_state[:-1][follows])


def test_monte_carlo_returns_average_to_the_policys_values():
  world = mdp.make_gridworld(1)
  policy = oracle.uniform_policy(world)
  n = 20_000
  state, action = np.full(n, world.start), np.full(n, 2)
  following = datasets.step(world, np.random.default_rng(0), state, action)
  data = datasets.Transitions(state, action, world.rewards[state, action], following)
  returns = datasets.monte_carlo_returns(world, policy, data, seed=5)
  want = oracle.policy_q_values(world, policy)[world.start, 2]
  assert abs(returns.mean() - want) < 4 * returns.std() / np.sqrt(n)


def test_the_seed_decides_the_data():
  world = mdp.make_gridworld(0)
  first, again = (datasets.uniform_data(world, 100, seed=9) for _ in range(2))
  other = datasets.uniform_data(world, 100, seed=10)
  np.testing.assert_array_equal(first.state, again.state)
  assert (first.state != other.state).any()
  with pytest.raises(ValueError, match='empty'):
    datasets.uniform_data(world, 0, seed=0)

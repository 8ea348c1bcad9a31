"""Dynamic programming against linear solves, linear programming and simulation."""

import numpy as np
import pytest
from scipy import optimize, sparse

from implicit_rl.gridworld import datasets, mdp, oracle


@pytest.mark.parametrize('temperature', [0.0, 0.1])
@pytest.mark.parametrize('reward', mdp.REWARDS)
def test_optimal_q_has_a_small_bellman_residual(reward, temperature):
  world = mdp.make_gridworld(0, reward=reward)
  q = oracle.optimal_q_values(world, temperature)
  residual = oracle.backup(world, oracle.state_values(q, temperature)) - q
  assert np.abs(residual).max() < 1e-8


@pytest.mark.parametrize('temperature', [0.0, 0.1])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_policy_values_equal_an_independent_linear_solve(seed, temperature):
  world = mdp.make_gridworld(seed)
  rng = np.random.default_rng(seed)
  policy = rng.dirichlet(np.ones(5), size=256)
  got = oracle.policy_q_values(world, policy, temperature)
  # The chain over state-action pairs: (I - γ P Π) q = r + γ P h, with h the policy's entropy bonus.
  chain = np.einsum('sat,tb->satb', world.transitions, policy).reshape(1280, 1280)
  entropy = -(policy * np.log(policy)).sum(axis=1)
  bonus = world.discount * temperature * (world.transitions @ entropy).reshape(-1)
  want = np.linalg.solve(np.eye(1280) - 0.95 * chain, world.rewards.reshape(-1) + bonus)
  np.testing.assert_allclose(got.reshape(-1), want, atol=1e-8)


def test_soft_optimum_is_the_value_of_its_own_policy_by_linear_solve():
  world = mdp.make_gridworld(0)
  q = oracle.optimal_q_values(world, 0.1)
  policy = oracle.soft_policy(q, 0.1)
  matrix = np.einsum('sa,sat->st', policy, world.transitions)
  entropy = -(policy * np.log(np.maximum(policy, 1e-300))).sum(axis=1)
  values = np.linalg.solve(
    np.eye(256) - 0.95 * matrix, (policy * world.rewards).sum(axis=1) + 0.1 * entropy
  )
  np.testing.assert_allclose(values, oracle.state_values(q, 0.1), atol=1e-8)


def test_hard_optimum_equals_linear_programming():
  world = mdp.make_gridworld(1)
  # min Σ v subject to v(s) ≥ r(s,a) + γ Σ P v for all (s, a).
  constraint = (0.95 * world.transitions - np.eye(256)[:, None, :]).reshape(1280, 256)
  solution = optimize.linprog(
    np.ones(256),
    A_ub=sparse.csr_array(constraint),
    b_ub=-world.rewards.reshape(-1),
    bounds=(None, None),
    method='highs',
  )
  values = oracle.state_values(oracle.optimal_q_values(world))
  np.testing.assert_allclose(values, solution.x, atol=1e-6)


def test_soft_optimum_tends_to_the_hard_one():
  world = mdp.make_gridworld(2)
  hard = oracle.optimal_q_values(world)
  for temperature in (1e-2, 1e-4):
    soft = oracle.optimal_q_values(world, temperature)
    gap = soft - hard
    assert (gap >= -1e-8).all()  # The entropy bonus is never negative.
    assert gap.max() <= temperature * np.log(5) * 0.95 / 0.05 + 1e-8


def test_returns_agree_with_simulation_and_with_a_linear_solve():
  world = mdp.make_gridworld(3)
  policy = oracle.epsilon_greedy_policy(oracle.optimal_q_values(world), 0.3)
  data = datasets.rollout_data(world, policy, 50 * 4000, seed=0)
  totals = data.reward.reshape(4000, 50).sum(axis=1)
  error = totals.std() / np.sqrt(4000)
  assert abs(oracle.episode_return(world, policy) - totals.mean()) < 4 * error
  matrix = np.einsum('sa,sat->st', policy, world.transitions)
  values = np.linalg.solve(np.eye(256) - 0.95 * matrix, (policy * world.rewards).sum(axis=1))
  assert oracle.discounted_return(world, policy) == pytest.approx(values[world.start], abs=1e-8)


def test_optimal_policy_beats_random_and_its_discounted_return_is_the_value():
  world = mdp.make_gridworld(4)
  q = oracle.optimal_q_values(world)
  greedy = oracle.soft_policy(q, 0.0)
  assert oracle.discounted_return(world, greedy) == pytest.approx(q.max(1)[world.start], abs=1e-7)
  uniform = oracle.uniform_policy(world)
  assert oracle.episode_return(world, greedy) > 2 * oracle.episode_return(world, uniform)


def test_policies_are_distributions_and_ties_are_shared():
  q = np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 2.0]])
  np.testing.assert_allclose(oracle.soft_policy(q, 0.0), [[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1]])
  np.testing.assert_allclose(oracle.epsilon_greedy_policy(q, 0.5)[1], [0.1, 0.1, 0.1, 0.1, 0.6])
  exponential = np.exp(q / 0.5)
  np.testing.assert_allclose(
    oracle.soft_policy(q, 0.5), exponential / exponential.sum(1, keepdims=True)
  )


def test_linear_fit_error_against_the_normal_equations():
  rng = np.random.default_rng(0)
  features, q = rng.normal(size=(205, 12)), rng.normal(size=(205, 5))
  weights = np.linalg.solve(features.T @ features, features.T @ q)
  want = np.mean((features @ weights - q) ** 2)
  assert oracle.linear_fit_error(features, q) == pytest.approx(want)
  doubled = np.concatenate([features, features, np.zeros((205, 3))], axis=1)
  assert oracle.linear_fit_error(doubled, q) == pytest.approx(want)
  assert oracle.linear_fit_error(q @ rng.normal(size=(5, 5)), q) < 1e-20
  assert np.isnan(oracle.linear_fit_error(np.full((4, 2), np.inf), q[:4]))


def test_bad_policies_and_temperatures_are_refused():
  world = mdp.make_gridworld(0)
  with pytest.raises(ValueError, match='sum to 1'):
    oracle.policy_q_values(world, np.ones((256, 5)))
  with pytest.raises(ValueError, match='temperature'):
    oracle.state_values(world.rewards, -0.1)
  with pytest.raises(ValueError, match='epsilon'):
    oracle.epsilon_greedy_policy(world.rewards, 1.5)

"""Exact solutions of a gridworld: optimal and policy values, returns, and fit errors.

Dynamic programming in NumPy float64. With a temperature τ > 0 values are those of maximum-entropy
control: V(s) = τ log Σ_a exp(Q(s,a)/τ) at the optimum, V^π(s) = Σ_a π(a|s)(Q(s,a) - τ log π(a|s))
for a policy; τ = 0 is ordinary control with the hard maximum.

Shapes: S cells, A actions, F free cells, d features.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax, xlogy

from implicit_rl.gridworld.mdp import Gridworld

TOLERANCE = 1e-10  # largest Bellman residual that ends an iteration


def state_values(q_values: np.ndarray, temperature: float = 0.0) -> np.ndarray:
  """Returns [S] optimal state values of `q_values` [S, A]: the hard or the soft maximum."""
  if temperature < 0:
    raise ValueError(f'temperature is {temperature}; it must not be negative.')
  if temperature == 0:
    return q_values.max(axis=1)
  return temperature * logsumexp(q_values / temperature, axis=1)


def policy_values(q_values: np.ndarray, policy: np.ndarray, temperature: float = 0.0) -> np.ndarray:
  """Returns [S] values of `policy` [S, A] under `q_values` [S, A], with the entropy bonus."""
  return (policy * q_values - temperature * xlogy(policy, policy)).sum(axis=1)


def backup(world: Gridworld, next_values: np.ndarray) -> np.ndarray:
  """Returns [S, A] r(s,a) + γ E[V(s')] for `next_values` [S]."""
  return world.rewards + world.discount * world.transitions @ next_values


def optimal_q_values(
  world: Gridworld, temperature: float = 0.0, tolerance: float = TOLERANCE
) -> np.ndarray:
  """Value iteration.

  Args:
    world: the MDP.
    temperature: τ; 0 for the hard maximum.
    tolerance: the iteration ends when the Bellman residual, the largest change by one backup, is
      below it.

  Returns:
    [S, A] float64, Q*.
  """
  q_values = np.zeros_like(world.rewards)
  while True:
    backed_up = backup(world, state_values(q_values, temperature))
    residual = np.abs(backed_up - q_values).max()
    q_values = backed_up
    if residual < tolerance:  # The next residual is smaller still: the backup is a contraction.
      return q_values


def policy_q_values(
  world: Gridworld, policy: np.ndarray, temperature: float = 0.0, tolerance: float = TOLERANCE
) -> np.ndarray:
  """Iterative policy evaluation of `policy` [S, A]: returns Q^π, [S, A] float64."""
  check_policy(policy)
  q_values = np.zeros_like(world.rewards)
  while True:
    backed_up = backup(world, policy_values(q_values, policy, temperature))
    residual = np.abs(backed_up - q_values).max()
    q_values = backed_up
    if residual < tolerance:
      return q_values


def check_policy(policy: np.ndarray) -> None:
  """Raises ValueError if a row of `policy` [S, A] is not a probability distribution."""
  if (policy < 0).any() or not np.allclose(policy.sum(axis=1), 1.0):
    raise ValueError('A policy needs rows of non-negative probabilities that sum to 1.')


def uniform_policy(world: Gridworld) -> np.ndarray:
  """Returns the [S, A] uniform policy."""
  return np.full(world.rewards.shape, 1.0 / world.rewards.shape[1])


def soft_policy(q_values: np.ndarray, temperature: float) -> np.ndarray:
  """Returns the [S, A] policy ∝ exp(Q/τ); at temperature 0 the greedy one, with ties shared."""
  if temperature == 0:
    return epsilon_greedy_policy(q_values, 0.0)
  return softmax(q_values / temperature, axis=1)


def epsilon_greedy_policy(q_values: np.ndarray, epsilon: float) -> np.ndarray:
  """Returns the [S, A] ε-greedy policy, with ties shared."""
  if not 0 <= epsilon <= 1:
    raise ValueError(f'epsilon is {epsilon}; choose one in [0, 1].')
  best = (
    q_values >= q_values.max(axis=1, keepdims=True) - 1e-9
  )  # Up to value iteration's tolerance.
  greedy = best / best.sum(axis=1, keepdims=True)
  return (1 - epsilon) * greedy + epsilon / q_values.shape[1]


def episode_return(world: Gridworld, policy: np.ndarray) -> float:
  """Returns the exact expected sum of rewards of one episode of `horizon` steps from the start."""
  check_policy(policy)
  rewards = (policy * world.rewards).sum(axis=1)  # [S]
  matrix = np.einsum('sa,sat->st', policy, world.transitions)  # [S, S]
  values = np.zeros(len(rewards))
  for _ in range(world.horizon):
    values = rewards + matrix @ values
  return float(values[world.start])


def discounted_return(world: Gridworld, policy: np.ndarray) -> float:
  """Returns the expected discounted reward Σ γ^t r_t from the start, without entropy bonus."""
  q_values = policy_q_values(world, policy)
  return float((policy * q_values).sum(axis=1)[world.start])


def linear_fit_error(features: np.ndarray, q_values: np.ndarray) -> float:
  """Returns the mean squared error of the best linear map from features to Q (Figure 4a).

  Args:
    features: [F, d] Φ.
    q_values: [F, A], usually Q*.

  Returns:
    min_W mean((ΦW - Q)²); NaN if a feature is not finite.
  """
  if not np.isfinite(features).all():
    return float('nan')
  weights = np.linalg.lstsq(features, q_values, rcond=None)[0]
  return float(np.square(features @ weights - q_values).mean())

"""Fixed datasets of gridworld transitions: uniform state-action pairs, or rollouts of a policy.

Transitions are stored as cell indices; the learner looks observations up. Shapes: N transitions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from implicit_rl.gridworld import oracle
from implicit_rl.gridworld.mdp import NUM_ACTIONS, Gridworld


class Transitions(NamedTuple):
  """A dataset.

  Attributes:
    state: [N] int64, cells.
    action: [N] int64.
    reward: [N] float64.
    next_state: [N] int64, cells. No transition is terminal: episodes are only truncated.
  """

  state: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  next_state: np.ndarray


def uniform_data(world: Gridworld, size: int, seed: int) -> Transitions:
  """Draws `size` pairs (s, a) independently and uniformly over free cells and actions."""
  _check_size(size)
  rng = np.random.default_rng([seed, 2])
  state = rng.choice(world.free_cells, size)
  action = rng.integers(NUM_ACTIONS, size=size)
  return _completed(world, rng, state, action)


def rollout_data(world: Gridworld, policy: np.ndarray, size: int, seed: int) -> Transitions:
  """Runs `policy` [S, A] for `size` steps in episodes of `world.horizon` steps from the start."""
  _check_size(size)
  oracle.check_policy(policy)
  rng = np.random.default_rng([seed, 3])
  episodes = -(-size // world.horizon)
  cell = np.full(episodes, world.start)
  states, actions, next_states = [], [], []
  for _ in range(world.horizon):
    action = sample_actions(rng, policy[cell])
    following = step(world, rng, cell, action)
    states.append(cell)
    actions.append(action)
    next_states.append(following)
    cell = following
  ordered = [np.stack(x, axis=1).reshape(-1)[:size] for x in (states, actions, next_states)]
  state, action, next_state = ordered  # Episode by episode, in chronological order.
  return Transitions(state, action, world.rewards[state, action], next_state)


def monte_carlo_returns(
  world: Gridworld,
  policy: np.ndarray,
  data: Transitions,
  seed: int,
  steps: int = 300,
) -> np.ndarray:
  """Samples Σ_{i≥0} γ^i r_{t+i} once for each transition, continuing it with `policy` [S, A].

  Args:
    world: the MDP.
    policy: acts after the transition.
    data: transitions at which the sums begin.
    seed: determines the continuations.
    steps: number of rewards summed after the first. The neglected part is below γ^steps/(1-γ) times
      the largest reward (4e-6 at γ = 0.95).

  Returns:
    [N] float64.
  """
  oracle.check_policy(policy)
  rng = np.random.default_rng([seed, 4])
  total = data.reward.copy()
  cell = data.next_state
  for power in range(1, steps + 1):
    action = sample_actions(rng, policy[cell])
    total += world.discount**power * world.rewards[cell, action]
    cell = step(world, rng, cell, action)
  return total


def coverage(world: Gridworld, data: Transitions) -> float:
  """The fraction of free (s, a) pairs that occur in the data."""
  seen = np.unique(data.state * NUM_ACTIONS + data.action)
  return len(seen) / (len(world.free_cells) * NUM_ACTIONS)


def sample_actions(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
  """Draws one action for each row of `probabilities` [N, A]; returns [N] int64."""
  thresholds = np.cumsum(probabilities, axis=1)[:, :-1]
  return (rng.random((len(probabilities), 1)) >= thresholds).sum(axis=1)


def step(
  world: Gridworld, rng: np.random.Generator, state: np.ndarray, action: np.ndarray
) -> np.ndarray:
  """Draws the next cells [N] after `action` [N] in `state` [N], with action noise."""
  replaced = rng.random(len(state)) < world.action_noise
  carried_out = np.where(replaced, rng.integers(NUM_ACTIONS, size=len(state)), action)
  return world.successors[state, carried_out]


def _completed(
  world: Gridworld, rng: np.random.Generator, state: np.ndarray, action: np.ndarray
) -> Transitions:
  next_state = step(world, rng, state, action)
  return Transitions(state, action, world.rewards[state, action], next_state)


def _check_size(size: int) -> None:
  if size < 1:
    raise ValueError(f'A dataset of {size} transitions is empty; ask for at least 1.')

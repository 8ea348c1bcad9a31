"""A trained policy, which maps successive observations to actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.types import Array, Params, PRNGKey

Act = Callable[[Params, Any, PRNGKey], jax.Array]


def select(agent: Any, epsilon: float | None) -> Act:
  """Returns the policy of an agent as a pure function.

  Args:
    agent: an `Agent`.
    epsilon: probability of a uniformly random action, within [0, 1]; None uses the agent's policy
      of evaluation.

  Returns:
    (params, states [E, S, *observation_shape], key) -> actions [E] int32, or [E, A] float32.

  Raises:
    ValueError: if `epsilon` lies outside [0, 1], or the agent's actions are continuous.
  """
  if epsilon is None:
    return agent.policy
  if not 0 <= epsilon <= 1:
    raise ValueError(f'epsilon must lie within [0, 1], got {epsilon}.')
  if agent.action_shape:
    raise ValueError(
      f'epsilon is {epsilon}, but {type(agent).__name__} has continuous actions and no ε: '
      'leave it out.'
    )

  def act(params: Params, states: Array, key: PRNGKey) -> jax.Array:
    return agent.select_actions(params, states, key, epsilon)

  return act


class Policy:
  """A trained policy: call it with each observation of an episode, and `reset` before the next.

  The agent's state is a stack of the last observations, which the policy keeps.

  Args:
    agent: an `Agent`; its parameters at the time of a call are used.
    epsilon: probability of a random action, see `select`.
    seed: determines all random choices.

  Raises:
    ValueError: see `select`.
  """

  def __init__(self, agent: Any, epsilon: float | None = None, seed: int = 0):
    self._agent = agent
    self._act = jax.jit(select(agent, epsilon))
    self._key = jax.random.key(seed)
    self._steps = 0
    self.reset()

  def reset(self) -> None:
    """Starts an episode: earlier observations are dropped."""
    self._states = np.zeros_like(self._agent.blank_state)[None]

  def __call__(self, observation: Array) -> Any:
    """Returns the action for the next observation of the episode.

    Args:
      observation: [*observation_shape]; an axis of length 1 at its end is optional.

    Returns:
      An int, or [A] float32 within [−1, 1].

    Raises:
      ValueError: if the observation has another size.
    """
    shape = self._states.shape[2:]
    if np.size(observation) != np.prod(shape):
      raise ValueError(f'The observation must have the shape {shape}, got {np.shape(observation)}.')
    self._states = np.roll(self._states, -1, axis=1)
    self._states[0, -1] = np.reshape(observation, shape)
    key = jax.random.fold_in(self._key, self._steps)
    self._steps += 1
    action = np.asarray(self._act(self._agent.state.params, jnp.asarray(self._states), key))[0]
    return action if action.ndim else int(action)

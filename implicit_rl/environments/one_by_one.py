"""Evaluates a policy in any environment: episodes in sequence, in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from implicit_rl.environments import (
  Capabilities,
  Environment,
  Progress,
  check_evaluation,
  no_progress,
)
from implicit_rl.types import Params, PRNGKey


def evaluate(
  environment: Environment,
  able: Capabilities,
  policy: Callable[[Params, Any, PRNGKey], jax.Array],
  params: Params,
  key: PRNGKey,
  num_steps: int,
  max_steps_per_episode: int,
  progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray]:
  """Plays whole episodes until at least `num_steps` steps were played; see `Evaluate`.

  Episode e draws from `k = fold_in(key, e)`: it is seeded with `bits(k)`, if the environment has
  `seed`, and step t = 0, 1, … acts with `fold_in(k, t)`.

  Args:
    environment: the environment to play.
    able: its capabilities.
    policy: as in `Evaluate`.
    params: passed to `policy`.
    key: PRNG key.
    num_steps: minimum number of environment steps.
    max_steps_per_episode: truncates episodes after this number of steps.
    progress: called after every step with 1. It may raise an error to stop.

  Returns:
    returns: [n] float32, undiscounted.
    lengths: [n] int32, in environment steps.
  """
  check_evaluation(num_steps, max_steps_per_episode)
  act = jax.jit(policy)  # Compiled once for each policy, which JAX recognises.
  shape = (1, environment.stack_size, *environment.observation_shape)
  returns: list[float] = []
  lengths: list[int] = []
  while sum(lengths) < num_steps:
    episode_key = jax.random.fold_in(key, len(lengths))
    if able.seed is not None:
      able.seed(int(jax.random.bits(episode_key, dtype='uint32')))
    observation, blank = environment.reset(), True
    states = np.zeros(shape, environment.observation_dtype)
    episode_return, steps, over = 0.0, 0, False
    while not over:
      states = np.zeros_like(states) if blank else np.roll(states, -1, axis=1)
      states[0, -1] = np.reshape(observation, shape[2:])
      action = np.asarray(act(params, states, jax.random.fold_in(episode_key, steps)))[0]
      observation, reward, blank, _ = environment.step(action if action.ndim else int(action))
      episode_return += float(reward)
      steps += 1
      over = able.over(environment) or steps >= max_steps_per_episode
      progress(1)
    returns.append(episode_return)
    lengths.append(steps)
  return np.array(returns, np.float32), np.array(lengths, np.int32)

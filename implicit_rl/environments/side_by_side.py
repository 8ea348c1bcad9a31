"""Evaluates a policy in several copies of a gymnasium environment, with one policy call a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from implicit_rl.environments import Progress, check_evaluation, no_progress, play_rounds
from implicit_rl.types import Params, PRNGKey

Act = Callable[[Params, np.ndarray, PRNGKey], jax.Array]


class SideBySide:
  """E parallel copies that play evaluation episodes.

  Args:
    make: creates a copy, a `gymnasium.Env` that accepts the policy's actions.
    num_environments: E.
    stack_size: S, observations per state.
    observation_shape: shape of one observation, to which a copy's observations are converted.
    observation_dtype: its NumPy dtype.
  """

  def __init__(
    self,
    make: Callable[[], Any],
    num_environments: int,
    stack_size: int,
    observation_shape: tuple[int, ...],
    observation_dtype: Any,
  ):
    self._make, self._count = make, num_environments
    self._shape = (num_environments, stack_size, *observation_shape)
    self._dtype = observation_dtype
    self._copies: list[Any] = []  # Created when first needed.
    self._act: Act | None = None

  def evaluate(
    self,
    act: Act,
    params: Params,
    key: PRNGKey,
    num_steps: int,
    max_steps_per_episode: int,
    progress: Progress = no_progress,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays whole episodes until at least `num_steps` environment steps were played.

    A round starts one episode in each of the E copies and lasts until all have ended; rounds follow
    until the steps suffice. Every episode that started is counted. Copy e of round r is reset
    with the seed `bits(k, E)[e]` for `k = fold_in(key, r)`; step t = 0, 1, … acts with
    `fold_in(k, t)`.

    Args:
      act: (params, states [E, S, *observation_shape], key) -> actions [E] or [E, A]. Pure. Pass the
        same function object every time: it is compiled once for each.
      params: passed to `act`.
      key: PRNG key; the same key gives the same episodes.
      num_steps: minimum number of environment steps.
      max_steps_per_episode: truncates episodes after this number of steps.
      progress: called after every step of the copies with the number of copies that took it. It may
        raise an error to stop.

    Returns:
      returns: [n] float32, undiscounted, n a multiple of E.
      lengths: [n] int32, in environment steps.
    """
    check_evaluation(num_steps, max_steps_per_episode)
    if self._act is not act:
      self._act, self._compiled = act, jax.jit(act)
    self._copies = self._copies or [self._make() for _ in range(self._count)]
    return play_rounds(
      lambda k: self._play_round(params, k, max_steps_per_episode, progress), key, num_steps
    )

  def _play_round(
    self, params: Params, key: PRNGKey, limit: int, progress: Progress
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays one episode in each copy. Returns (returns [E] float32, lengths [E] int32)."""
    seeds = jax.random.bits(key, (self._count,), 'uint32').tolist()
    states = np.zeros(self._shape, self._dtype)
    for e, seed in enumerate(seeds):
      states[e, -1], _ = self._copies[e].reset(seed=seed)
    returns, lengths = np.zeros(self._count, np.float64), np.zeros(self._count, np.int32)
    running = list(range(self._count))
    for t in range(limit):
      # The batch includes copies that have ended, to keep its shape; they are not stepped.
      actions = np.asarray(self._compiled(params, states, jax.random.fold_in(key, t)))
      for e in running.copy():
        states[e, :-1] = states[e, 1:]
        states[e, -1], reward, terminated, truncated, _ = self._copies[e].step(actions[e])
        returns[e] += float(reward)
        lengths[e] += 1
        if terminated or truncated:
          running.remove(e)
      progress(int(np.sum(lengths == t + 1)))
      if not running:
        break
    return returns.astype(np.float32), lengths

  def close(self) -> None:
    """Frees the copies."""
    for copy in self._copies:
      copy.close()
    self._copies = []

"""Atari evaluations: parallel episodes with the statistics of sequential ones.

Emulation and preprocessing are ALE's own vector environment in C++, whose frames equal Dopamine's.
Each copy of the game is a vector environment with one game, since one with several games would
continue after an episode's end.

This module loads neither TensorFlow nor Dopamine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np
from ale_py import vector_env

from implicit_rl.environments import Progress, no_progress
from implicit_rl.types import Params, PRNGKey

Act = Callable[[Params, Any, PRNGKey], jax.Array]

STICKY_PROBABILITY = 0.25
_NO_LIMIT = 10**9  # frames; ALE would report its limit of 0 at once
_STEPS_PER_COPY = 1000  # In shorter evaluations another copy's steps would not count.


class Copy:
  """One game in its own thread.

  Args:
    game: ALE's name for the game.
    sticky_actions: as `AtariEnvironment`'s.
  """

  def __init__(self, game: str, sticky_actions: bool):
    self._environment = vector_env.AtariVectorEnv(
      gymnasium.spec(f'ALE/{game}-v5').kwargs['game'],
      num_envs=1,
      num_threads=1,
      max_num_frames_per_episode=_NO_LIMIT,
      repeat_action_probability=STICKY_PROBABILITY if sticky_actions else 0.0,
      noop_max=0,
      use_fire_reset=False,
      reward_clipping=False,
    )
    self._seed: int | None = None
    self.states = np.zeros((1, 4, 84, 84), np.uint8)
    self.lives = 0

  def seed(self, seed: int) -> None:
    """Seeds the following episodes with 0 to 2³¹−1, by loading the ROM again."""
    self._seed = seed

  def begin(self) -> None:
    """Starts an episode; `states` [1, 4, 84, 84] are its first frame after three of zeros."""
    seed, self._seed = self._seed, None
    self.states, _ = self._environment.reset(seed=None if seed is None else np.array([seed]))

  def send(self, action: int) -> None:
    """Starts a step; the emulator computes it while the other copies start theirs."""
    self._environment.send(np.array([action], np.int32))

  def receive(self) -> tuple[float, bool]:
    """Waits for the step's end. Returns the unclipped reward, and whether the game is over."""
    self.states, rewards, over, _, info = self._environment.recv()
    self.lives = int(info['lives'][0])
    return float(rewards[0]), bool(over[0])

  def close(self) -> None:
    """Frees the emulator and its thread."""
    self._environment.close()


class Evaluator:
  """Plays evaluations of one game with E copies.

  Args:
    game: ALE's name for the game.
    count: E.
    sticky_actions: as `AtariEnvironment`'s.
  """

  def __init__(self, game: str, count: int, sticky_actions: bool):
    self._make = lambda: Copy(game, sticky_actions)
    self._count = count
    self._copies: list[Copy] = []  # Created when first needed.
    self._act: Act | None = None
    self._compiled: set[int] = set()  # Batch sizes.

  def play(
    self,
    act: Act,
    params: Params,
    key: PRNGKey,
    num_steps: int,
    limit: int,
    progress: Progress = no_progress,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays an evaluation as described in `AtariEnvironment.evaluate`, with the same arguments."""
    if self._act is not act:
      self._act, self._choose = act, jax.jit(_side_by_side(act))
      self._compiled.clear()
    count = min(self._count, -(-num_steps // _STEPS_PER_COPY))
    self._compile(params, key, count)
    while len(self._copies) < count:
      self._copies.append(self._make())
    act_key, seed_key = jax.random.split(key)
    seeds = jax.random.bits(seed_key, (count,), 'uint32') >> 1
    for copy, seed in zip(self._copies, seeds.tolist(), strict=False):
      copy.seed(seed)
    idle = self._copies[:count]
    running: list[tuple[int, Copy]] = []  # By number of the episode.
    returns: list[float] = []
    lengths: list[int] = []
    played = shown = 0
    while True:
      while idle and played < num_steps:  # The episode will count unless earlier ones suffice.
        idle[0].begin()
        running.append((len(lengths), idle.pop(0)))
        returns.append(0.0)
        lengths.append(0)
      if played >= num_steps:
        before = np.cumsum([0, *lengths])  # Number of steps so far in the episodes before each.
        running = [(episode, copy) for episode, copy in running if before[episode] < num_steps]
      if not running:
        break
      progress(min(played, num_steps) - shown)
      shown = min(played, num_steps)
      actions = self._actions(params, act_key, running, lengths)
      for (_, copy), action in zip(running, actions, strict=False):
        copy.send(action)
      played += len(running)
      for episode, copy in running.copy():
        reward, over = copy.receive()
        returns[episode] += reward
        lengths[episode] += 1
        if over or lengths[episode] == limit:
          running.remove((episode, copy))
          idle.append(copy)
    counted = int(np.searchsorted(np.cumsum(lengths), num_steps)) + 1
    return np.array(returns[:counted], np.float32), np.array(lengths[:counted], np.int32)

  def _size(self, running: int) -> int:
    """Returns the batch size for a number of episodes: one of few, since each is compiled."""
    size = self._count
    while size // 2 >= running:
      size //= 2
    return size

  def _compile(self, params: Params, key: PRNGKey, count: int) -> None:
    """Compiles the policy once for all batch sizes of `count` copies."""
    for size in {self._size(running) for running in range(1, count + 1)} - self._compiled:
      numbers = np.zeros(size, np.uint32)
      self._choose(params, np.zeros((size, 4, 84, 84), np.uint8), key, numbers, numbers)
      self._compiled.add(size)

  def _actions(
    self, params: Params, key: PRNGKey, running: list[tuple[int, Copy]], lengths: list[int]
  ) -> np.ndarray:
    """Returns actions of the running episodes, and of rows that fill the batch."""
    size = self._size(len(running))
    states = np.zeros((size, 4, 84, 84), np.uint8)
    episodes, steps = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
    for row, (episode, copy) in enumerate(running):
      states[row] = copy.states[0]
      episodes[row], steps[row] = episode, lengths[episode]
    return np.asarray(self._choose(params, states, key, episodes, steps))

  def close(self) -> None:
    """Frees the copies."""
    for copy in self._copies:
      copy.close()
    self._copies = []


def _side_by_side(act: Act) -> Callable[..., jax.Array]:
  """Applies `act` to states [E, 4, 84, 84], each with the key of its episode and step."""

  def choose(params: Params, states: Any, key: PRNGKey, episodes: Any, steps: Any) -> jax.Array:
    def one(state, episode, step):
      own = jax.random.fold_in(jax.random.fold_in(key, episode), step)
      return act(params, state[None], own)[0]

    return jax.vmap(one)(states, episodes, steps)

  return choose

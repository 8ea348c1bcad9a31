"""Atari 2600 in the paper's protocol: Dopamine's preprocessing, seeded.

Sticky actions with probability 0.25, frame skip 4, the last two frames max-pooled, greyscale 84×84,
and episodes that end with the game or after 27 000 agent steps (108 000 frames, 30 minutes of
play). Machado et al. 2018, "Revisiting the Arcade Learning Environment".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ale_py
import gin
import numpy as np

from implicit_rl.compat import dopamine_compat  # noqa: F401
from implicit_rl.environments import (
  Progress,
  atari_evaluation,
  atari_games,
  check_evaluation,
  check_game,
  no_progress,
)
from implicit_rl.types import Params, PRNGKey

# isort: split
from dopamine.discrete_domains import atari_lib


@gin.configurable(denylist=['seed'])
class AtariEnvironment:
  """One Atari game with Dopamine's interface; equal seeds give equal frames.

  `evaluate` plays several parallel copies with one policy call per step.

  Two things differ from `atari_lib.create_atari_environment`, on which it is based:

  * It takes a seed. ALE reads its seed only while a ROM is loaded, and without a seed it gets one
    from the operating system. The ROM is therefore loaded again after the seed is set.
  * ALE's own limit of 100 000 frames is disabled. It would end an episode 2 000 agent steps before
    the protocol's 27 000, and report that end as game over.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    game: ALE's name for the game: 'Pong', 'MsPacman', ...
    sticky_actions: repeat the previous action with probability 0.25 at every frame.
    seed: of ALE's randomness (sticky actions, and what depends on the console's clock), 0 to 2³²−1.
    max_steps_per_episode: agent steps after which `truncated` is set.
    num_environments: number of copies that `evaluate` plays at once, each in its own thread.

  Raises:
    ValueError: for a game that is not installed, or a setting out of range.
  """

  observation_shape: tuple[int, ...] = (84, 84)
  observation_dtype: Any = np.uint8
  stack_size = 4
  dataset = 'rlu_atari_checkpoints_ordered'

  def __init__(
    self,
    game: str = 'Pong',
    sticky_actions: bool = True,
    seed: int = 0,
    max_steps_per_episode: int = 27_000,
    num_environments: int = 8,
  ):
    check_game(game, atari_games.games(), 'Atari')
    if num_environments < 1:
      raise ValueError(
        f'AtariEnvironment.num_environments must be at least 1, got {num_environments}.'
      )
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner at every construction
    self._environment = atari_lib.create_atari_environment(game, sticky_actions=sticky_actions)
    self._emulator.setInt('max_num_frames_per_episode', 0)
    self.seed(seed)
    self.name = game
    self.num_actions = int(self._environment.action_space.n)
    self.max_steps_per_episode = max_steps_per_episode
    self.game_over = False
    self.truncated = False
    self._steps = 0
    self._evaluator = atari_evaluation.Evaluator(game, num_environments, sticky_actions)

  @property
  def action_space(self) -> Any:
    """Discrete space over the game's minimal action set."""
    return self._environment.action_space

  @property
  def observation_space(self) -> Any:
    """Box of shape (84, 84, 1), uint8."""
    return self._environment.observation_space

  def seed(self, seed: int) -> None:
    """Reseeds the game's randomness: the same frames follow as in a new environment.

    Args:
      seed: 0 to 2³²−1.
    """
    self._environment.environment.reset(seed=seed)  # Loads the ROM again, with all settings.

  def reset(self) -> np.ndarray:
    """Starts an episode. Returns its first observation, [84, 84, 1] uint8."""
    self.game_over = self.truncated = False
    self._steps = 0
    return self._environment.reset()

  def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Repeats `action` for four frames.

    Args:
      action: index into the minimal action set, 0 ≤ action < num_actions.

    Returns:
      observation: [84, 84, 1] uint8; meaningless after the game is over.
      reward: the score gained, unclipped.
      is_terminal: the game is over.
      info: gymnasium's.
    """
    observation, reward, is_terminal, info = self._environment.step(action)
    self._steps += 1
    self.game_over = bool(is_terminal)
    self.truncated = not is_terminal and self._steps >= self.max_steps_per_episode
    return observation, float(reward), self.game_over, info

  def render(self) -> np.ndarray:
    """Returns the console's current screen, [210, 160, 3] uint8."""
    return self._emulator.getScreenRGB()

  def evaluate(
    self,
    act: atari_evaluation.Act,
    params: Params,
    key: PRNGKey,
    num_steps: int,
    max_steps_per_episode: int | None = None,
    progress: Progress = no_progress,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays whole episodes until at least `num_steps` agent steps were played.

    The episodes are numbered in the order in which they begin. The first n count, where n is the
    smallest number whose lengths sum to `num_steps`. Dopamine, which plays in sequence, counts the
    same. A copy whose episode has ended begins the next one if that may be needed; an episode is
    abandoned if earlier ones turn out to suffice. So short episodes are not favoured, as they would
    be if the first to finish were counted, and the expected mean return does not depend on the
    number of copies.

    Every copy's emulator is seeded once, from `key`. `act` draws from
    `fold_in(fold_in(k, episode), step)`, where `k, _ = split(key)`, both counted from 0.

    Args:
      act: (params, observations [E, 4, 84, 84] uint8, key) -> actions [E] int32. Pure. Pass the
        same function object every time: it is compiled once for each.
      params: passed to `act`.
      key: PRNG key; the same key and number of copies give the same episodes.
      num_steps: minimum number of agent steps that count.
      max_steps_per_episode: truncates episodes after this number of steps; None uses the
        environment's own limit.
      progress: called before every step with the number of new steps, `num_steps` in total. It may
        raise an error to stop.

    Returns:
      returns: [n] float32, undiscounted and unclipped.
      lengths: [n] int32, in agent steps.
    """
    limit = self.max_steps_per_episode if max_steps_per_episode is None else max_steps_per_episode
    check_evaluation(num_steps, limit)
    return self._evaluator.play(act, params, key, num_steps, limit, progress)

  def state_dict(self) -> dict[str, Any]:
    """Returns the state of the game within an episode, including the emulator's randomness."""
    screens = np.stack(self._environment.screen_buffer)
    emulator: Any = self._emulator.cloneState(include_rng=True).__getstate__()
    return {
      'emulator': np.frombuffer(emulator, np.uint8),
      'screens': screens,
      'lives': int(self._environment.lives),
      'steps': self._steps,
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    emulator = ale_py.ALEState.__new__(ale_py.ALEState)
    emulator.__setstate__(state['emulator'].tobytes())
    self._environment.reset()
    self._emulator.restoreState(emulator)
    for buffer, screen in zip(self._environment.screen_buffer, state['screens'], strict=True):
      buffer[...] = screen
    self._environment.lives = int(state['lives'])
    self._environment.game_over = self.game_over = self.truncated = False
    self._steps = int(state['steps'])

  @property
  def _emulator(self) -> ale_py.ALEInterface:
    return self._environment.environment.unwrapped.ale

  def close(self) -> None:
    """Frees the emulators."""
    self._environment.close()
    self._evaluator.close()

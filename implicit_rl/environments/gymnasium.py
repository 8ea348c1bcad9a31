"""Any gymnasium environment, with Dopamine's interface.

Discrete and continuous actions, vectors and images. A time limit truncates an episode but does not
terminate it: later rewards still count for its values.

This module loads neither TensorFlow nor Dopamine.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any

import gin
import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

from implicit_rl.compat.settings import check_number
from implicit_rl.environments import Progress, no_progress
from implicit_rl.environments.side_by_side import Act, SideBySide
from implicit_rl.types import Params, PRNGKey

_WHO = 'GymnasiumEnvironment'


@gin.configurable(denylist=['seed'])
class GymnasiumEnvironment:
  """One gymnasium task; `evaluate` plays several parallel copies.

  Agents see images (uint8 arrays of two or three dimensions) unchanged, and everything else as a
  float32 vector [D]: other arrays are flattened, discrete states become one-hot vectors,
  dictionaries and tuples are concatenated. Continuous actions lie in [−1, 1] and are scaled to the
  task's bounds.

  The first episode after `seed(n)` is reset with n, later ones with seeds derived from n. The state
  of an episode is saved as its seed and the actions so far, which `load_state_dict` repeats. This
  is exact for every task that `reset(seed=...)` determines.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    task: gymnasium's id; 'my_module:MyGame-v0' imports `my_module` first.
    seed: of every episode played through `reset` and `step`.
    arguments: for `gymnasium.make`, such as {'continuous': True} for LunarLander.
    pixels: use the rendered frame instead of the task's own observation.
    grey: convert images with three channels to grey.
    image_size: side of the square that images are resized to, in pixels; None keeps their size.
    stack_size: observations in an agent's state.
    num_environments: copies that `evaluate` plays at once.
    max_steps_per_episode: steps after which `truncated` is set. None means the task's own limit.

  Raises:
    ValueError: for a task that is unknown or lacks a library, a setting out of range, or spaces
      that no agent can use.
  """

  dataset = 'gymnasium'

  def __init__(
    self,
    task: str = 'CartPole-v1',
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    pixels: bool = False,
    grey: bool = False,
    image_size: int | None = None,
    stack_size: int = 1,
    num_environments: int = 10,
    max_steps_per_episode: int | None = None,
  ):
    for name, value, optional in (
      ('stack_size', stack_size, False),
      ('num_environments', num_environments, False),
      ('image_size', image_size, True),
      ('max_steps_per_episode', max_steps_per_episode, True),
    ):
      check_number(f'{_WHO}.{name}', value, least=1, whole=True, optional=optional)
    make = functools.partial(
      _make, task, dict(arguments or {}), max_steps_per_episode, pixels, grey, image_size
    )
    self._game = make()
    self.name = re.sub(r'[^\w.-]', '_', task)  # It is used as a folder's name.
    self.about = {'environment': task}
    self.stack_size = stack_size
    self.max_steps_per_episode = _time_limit(task, self._game)
    seen, done = self._game.observation_space, self._game.action_space
    self.observation_shape: tuple[int, ...] = tuple(seen.shape)
    self.observation_dtype: Any = seen.dtype
    self.action_shape = () if isinstance(done, spaces.Discrete) else tuple(done.shape)
    self.num_actions = int(done.n if isinstance(done, spaces.Discrete) else done.shape[0])
    self._side_by_side = SideBySide(
      make, num_environments, stack_size, self.observation_shape, self.observation_dtype
    )
    self._make_drawn = functools.partial(
      _make, task, {'render_mode': 'rgb_array', **(arguments or {})}, max_steps_per_episode
    )
    self._task = task
    self._drawn: Any = None  # Created when a picture is requested.
    self.game_over = False
    self.truncated = False
    self.seed(seed)

  def seed(self, seed: int) -> None:
    """Reseeds the task's randomness: the same episodes follow as in a new environment.

    Args:
      seed: 0 to 2³²−1.
    """
    self._seed, self._episodes = seed, 0
    self._actions: list[Any] = []
    self._drawn_steps: int | None = None  # of this episode that the second game has played

  def reset(self) -> np.ndarray:
    """Starts an episode. Returns its first observation, [*observation_shape]."""
    self._episodes += 1
    return self._begin()

  def _begin(self) -> np.ndarray:
    """Starts the episode that `_seed` and `_episodes` determine."""
    self.game_over = self.truncated = False
    self._actions, self._drawn_steps = [], None
    return self._game.reset(seed=self._episode_seed)[0]

  @property
  def _episode_seed(self) -> int:
    if self._episodes <= 1:
      return self._seed
    return int(np.random.SeedSequence([self._seed, self._episodes]).generate_state(1)[0])

  def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one step.

    Args:
      action: 0 ≤ action < num_actions, or [A] within [−1, 1].

    Returns:
      observation: [*observation_shape].
      reward: float.
      is_terminal: whether the task ended. A time limit is not such an end: see `truncated`.
      info: gymnasium's.
    """
    self._actions.append(action)
    observation, reward, terminated, truncated, info = self._game.step(action)
    self.game_over = bool(terminated)
    self.truncated = bool(truncated) and not self.game_over
    return observation, float(reward), self.game_over, info

  def render(self) -> np.ndarray:
    """Returns the task's own picture of the current moment, [H, W, 3] uint8.

    A second game is played in step, so that watching a run cannot change it.

    Raises:
      ValueError: if the task has no picture.
    """
    self._drawn = self._drawn or self._make_drawn()
    if self._drawn_steps is None:
      self._drawn.reset(seed=self._episode_seed)
    for action in self._actions[self._drawn_steps or 0 :]:
      self._drawn.step(action)
    self._drawn_steps = len(self._actions)
    picture = self._drawn.render()
    if not isinstance(picture, np.ndarray):
      raise ValueError(f'{_WHO}.task = {self._task!r} draws no picture (render_mode rgb_array).')
    return picture

  def state_dict(self) -> dict[str, Any]:
    """Returns the state of the episode: its seed, and its actions."""
    dtype = np.float32 if self.action_shape else np.int64
    actions = np.asarray(self._actions, dtype).reshape(-1, *self.action_shape)
    return {'seed': self._seed, 'episodes': self._episodes, 'actions': actions}

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned for the same task."""
    self._seed, self._episodes = int(state['seed']), int(state['episodes'])
    self._begin()
    for action in np.asarray(state['actions']):
      self.step(action)

  def evaluate(
    self,
    act: Act,
    params: Params,
    key: PRNGKey,
    num_steps: int,
    max_steps_per_episode: int | None = None,
    progress: Progress = no_progress,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays whole episodes, E = num_environments in parallel; see `SideBySide.evaluate`."""
    limit = self.max_steps_per_episode if max_steps_per_episode is None else max_steps_per_episode
    return self._side_by_side.evaluate(act, params, key, num_steps, limit, progress)

  def close(self) -> None:
    """Frees the task and its copies."""
    self._game.close()
    if self._drawn is not None:
      self._drawn.close()
    self._side_by_side.close()


def _make(
  task: str,
  arguments: dict[str, Any],
  limit: int | None,
  pixels: bool = False,
  grey: bool = False,
  image_size: int | None = None,
) -> Any:
  """Creates the task, as a `gymnasium.Env` with the agents' observations and actions."""
  os.environ.setdefault('SDL_AUDIODRIVER', 'dummy')  # Otherwise pygame looks for a sound card.
  if pixels:
    arguments = {'render_mode': 'rgb_array', **arguments}
  try:
    game = gymnasium.make(task, max_episode_steps=limit, **arguments)
  except (gymnasium.error.Error, ImportError, TypeError) as error:
    given = f'{_WHO}.task = {task!r}' + (f' with arguments {arguments}' if arguments else '')
    raise ValueError(f'{given}: {" ".join(str(error).split())}') from error
  if pixels:
    game = wrappers.AddRenderObservation(game, render_only=True)
  return _with_actions(task, _with_observations(task, game, grey, image_size))


def _with_observations(task: str, game: Any, grey: bool, image_size: int | None) -> Any:
  """Wraps a task to return an image or a float32 vector."""
  space = game.observation_space
  image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)
  if image:
    if grey and space.shape[2:] == (3,):
      game = wrappers.GrayscaleObservation(game)
    return wrappers.ResizeObservation(game, (image_size, image_size)) if image_size else game
  if grey or image_size:
    raise ValueError(
      f'{_WHO}.grey and image_size are for images; {task} shows {space}. Bind {_WHO}.pixels = True '
      'to show rendered frames.'
    )
  try:
    length = spaces.flatdim(space)
  except (NotImplementedError, ValueError) as error:
    raise ValueError(f'{_WHO}.task = {task!r} shows {space}, which has no fixed length.') from error
  return wrappers.TransformObservation(
    game,
    lambda seen: np.asarray(spaces.flatten(space, seen), np.float32),
    spaces.Box(-np.inf, np.inf, (length,), np.float32),
  )


def _with_actions(task: str, game: Any) -> Any:
  """Wraps a task to accept actions from 0 on, or vectors within [−1, 1]."""
  space = game.action_space
  if isinstance(space, spaces.Discrete):
    return wrappers.TransformAction(
      game, lambda action: int(action) + int(space.start), spaces.Discrete(int(space.n))
    )
  if (
    not isinstance(space, spaces.Box)
    or not (np.isfinite(space.low) & np.isfinite(space.high)).all()
  ):
    raise ValueError(
      f'{_WHO}.task = {task!r} takes actions of {space}; agents have discrete ones (Discrete) or '
      'continuous ones with finite bounds (Box).'
    )
  middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
  return wrappers.TransformAction(
    game,
    lambda action: (middle + half * np.reshape(action, space.shape)).astype(space.dtype),
    spaces.Box(-1, 1, (int(np.prod(space.shape)),), np.float32),
  )


def _time_limit(task: str, game: Any) -> int:
  """Returns the number of steps after which the task truncates an episode.

  Raises:
    ValueError: if it is unknown.
  """
  limit = game.spec.max_episode_steps
  if limit is None:
    raise ValueError(
      f'{_WHO}.task = {task!r} has no time limit. Bind {_WHO}.max_steps_per_episode.'
    )
  return int(limit)

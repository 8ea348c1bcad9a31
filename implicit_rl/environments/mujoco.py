"""MuJoCo locomotion (Todorov et al., 2012) from gymnasium, with Dopamine's interface.

HalfCheetah, Hopper, Walker2d and Ant in version 5, the newest one. The paper used version 2, whose
returns are not comparable. A time limit of 1000 steps truncates an episode but does not terminate
it: later rewards still count for its values.

This module loads neither TensorFlow nor Dopamine.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import gin
import gymnasium
import numpy as np

from implicit_rl.environments import Progress, check_game, no_progress
from implicit_rl.environments.side_by_side import Act, SideBySide
from implicit_rl.types import Params, PRNGKey

TASKS = ('Ant', 'HalfCheetah', 'Hopper', 'Walker2d')
VERSION = 5
DATASET = 'mujoco'


@gin.configurable(denylist=['seed'])
class MuJoCoEnvironment:
  """One locomotion task; `evaluate` plays several parallel copies with one policy call per step.

  Attributes are `environments.Environment`'s and `Capabilities`'; `num_actions` is A, the length of
  an action, whose components lie in [−1, 1].

  Args:
    task: one of `TASKS`.
    seed: of every episode played through `reset` and `step`.
    num_environments: copies that `evaluate` plays at once.
    max_steps_per_episode: steps after which `truncated` is set; 1000 in all published results.

  Raises:
    ValueError: for an unknown task or a setting out of range.
  """

  observation_dtype: Any = np.float32
  stack_size = 1
  dataset = DATASET

  def __init__(
    self,
    task: str = 'Hopper',
    seed: int = 0,
    num_environments: int = 10,
    max_steps_per_episode: int = 1000,
  ):
    check_game(task, TASKS, 'MuJoCo')
    if num_environments < 1 or max_steps_per_episode < 1:
      raise ValueError(
        f'MuJoCoEnvironment.num_environments ({num_environments}) and max_steps_per_episode '
        f'({max_steps_per_episode}) are at least 1.'
      )
    self.name = task
    self.max_steps_per_episode = max_steps_per_episode
    self._simulator = self._make()
    self.action_space: Any = self._simulator.action_space
    self.observation_space: Any = self._simulator.observation_space
    self.observation_shape = tuple(self.observation_space.shape)
    self.num_actions = int(self.action_space.shape[0])
    self.action_shape = (self.num_actions,)
    self.about = {name: f'{task}-v{VERSION}' for name in ('dataset', 'environment')}
    self.game_over = False
    self.truncated = False
    self._steps = 0
    self._renderer: Any = None  # Created when first needed.
    self._side_by_side = SideBySide(
      self._make, num_environments, 1, self.observation_shape, np.float32
    )
    self.seed(seed)

  def _make(self) -> Any:
    import mujoco  # Imported only when one is created.

    mujoco.set_mju_user_warning(_warn)
    # Unwrapped, since gymnasium's own time limit could not be distinguished from ours.
    return gymnasium.make(f'{self.name}-v{VERSION}').unwrapped

  def seed(self, seed: int) -> None:
    """Reseeds the simulator's randomness: the same episodes follow as in a new environment.

    Args:
      seed: 0 to 2³²−1.
    """
    self._seed: int | None = seed  # Seed of the next reset.

  def reset(self) -> np.ndarray:
    """Starts an episode. Returns its first observation, [D] float32."""
    self.game_over = self.truncated = False
    self._steps = 0
    seed, self._seed = self._seed, None
    observation, _ = self._simulator.reset(seed=seed)
    return observation.astype(np.float32)

  def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one step.

    Args:
      action: [A] within [−1, 1].

    Returns:
      observation: [D] float32.
      reward: float.
      is_terminal: whether the robot has fallen. A time limit is not such an end: see `truncated`.
      info: gymnasium's.
    """
    observation, reward, terminated, _, info = self._simulator.step(np.asarray(action))
    self._steps += 1
    self.game_over = bool(terminated)
    self.truncated = not self.game_over and self._steps >= self.max_steps_per_episode
    return observation.astype(np.float32), float(reward), self.game_over, info

  def render(self) -> np.ndarray:
    """Returns a picture of the robot, [240, 320, 3] uint8, through OpenGL.

    Raises:
      ValueError: if there is no OpenGL.
    """
    import mujoco

    model, data = self._simulator.model, self._simulator.data
    try:
      self._renderer = self._renderer or mujoco.Renderer(model, 240, 320)
    except Exception as error:  # The errors depend on the display.
      raise ValueError(
        f'MuJoCo has no OpenGL to draw with: {error}. Without a display, set MUJOCO_GL=egl (or '
        'osmesa) in the environment.'
      ) from error
    self._renderer.update_scene(data, camera='track' if model.ncam else -1)
    return self._renderer.render()

  def state_dict(self) -> dict[str, Any]:
    """Returns the simulator's state, and its randomness for later episodes."""
    import mujoco

    model, data = self._simulator.model, self._simulator.data
    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)  # Everything that the next step depends on.
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    random = self._simulator.np_random.bit_generator.state
    return {
      'simulator': state,
      'bodies': data.xpos.copy(),  # From the start of the last substep, where rewards start.
      'random': json.dumps(random),
      'steps': self._steps,
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned for the same task."""
    import mujoco

    self._simulator.reset(seed=0)
    self._simulator.np_random.bit_generator.state = json.loads(state['random'])
    model, data, simulator = self._simulator.model, self._simulator.data, state['simulator']
    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(model, data, simulator, kind)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, simulator, kind)  # Without the solver's new warm start.
    data.xpos[:] = state['bodies']
    self._seed = None
    self.game_over = self.truncated = False
    self._steps = int(state['steps'])

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
    """Frees the simulators."""
    self._simulator.close()
    self._side_by_side.close()


def _warn(message: str) -> None:
  """By default MuJoCo writes to stderr and into a file in the working directory."""
  level = logging.DEBUG if 'deprecated' in message else logging.WARNING
  logging.getLogger('mujoco').log(level, message.strip())

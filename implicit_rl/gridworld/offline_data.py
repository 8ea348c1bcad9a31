"""A fixed dataset of gridworld transitions as a data source for any agent."""

from __future__ import annotations

from typing import Any

import gin
import numpy as np

from implicit_rl.data import source, transitions
from implicit_rl.data.store import frame_store
from implicit_rl.gridworld import datasets, mdp, oracle


@gin.configurable(denylist=source.FROM_AGENT)
class GridworldData(source.StoredSource):
  """Pairs (s, a) drawn uniformly over free cells and actions, each with its reward and next cell.

  `return_to_go` holds the exact Q*(s, a), so Monte Carlo regression on this data is the supervised
  twin of Q-learning, and `q_data_gap` is the error of the values. The logged next action is uniform
  too, so FQE evaluates the random policy.

  Args:
    stack_size: the agent's; it must be 1.
    update_horizon: the agent's; it must be 1, since no pair follows another.
    gamma: discount per step. As the agent's.
    seed: determines the pairs and all sampling, so each seed has its own data.
    observation_shape: shape of the agent's observations, which the world must have.
    observation_dtype: ignored; observations are float32.
    return_to_go: ignored; the values always exist.
    world_seed: as in `GridworldEnvironment`.
    size: transitions.
    reward_shift: b, added to every reward. It adds b/(1 − γ) to every value and changes no policy.

  Raises:
    ValueError: if a setting is out of range or the environment is a different one.
  """

  def __init__(
    self,
    *,
    stack_size: int = 1,
    update_horizon: int = 1,
    gamma: float = 0.95,
    seed: int = 0,
    observation_shape: tuple[int, ...] | None = None,
    observation_dtype: Any = None,
    return_to_go: bool = False,
    world_seed: int = 0,
    size: int = 10_000,
    reward_shift: float = 0.0,
  ):
    del observation_dtype, return_to_go
    if stack_size != 1 or update_horizon != 1:
      raise ValueError(
        'GridworldData has single transitions: stack_size and Agent.update_horizon must be 1, got '
        f'{stack_size} and {update_horizon}.'
      )
    world = mdp.make_gridworld(world_seed, discount=gamma)
    shape = world.observations.shape[1:]
    if observation_shape is not None and tuple(observation_shape) != shape:
      raise ValueError(
        f'GridworldData has observations of shape {shape}, the environment '
        f'{tuple(observation_shape)}: bind Experiment.environment = @GridworldEnvironment.'
      )
    data = datasets.uniform_data(world, size, seed)
    next_action = np.random.default_rng([seed, 5]).integers(mdp.NUM_ACTIONS, size=size)
    values = oracle.optimal_q_values(world) + reward_shift / (1 - gamma)
    known = values[data.state, data.action]
    # Two rows per transition: the pair, and its next state, which starts no transition.
    blank = np.zeros(size)
    ends = np.tile([False, True], size)
    columns = transitions.make_columns(
      _alternating(data.action, next_action),
      _alternating(data.reward + reward_shift, blank),
      np.zeros(2 * size, bool),
      ends,
    )
    cells = _alternating(data.state, data.next_state)
    super().__init__(
      columns,
      frame_store.RawFrames(world.observations[cells].astype(np.float32)),
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
      return_to_go=_alternating(known, blank).astype(np.float32),
      description={
        'dataset': f'gridworld/{world_seed}',
        'game': f'Gridworld{world_seed}',
        'reward_shift': reward_shift,
      },
    )
    paid = data.reward + reward_shift
    self._reward_range = float(paid.min()), float(paid.max())
    self._value_range = float(known.min()), float(known.max())

  @property
  def reward_range(self) -> tuple[float, float]:
    """The smallest and the largest reward of a transition."""
    return self._reward_range

  @property
  def return_range(self) -> tuple[float, float]:
    """The smallest and the largest Q*(s, a) of a transition in the data."""
    return self._value_range

  def identity(self) -> dict[str, Any]:
    """Returns the settings that determine the batches, as JSON values."""
    described = self.describe()
    return super().identity() | {name: described[name] for name in ('rows', 'reward_shift')}

  def with_seed(self, seed: int) -> Any:
    """Returns None: another seed needs new data."""


def _alternating(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Returns first[0], second[0], first[1], second[1], …: [2N]."""
  return np.stack([first, second], axis=1).reshape(-1)

"""Offline sources whose targets change during training: a late reward, random targets."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from typing import Any

import gin
import numpy as np

from implicit_rl.compat.settings import check_number
from implicit_rl.data.source import FROM_AGENT, DataSource
from implicit_rl.types import Batch

_TASK_STREAM = 6


class ChangingSource(DataSource):
  """A finished source whose batches change with the number of the update that draws them.

  The draws of update u still depend only on the seed, u and the content.

  Args:
    source: creates the inner source; called with `told`.
    seed: as the agent's.
    **told: the other settings that an agent passes to its source.
  """

  def __init__(self, *, source: Callable[..., DataSource], seed: int, **told: Any):
    self._inner, self._seed = source(seed=seed, **told), seed

  @abc.abstractmethod
  def change(self, batch: Batch, updates: np.ndarray) -> Batch:
    """Returns the batch [K, B, ...] for the updates with the numbers `updates` [K]."""

  def sample(self, first_update: int, num_updates: int, batch_size: int) -> Batch:
    """See `DataSource.sample`."""
    batch = self._inner.sample(first_update, num_updates, batch_size)
    return self.change(batch, np.arange(first_update, first_update + num_updates))

  def fixed_batch(self, size: int) -> Batch:
    """Returns the inner source's batch, unchanged."""
    return self._inner.fixed_batch(size)

  def with_seed(self, seed: int) -> ChangingSource | None:
    """See `DataSource.with_seed`."""
    inner = self._inner.with_seed(seed)
    if inner is None:
      return None
    other = copy.copy(self)
    other._inner, other._seed = inner, seed
    return other

  def __len__(self) -> int:
    return len(self._inner)

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return self._inner.observation_shape

  @property
  def observation_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return self._inner.observation_dtype

  @property
  def stack_size(self) -> int:
    """Frames per state."""
    return self._inner.stack_size

  @property
  def max_action(self) -> int:
    """The largest action in the data."""
    return self._inner.max_action

  @property
  def return_range(self) -> tuple[float, float] | None:
    """The smallest and the largest return of the unchanged data."""
    return self._inner.return_range

  @property
  def reward_range(self) -> tuple[float, float] | None:
    """The smallest and the largest reward of the unchanged data."""
    return self._inner.reward_range

  @abc.abstractmethod
  def settings(self) -> dict[str, Any]:
    """Returns the settings of the changes, as JSON values."""

  def describe(self) -> dict[str, Any]:
    """Returns a description of the data and its changes, as JSON values."""
    return {**self._inner.describe(), type(self).__name__: self.settings()}

  def identity(self) -> dict[str, Any]:
    """Returns the settings that determine the batches, as JSON values."""
    return {**self._inner.identity(), type(self).__name__: self.settings()}


@gin.configurable(denylist=FROM_AGENT)
class LateReward(ChangingSource):
  """Hides all rewards before update `reveal_at`: every reward is 0.

  The fixed batch, on which `td_error` and `q_data_gap` are measured, always has the true rewards.

  Args:
    reveal_at: the first update that gets the true rewards.
    **told: `ChangingSource`'s; gin binds `LateReward.source`.

  Raises:
    ValueError: if `reveal_at` is negative.
  """

  def __init__(self, *, reveal_at: int = 0, **told: Any):
    check_number('LateReward.reveal_at', reveal_at, least=0, whole=True)
    self._reveal_at = reveal_at
    super().__init__(**told)

  def change(self, batch: Batch, updates: np.ndarray) -> Batch:
    """See `ChangingSource.change`."""
    shown = (updates >= self._reveal_at)[:, None]  # [K, 1]
    return batch._replace(reward=np.where(shown, batch.reward, 0).astype(np.float32))

  def settings(self) -> dict[str, Any]:
    """See `ChangingSource.settings`."""
    return {'reveal_at': self._reveal_at}


@gin.configurable(denylist=FROM_AGENT)
class RandomTargets(ChangingSource):
  """Replaces the returns by a random function of state and action, a new one every `period`.

  In task k the agent regresses to sin(frequency · ⟨w, s⟩), after Lyle et al. (2023, arXiv
  2303.01486), where w is a unit vector drawn for each action and task: one task does not help to
  learn the next. Any agent that regresses to returns, such as Monte Carlo, learns the stream. The
  fixed batch belongs to no task and keeps the data's returns.

  Args:
    period: gradient updates in a task.
    frequency: how fast a target changes with the state.
    **told: `ChangingSource`'s; gin binds `RandomTargets.source`.

  Raises:
    ValueError: if a setting is out of range.
  """

  def __init__(self, *, period: int = 1000, frequency: float = 10.0, **told: Any):
    check_number('RandomTargets.period', period, least=1, whole=True)
    check_number('RandomTargets.frequency', frequency, above=0)
    self._period, self._frequency = period, frequency
    super().__init__(**told)

  def change(self, batch: Batch, updates: np.ndarray) -> Batch:
    """See `ChangingSource.change`."""
    tasks, places = np.unique(updates // self._period, return_inverse=True)
    directions = np.stack([self._directions(int(task)) for task in tasks])[places]  # [K, A, D]
    action = np.asarray(batch.action)[..., None]  # [K, B, 1]
    chosen = np.take_along_axis(directions, action, axis=1)  # [K, B, D]
    states = np.reshape(batch.state, chosen.shape).astype(np.float64)
    # Summed row by row, since a matrix product may round differently with another grouping of
    # updates.
    phase = self._frequency * np.sum(states * chosen, axis=-1)
    return batch._replace(return_to_go=np.sin(phase).astype(np.float32))

  def _directions(self, task: int) -> np.ndarray:
    """Returns the unit vectors [A, D] of one task."""
    size = self.stack_size * int(np.prod(self.observation_shape))
    drawn = np.random.default_rng([self._seed, _TASK_STREAM, task]).normal(
      size=(self.max_action + 1, size)
    )
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

  def settings(self) -> dict[str, Any]:
    """See `ChangingSource.settings`."""
    return {'period': self._period, 'frequency': self._frequency}

"""The replay memory of an online agent: the newest transitions, first in, first out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gin
import numpy as np

from implicit_rl.data import source, transitions
from implicit_rl.data.store import frame_store

_MAX_ROUNDS = 64


@gin.configurable(denylist=[*source.FROM_AGENT, 'action_shape'])
class OnlineReplay(source.RowSource):
  """First-in-first-out replay that stores each frame once; a `DataSource` that grows.

  Rows are numbered from 0 for the whole run. N-step windows and stacks whose rows are partly
  overwritten are therefore detected and not drawn.

  The draws of update u depend on the seed, u and the memory's content at that time.

  Args:
    observation_shape: shape of one frame.
    observation_dtype: data type of a frame.
    stack_size: S, frames per state.
    update_horizon: n.
    gamma: discount per step, for the n-step reward sum.
    seed: all sampling derives from it.
    action_shape: () for discrete actions, (A,) for continuous ones.
    capacity: maximum number of rows; one row is one environment step.

  Raises:
    ValueError: if a setting is out of range.
  """

  def __init__(
    self,
    observation_shape: tuple[int, ...],
    observation_dtype: Any = np.uint8,
    *,
    stack_size: int,
    update_horizon: int,
    gamma: float,
    seed: int = 0,
    action_shape: tuple[int, ...] = (),
    capacity: int = 1_000_000,
  ):
    if capacity < stack_size + update_horizon:
      raise ValueError(
        f'capacity must be at least stack_size + update_horizon = {stack_size + update_horizon}, '
        f'got {capacity}.'
      )
    self._capacity = capacity
    self._observations = np.zeros((capacity, *observation_shape), observation_dtype)
    super().__init__(
      transitions.Columns(
        action=np.zeros((capacity, *action_shape), np.float32 if action_shape else np.int32),
        reward=np.zeros(capacity, np.float32),
        terminal=np.zeros(capacity, bool),
        episode_end=np.zeros(capacity, bool),
        episode_start=np.zeros(capacity, np.int64),
      ),
      frame_store.RawFrames(self._observations),  # Row t is at position t mod capacity.
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
    )
    self._added = 0  # Total number of rows added; the next row's number.
    self._current_start = 0  # First row of the current episode.
    self._counted = (-1, 0)  # (rows added, transitions): the last result of `len`.

  def add(
    self,
    observation: np.ndarray,
    action: int | np.ndarray,
    reward: float,
    terminal: bool,
    episode_end: bool | None = None,
  ) -> None:
    """Appends one environment step, overwriting the oldest once the memory is full.

    Args:
      observation: [*observation_shape], before acting.
      action: the action taken.
      reward: its reward.
      terminal: whether the episode terminated.
      episode_end: whether the episode ended, terminated or truncated; `terminal` if None.
    """
    observation = np.asarray(observation)
    if observation.shape != self.observation_shape:
      raise ValueError(
        f'Expected an observation of shape {self.observation_shape}, got {observation.shape}.'
      )
    episode_end = bool(terminal) if episode_end is None else bool(episode_end)
    if terminal and not episode_end:
      raise ValueError('A terminal step ends its episode: episode_end must be True.')
    at = self._added % self._capacity
    self._observations[at] = observation
    self._columns.action[at] = action
    self._columns.reward[at] = reward
    self._columns.terminal[at] = terminal
    self._columns.episode_end[at] = episode_end
    self._columns.episode_start[at] = self._current_start
    self._added += 1
    if episode_end:
      self._current_start = self._added

  def end_episode(self) -> None:
    """Marks the newest row as the end of its episode, if an iteration stops in mid-episode."""
    if self._added:
      self._columns.episode_end[(self._added - 1) % self._capacity] = True
      self._current_start = self._added
      self._counted = (-1, 0)

  def rows(self, first: int, last: int) -> dict[str, np.ndarray]:
    """Returns rows `first` to `last` − 1 as one stream: arrays [1, T, ...] by name.

    Raises:
      ValueError: if some are overwritten.
    """
    if not self._oldest <= first <= last <= self._added:
      raise ValueError(
        f'Rows {first} to {last} are not held: only {self._oldest} to {self._added}.'
      )
    at = np.arange(first, last) % self._capacity
    names = ('action', 'reward', 'terminal', 'episode_end')
    found = {name: getattr(self._columns, name)[None, at] for name in names}
    return {**found, 'observation': self._observations[None, at]}

  def __len__(self) -> int:
    if self._counted[0] != self._added:
      rows = np.arange(self._oldest, self._added)
      self._counted = (self._added, int(self._complete(rows).sum()))
    return self._counted[1]

  @property
  def recorder(self) -> OnlineReplay:
    """This object: agents add their steps while they act."""
    return self

  @property
  def size(self) -> int:
    """Number of rows in memory."""
    return self._added - self._oldest

  @property
  def added(self) -> int:
    """Number of rows added so far."""
    return self._added

  @property
  def capacity(self) -> int:
    """Maximum number of rows."""
    return self._capacity

  @property
  def max_action(self) -> int:
    """The largest action in memory; -1 if empty, or if actions are continuous."""
    held = self._columns.action[: self.size]
    return int(held.max()) if len(held) and held.ndim == 1 else -1

  def describe(self) -> dict[str, Any]:
    """Returns a description of the memory, as JSON values."""
    return {
      'dataset': 'online replay',
      'capacity': self._capacity,
      'rows': self.size,
      'rows_added': self._added,
      **super().describe(),
    }

  def state_dict(self) -> dict[str, np.ndarray]:
    """Returns everything for a checkpoint, as arrays: only the rows in memory, oldest first."""
    at = np.arange(self._oldest, self._added) % self._capacity
    state = {name: column[at] for name, column in self._columns._asdict().items()}
    state['observation'] = self._observations[at]
    state['added'] = np.array(self._added, np.int64)
    state['current_start'] = np.array(self._current_start, np.int64)
    return state

  def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
    """Replaces the content by a checkpoint's.

    Args:
      state: from `state_dict` of a memory with the same capacity and frame.

    Raises:
      ValueError: if the checkpoint does not fit this memory.
    """
    missing = {*transitions.Columns._fields, 'observation', 'added', 'current_start'} - set(state)
    if missing:
      raise ValueError(f'The replay checkpoint lacks {sorted(missing)}.')
    observation, added = np.asarray(state['observation']), int(state['added'])
    if (
      observation.shape[1:] != self.observation_shape
      or observation.dtype != self.observation_dtype
      or len(observation) != min(added, self._capacity)
    ):
      raise ValueError(
        f'The replay checkpoint holds {observation.dtype} rows {observation.shape} of {added} '
        f'added; this memory expects {self.observation_dtype} {self.observation_shape} and '
        f'capacity {self._capacity}. Resume with the settings the run started with.'
      )
    at = np.arange(added - len(observation), added) % self._capacity
    self._observations[at] = observation
    for name, column in self._columns._asdict().items():
      column[at] = state[name]
    self._added, self._current_start = added, int(state['current_start'])
    self._counted = (-1, 0)

  @property
  def _oldest(self) -> int:
    return max(0, self._added - self._capacity)

  def _in_order(self) -> transitions.Columns:
    """Returns the rows in memory, oldest first; the newest counts as the end of its episode."""
    at = np.arange(self._oldest, self._added) % self._capacity
    held = transitions.Columns(*(column[at] for column in self._columns))
    held.episode_end[-1:] = True
    return held

  def _returns(self, rows: np.ndarray) -> np.ndarray:
    held, rows = self._in_order(), rows - self._oldest
    return transitions.returns_of(rows, held.reward, held.terminal, held.episode_end, self._gamma)

  @property
  def reward_range(self) -> tuple[float, float] | None:
    """The smallest and the largest reward in memory; None if empty."""
    held = self._columns.reward[: self.size]
    return (float(held.min()), float(held.max())) if len(held) else None

  def _complete(self, rows: np.ndarray) -> np.ndarray:
    """Returns which rows [...], all in memory, start a complete transition: [...] bool."""
    start = self._columns.episode_start[rows % self._capacity]
    whole_stack = np.maximum(rows - self._stack_size + 1, start) >= self._oldest
    steps = rows[..., None] + np.arange(self._horizon)  # [..., n]
    held = steps < self._added
    at = steps % self._capacity
    ended = np.logical_or.accumulate(self._columns.episode_end[at] & held, axis=-1)
    within = np.concatenate([np.ones((*rows.shape, 1), bool), ~ended[..., :-1]], axis=-1)
    terminal = np.any(self._columns.terminal[at] & held & within, axis=-1)
    followed = ~ended[..., -1] & (rows + self._horizon < self._added)
    return whole_stack & (terminal | followed)

  def _draw(self, first_update: int, num_updates: int, batch_size: int, stream: int) -> np.ndarray:
    """Draws complete rows [K, B] uniformly: draws from all rows, and again for incomplete ones."""
    rows = np.zeros((num_updates, batch_size), np.int64)
    todo = np.ones(rows.shape, bool)
    for attempt in range(_MAX_ROUNDS):
      drawn = self._oldest + transitions.uniform_indices(
        self._seed, first_update, num_updates, batch_size, self.size, stream=stream + 2 * attempt
      )
      rows = np.where(todo, drawn, rows)
      todo = ~self._complete(rows)
      if not todo.any():
        return rows
    # Few rows are complete, such as at the start of a run: list them.
    candidates = np.arange(self._oldest, self._added)
    candidates = candidates[self._complete(candidates)]
    drawn = transitions.uniform_indices(
      self._seed, first_update, num_updates, batch_size, len(candidates), stream=stream
    )
    return np.where(todo, candidates[drawn], rows)

"""Data sources for learners: the common interface, and the offline source."""

from __future__ import annotations

import abc
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from implicit_rl import types
from implicit_rl.compat.settings import check_number
from implicit_rl.data import compact, device_store, subsets, transitions

# Keys of a description that must be equal in a resumed run; counts of a growing memory are not.
_IDENTITY = (
  'dataset version game fingerprint subset fraction subset_seed terminal_convention time_limit '
  'clip_rewards rotation capacity observation_shape stack_size update_horizon gamma seed held_out'
).split()


# Settings that an agent passes to its source; gin must not bind them in the source.
FROM_AGENT = (
  'stack_size',
  'update_horizon',
  'gamma',
  'seed',
  'observation_shape',
  'observation_dtype',
)

# Meaning of the last row of a terminated episode: a transition, or only an observation.
TERMINAL_CONVENTIONS = ('logged_row', 'rlds')
# By default frames up to this size are kept uncompressed: one gibibyte, which is 152 thousand Atari
# frames or 2.6 million of MinAtar.
RAW_BYTES = 1 << 30


class Recorder(Protocol):
  """A replay to which an agent adds its steps while it acts in one environment."""

  @property
  def capacity(self) -> int:
    """Maximum number of rows."""
    ...

  @property
  def added(self) -> int:
    """Number of rows added so far."""
    ...

  def add(
    self,
    observation: np.ndarray,
    action: Any,
    reward: float,
    terminal: bool,
    episode_end: bool | None = None,
  ) -> None:
    """Appends one environment step; a step that ended its episode may be terminal or truncated."""
    ...

  def end_episode(self) -> None:
    """Marks the newest step as the last of its episode, without terminating it."""
    ...

  def rows(self, first: int, last: int) -> dict[str, np.ndarray]:
    """Returns rows `first` to `last` − 1: arrays [1, T, ...] by the names of `add`."""
    ...


class CompiledMemory(Protocol):
  """A replay that a compiled online loop fills and samples from, such as `DeviceReplay`.

  Attributes:
    key: PRNG key that all sampling derives from.
    memory: the content, a pytree that `data.replay.device_replay` works on; the loop replaces it.
    num_environments: E, number of streams of steps.
    settings: of transitions: `stack_size`, `update_horizon`, `gamma`.
  """

  key: types.PRNGKey
  memory: Any
  num_environments: int
  settings: Any

  @property
  def added(self) -> int:
    """Total number of rows added to each stream."""
    ...

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    ...

  @property
  def observation_dtype(self) -> np.dtype:
    """Data type of a frame."""
    ...


class DataSource(Protocol):
  """A set of transitions for drawing batches; the interface that agents and runners need.

  Subclass it and define `sample`, `fixed_batch`, `__len__`, `observation_shape`,
  `observation_dtype`, `stack_size` and `describe`. The other members have defaults that suit
  finished data in host memory.

  Attributes:
    prioritized: whether an update's report changes later draws. Updates then run one by one, each
      followed by `update_priorities`.
    device_rows: the store in device memory, a pytree; None if batches are gathered on the host.
      With it, the learner gets the rows of `draw` and gathers batches with `fetch` in its compiled
      program.
  """

  prioritized: bool = False
  device_rows: Any = None

  @abc.abstractmethod
  def sample(self, first_update: int, num_updates: int, batch_size: int) -> types.Batch:
    """Draws the batches of a run of updates, with replacement.

    The draw of update u depends only on the seed, u and the content, not on the grouping of updates
    into calls.

    Args:
      first_update: number of the first update, from 0.
      num_updates: K.
      batch_size: B.

    Returns:
      A batch of NumPy arrays with leading axes [K, B].
    """

  @abc.abstractmethod
  def fixed_batch(self, size: int) -> types.Batch:
    """Returns `size` i.i.d. transitions for metrics: the same ones for the same seed and content.

    Returns:
      A batch of NumPy arrays with leading axis [size]. `return_to_go` is NaN for unknown returns,
      or None if all are unknown.
    """

  def held_out_batch(self, size: int) -> types.Batch | None:
    """Returns `size` i.i.d. transitions that `sample` never draws; None if none are held out."""
    del size
    return None

  @abc.abstractmethod
  def __len__(self) -> int:
    """The number of complete transitions."""

  @property
  @abc.abstractmethod
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""

  @property
  @abc.abstractmethod
  def observation_dtype(self) -> np.dtype:
    """Data type of a frame."""

  @property
  @abc.abstractmethod
  def stack_size(self) -> int:
    """Frames per state."""

  @abc.abstractmethod
  def describe(self) -> dict[str, Any]:
    """Returns a description of the data for JSON, which the run records.

    `dataset`, a name, and `transitions`, their number, appear in the first line that a run prints.
    """

  @property
  def action_shape(self) -> tuple[int, ...]:
    """Shape of one action: () for discrete actions, (A,) for continuous ones."""
    return ()

  @property
  def max_action(self) -> int:
    """The largest action in the data, which an agent must have; −1 if unknown or continuous."""
    return -1

  @property
  def return_range(self) -> tuple[float, float] | None:
    """Smallest and largest `return_to_go` of the data; None if the source does not compute it."""
    return None

  @property
  def reward_range(self) -> tuple[float, float] | None:
    """The smallest and the largest reward of a step in the data; None if unknown."""
    return None

  def identity(self) -> dict[str, Any]:
    """Returns values that must be equal in a resumed run, for JSON; `game`, if the data has one."""
    return self.describe()

  def with_seed(self, seed: int) -> DataSource | None:
    """Returns this data with another seed, not copied; None if a new source must be created."""
    return None

  def draw(self, first_update: int, num_updates: int, batch_size: int) -> np.ndarray:
    """Returns the rows [K, B] int32 that `sample` would gather; only with `device_rows`."""
    raise NotImplementedError(f'{type(self).__name__} has no draw().')

  @property
  def fetch(self) -> Callable[[Any, types.Array], types.Batch]:
    """Pure `fetch(device_rows, rows [B]) -> batch`, always the same object; with `device_rows`."""
    raise NotImplementedError(f'{type(self).__name__} has no fetch().')

  @property
  def recorder(self) -> Recorder | None:
    """The recorder of the agent's steps while it acts; None for finished data."""
    return None

  @property
  def compiled_memory(self) -> CompiledMemory | None:
    """The replay in device memory that a compiled online loop fills; None for any other source."""
    return None

  def update_priorities(self, priority: types.Array) -> None:
    """Receives the priorities [K, B] of the last drawn transitions; does nothing by default."""

  def state_dict(self) -> dict[str, Any]:
    """Returns the source's state for a checkpoint, nested dicts of arrays; empty if it is fixed."""
    return {}

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""


class RowSource(DataSource):
  """The common part of sources that keep rows and frames: drawing, gathering, describing.

  A subclass chooses the rows of a batch (`_draw`) and defines their number (`__len__`).

  Args:
    columns: the data of each row except its frame.
    frames: the frames of the same rows.
    stack_size: S, frames per state.
    update_horizon: n, steps from state to next state.
    gamma: discount per step, for the n-step reward sum.
    seed: all sampling derives from it.

  Raises:
    ValueError: if a setting is out of range or the columns don't fit the frames.
  """

  def __init__(
    self,
    columns: transitions.Columns,
    frames: transitions.Frames,
    *,
    stack_size: int,
    update_horizon: int,
    gamma: float,
    seed: int,
  ):
    check_settings(stack_size, update_horizon, gamma, seed)
    if isinstance(frames, types.Array):
      raise ValueError(
        'frames is a plain array: pass implicit_rl.data.store.frame_store.RawFrames(frames).'
      )
    if len(columns.action) != frames.shape[0]:
      raise ValueError(f'{len(columns.action)} rows but {frames.shape[0]} frames.')
    self._columns, self._frames = columns, frames
    self._stack_size, self._horizon = stack_size, update_horizon
    self._gamma, self._seed = gamma, seed

  @abc.abstractmethod
  def _draw(self, first_update: int, num_updates: int, batch_size: int, stream: int) -> np.ndarray:
    """Returns the rows [K, B] that start the transitions of a run of updates."""

  def sample(self, first_update: int, num_updates: int, batch_size: int) -> types.Batch:
    """See `DataSource.sample`."""
    return self._gather(
      self._draw(first_update, num_updates, batch_size, transitions.TRAINING_STREAM)
    )

  def fixed_batch(self, size: int) -> types.Batch:
    """See `DataSource.fixed_batch`."""
    return self._with_returns(self._draw(0, 1, size, transitions.FIXED_BATCH_STREAM)[0])

  def _with_returns(self, rows: np.ndarray) -> types.Batch:
    """Returns the transitions from `rows` [B], and their returns."""
    batch = self._gather(rows)
    if batch.return_to_go is None:
      batch = batch._replace(return_to_go=self._returns(rows))
    return batch

  def _returns(self, rows: np.ndarray) -> np.ndarray:
    """Returns to the episodes' ends from `rows` [B]: [B] float32, NaN where unknown."""
    found = self._columns
    return transitions.returns_of(
      rows, found.reward, found.terminal, found.episode_end, self._gamma
    )

  @property
  def reward_range(self) -> tuple[float, float] | None:
    """The smallest and the largest reward; None without a transition."""
    reward = self._columns.reward
    return (float(reward.min()), float(reward.max())) if len(reward) else None

  @abc.abstractmethod
  def __len__(self) -> int:
    """The number of complete transitions."""

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return tuple(self._frames.shape[1:])

  @property
  def observation_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return self._frames.dtype

  @property
  def stack_size(self) -> int:
    """Frames per state."""
    return self._stack_size

  @property
  def action_shape(self) -> tuple[int, ...]:
    """Shape of one action: () for discrete actions, (A,) for continuous ones."""
    return tuple(self._columns.action.shape[1:])

  def describe(self) -> dict[str, Any]:
    """Returns a description of the data for JSON."""
    return {
      'transitions': len(self),
      'observation_shape': list(self.observation_shape),
      'observation_dtype': str(self.observation_dtype),
      'stack_size': self._stack_size,
      'update_horizon': self._horizon,
      'gamma': self._gamma,
      'seed': self._seed,
    }

  def identity(self) -> dict[str, Any]:
    """Returns the settings that determine the batches, as JSON values."""
    described = self.describe()
    return {name: described[name] for name in _IDENTITY if name in described}

  def _gather(self, rows: np.ndarray) -> types.Batch:
    return transitions.gather(
      self._columns,
      self._frames,
      rows,
      stack_size=self._stack_size,
      update_horizon=self._horizon,
      gamma=self._gamma,
    )


class StoredSource(RowSource):
  """Samples from a finished store: the offline `DataSource`.

  Args:
    columns: one row per stored step.
    frames: the frames of the same rows.
    stack_size: S, frames per state.
    update_horizon: n, steps from state to next state.
    gamma: discount per step, for the n-step reward sum.
    seed: all sampling derives from it.
    selected: [N] bool, rows that may start a transition; every row if None.
    return_to_go: whether to compute `transitions.returns_to_go`, or its values [N] float32. Rows
      without a return (NaN) start no transition.
    description: describes the data; `describe` adds the counts. A run prints its `dataset`.
    on_device: keep frames and columns in device memory; batches are then gathered within the
      learner's compiled program. The same rows are drawn, so training differs by rounding at most.
    held_out: share of rows that no update draws, for measures on unseen transitions. They are
      random whole episodes, the same for every seed.

  Attributes:
    device_rows: the store in device memory, or None.

  Raises:
    ValueError: if the settings are out of range or there is no complete transition.
  """

  def __init__(
    self,
    columns: transitions.Columns,
    frames: transitions.Frames,
    *,
    stack_size: int,
    update_horizon: int,
    gamma: float,
    seed: int = 0,
    selected: np.ndarray | None = None,
    return_to_go: np.ndarray | bool | None = None,
    description: Mapping[str, Any] | None = None,
    on_device: bool = False,
    held_out: float = 0.0,
  ):
    super().__init__(
      columns,
      frames,
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
    )
    check_number(f'{type(self).__name__}.held_out', held_out, least=0, most=1)
    valid = transitions.valid_rows(columns.terminal, columns.episode_end, update_horizon)
    if selected is not None:
      valid &= selected
    returns: np.ndarray | None = None
    if isinstance(return_to_go, np.ndarray):
      returns = return_to_go
    elif return_to_go:
      returns = transitions.returns_to_go(
        columns.reward, columns.terminal, columns.episode_end, gamma
      )
    if returns is not None:
      valid &= ~np.isnan(returns)
    if not valid.any():
      raise ValueError(
        f'No complete transition is left: the data holds {len(columns.action)} rows, and '
        f'update_horizon is {update_horizon}. Choose a larger part of the dataset.'
      )
    self._description = {'dataset': 'unnamed data', **(description or {})}
    self._held_out = None
    if held_out:
      kept_out = self._choose_held_out(valid, held_out)
      self._held_out = compact.RowRuns(kept_out)
      valid &= ~kept_out
      self._description |= {'held_out': held_out, 'held_out_transitions': len(self._held_out)}
    self._valid = compact.RowRuns(valid)
    self._return_to_go = returns
    self._max_action = -1 if columns.action.ndim > 1 else int(columns.action.max())
    self.device_rows: device_store.DeviceRows | None = None
    if on_device:
      self.device_rows = device_store.from_host(columns, frames, returns)
      self._frames = device_store.DeviceFrames(self.device_rows.observation)

  def _choose_held_out(self, valid: np.ndarray, share: float) -> np.ndarray:
    """Returns which rows [N] to hold out: whole episodes, because consecutive rows are similar.

    Raises:
      ValueError: if there are too few episodes.
    """
    starts = np.unique(self._columns.episode_start)
    lengths = np.add.reduceat(valid, starts, dtype=np.int64)
    kept_out = np.zeros_like(valid)
    kept_out[valid] = subsets.random_episodes(
      subsets.Episodes(lengths, np.zeros(len(lengths), np.int64)), share
    )
    if not kept_out.any() or not (valid & ~kept_out).any():
      raise ValueError(
        f'{type(self).__name__}.held_out = {share} takes all or none of the {len(starts)} '
        'episodes, which are held out whole: choose another share, or a larger part of the dataset.'
      )
    return kept_out

  def with_seed(self, seed: int) -> StoredSource:
    """Returns this data with another seed; rows and frames are shared, not copied."""
    check_settings(self._stack_size, self._horizon, self._gamma, seed)
    self.fetch  # noqa: B018 - made now, for both to have one object and so one compiled program
    other = copy.copy(self)
    other._seed = seed
    return other

  def draw(self, first_update: int, num_updates: int, batch_size: int) -> np.ndarray:
    """Returns the rows [K, B] int32 that `sample` would gather; for `fetch`, on the device."""
    rows = self._draw(first_update, num_updates, batch_size, transitions.TRAINING_STREAM)
    return rows.astype(np.int32)

  @functools.cached_property
  def fetch(self) -> Callable[[device_store.DeviceRows, types.Array], types.Batch]:
    """Pure `fetch(device_rows, rows [B]) -> batch`, always the same object."""
    return functools.partial(
      device_store.gather_one_stream,
      stack_size=self._stack_size,
      update_horizon=self._horizon,
      gamma=self._gamma,
    )

  def _draw(self, first_update: int, num_updates: int, batch_size: int, stream: int) -> np.ndarray:
    drawn = transitions.uniform_indices(
      self._seed, first_update, num_updates, batch_size, len(self._valid), stream=stream
    )
    return self._valid[drawn]

  def held_out_batch(self, size: int) -> types.Batch | None:
    """See `DataSource.held_out_batch`."""
    if self._held_out is None:
      return None
    (drawn,) = transitions.uniform_indices(
      self._seed, 0, 1, size, len(self._held_out), stream=transitions.FIXED_BATCH_STREAM
    )
    return self._with_returns(self._held_out[drawn])

  def in_order(self, batch_size: int) -> Iterator[types.Batch]:
    """Yields every transition that is not held out once, in logged order.

    Yields:
      Batches with leading axis [batch_size]; the last may be shorter.
    """
    for start in range(0, len(self), batch_size):
      yield self._gather(self._valid[start : start + batch_size])

  def _gather(self, rows: np.ndarray) -> types.Batch:
    batch = super()._gather(rows)
    if self._return_to_go is None:
      return batch
    return batch._replace(return_to_go=self._return_to_go[rows])

  def __len__(self) -> int:
    return len(self._valid)

  @property
  def max_action(self) -> int:
    """The largest action in the data; −1 if actions are continuous."""
    return self._max_action

  @property
  def return_range(self) -> tuple[float, float] | None:
    """Smallest and largest `return_to_go` of the data; None if the source does not compute it."""
    if self._return_to_go is None:
      return None
    known = self._return_to_go if self._held_out is None else self._return_to_go[self._valid[:]]
    return float(np.nanmin(known)), float(np.nanmax(known))

  def describe(self) -> dict[str, Any]:
    """Returns a description of the data for JSON."""
    return {
      **self._description,
      'rows': len(self._columns.action),
      'segments': int(self._columns.episode_end.sum()),  # episodes, or their stored parts
      'terminals': int(self._columns.terminal.sum()),
      'reward_sum': float(self._columns.reward.sum(dtype=np.float64)),
      'max_action': self.max_action,
      **({'return_to_go': True} if self._return_to_go is not None else {}),
      **super().describe(),
    }


def check_source(made: Any) -> None:
  """Checks that an agent's source has all of `DataSource`.

  Raises:
    ValueError: if a member is missing; the error names it.
  """
  missing = [name for name in members() if inspect.getattr_static(made, name, members) is members]
  if missing:
    raise ValueError(
      f'Agent.source: {type(made).__name__} lacks {", ".join(missing)}. Subclass '
      'implicit_rl.data.source.DataSource, which has defaults for most.'
    )


def members() -> list[str]:
  """The names that `DataSource` declares."""
  methods = [
    n for n, value in vars(DataSource).items() if callable(value) or hasattr(value, 'fget')
  ]
  return [*DataSource.__annotations__, '__len__', *(n for n in methods if not n.startswith('_'))]


def check_convention(terminal_convention: str) -> None:
  """Raises ValueError if it is not one of `TERMINAL_CONVENTIONS`."""
  if terminal_convention not in TERMINAL_CONVENTIONS:
    raise ValueError(
      f'Unknown terminal_convention {terminal_convention!r}; choose one of '
      f'{", ".join(TERMINAL_CONVENTIONS)}.'
    )


def check_settings(stack_size: int, update_horizon: int, gamma: float, seed: int) -> None:
  """Raises ValueError if a setting is out of range; the error names it."""
  if stack_size < 1:
    raise ValueError(f'stack_size must be at least 1, got {stack_size}.')
  if update_horizon < 1:
    raise ValueError(f'update_horizon must be at least 1, got {update_horizon}.')
  if not 0 <= gamma <= 1:
    raise ValueError(f'gamma must lie in [0, 1], got {gamma}.')
  if seed < 0:
    raise ValueError(f'seed must be 0 or more, got {seed}.')

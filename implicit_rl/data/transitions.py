"""Index maths of all stores: which rows start a transition, and how to gather it.

A store keeps each frame once. Its columns have one row per logged environment step, episode after
episode, and row t holds (o_t, a_t, r_t, terminal_t). Stacks, n-step sums and next states are
assembled from those rows when a batch is drawn. Everything is pure NumPy.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, Protocol

import numpy as np

from implicit_rl import types
from implicit_rl.data import compact

# Separate random streams of one seed, so that the fixed batch does not depend on training.
TRAINING_STREAM = 0
FIXED_BATCH_STREAM = 1


class Frames(Protocol):
  """Anything that returns stored frames by row number."""

  @property
  def shape(self) -> tuple[int, ...]:
    """[N, *observation_shape]."""
    ...

  @property
  def dtype(self) -> np.dtype:
    """The data type of a frame."""
    ...

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Returns a new array [..., *observation_shape] for `rows` [...] int64, all within [0, N)."""
    ...


class Columns(NamedTuple):
  """The data of each row besides its frame.

  In a ring buffer row numbers only grow; row t is then at position t mod N.

  Attributes:
    action: [N] whole numbers; a finished store uses the smallest dtype that represents them.
      Continuous actions are [N, A] float32.
    reward: [N] float32, or a smaller dtype that represents them exactly.
    terminal: [N] bool, whether the episode terminated here, so that later values are 0.
    episode_end: [N] bool, whether it is the last row of its episode: terminal, or truncated by a
      time limit.
    episode_start: [N] int64, or int32 if it suffices, number of the episode's first row.
  """

  action: np.ndarray
  reward: np.ndarray
  terminal: np.ndarray
  episode_end: np.ndarray
  episode_start: np.ndarray


def make_columns(
  action: np.ndarray, reward: np.ndarray, terminal: np.ndarray, episode_end: np.ndarray
) -> Columns:
  """Builds the columns of a finished store and checks that they are consistent.

  Args:
    action: [N] integers, or [N, A] floats.
    reward: [N] floats.
    terminal: [N] bool; every terminal row must also be an episode's end.
    episode_end: [N] bool; the last row must be True, because nothing follows it.

  Returns:
    The columns, in few bytes: 8 per row if actions and rewards are small whole numbers.

  Raises:
    ValueError: if lengths differ, or the flags contradict each other.
  """
  action = np.asarray(action)
  continuous = action.ndim == 2 and np.issubdtype(action.dtype, np.floating)
  lengths = {np.shape(a) for a in (reward, terminal, episode_end)}
  lengths.add(action.shape[:1] if continuous else action.shape)
  if len(lengths) != 1 or len(next(iter(lengths))) != 1:
    raise ValueError(f'Columns must be 1-D and of one length, got shapes {sorted(lengths)}.')
  terminal, episode_end = np.asarray(terminal, bool), np.asarray(episode_end, bool)
  if len(episode_end) and not episode_end[-1]:
    raise ValueError('The last row must be the end of an episode: mark it in episode_end.')
  if np.any(terminal & ~episode_end):
    row = int(np.argmax(terminal & ~episode_end))
    raise ValueError(f'Row {row} is terminal but not the end of its episode.')
  return Columns(
    action=action.astype(np.float32)
    if continuous
    else compact.smallest(np.asarray(action, np.int32)),
    reward=compact.smallest(np.asarray(reward, np.float32)),
    terminal=terminal,
    episode_end=episode_end,
    episode_start=episode_starts(episode_end),
  )


def episode_starts(episode_end: np.ndarray) -> np.ndarray:
  """Returns, for each row, the first row of its episode: [N] bool -> [N] int32 or int64."""
  ends = np.flatnonzero(episode_end)
  starts = np.concatenate([[0], ends + 1])[: len(ends)]
  dtype = np.int32 if len(episode_end) < 2**31 else np.int64
  return np.repeat(starts.astype(dtype), ends - starts + 1)


def valid_rows(terminal: np.ndarray, episode_end: np.ndarray, update_horizon: int) -> np.ndarray:
  """Returns which rows start a complete transition.

  Row t does if its episode has a row t+n or terminates before it. The last n rows of an episode
  truncated by a time limit have no next state, so they are left out.

  Args:
    terminal: [N] bool.
    episode_end: [N] bool, True at N-1.
    update_horizon: n, in environment steps.

  Returns:
    [N] bool.
  """
  if update_horizon < 1:
    raise ValueError(f'update_horizon must be at least 1, got {update_horizon}.')
  ends = np.flatnonzero(episode_end)  # [E]
  first = np.append(0, ends[:-1] + 1)[: len(ends)]
  cut = ~np.asarray(terminal)[ends]
  valid = np.ones(len(episode_end), bool)
  for offset in range(update_horizon):
    at = ends[cut] - offset
    valid[at[at >= first[cut]]] = False
  return valid


def returns_to_go(
  reward: np.ndarray,
  terminal: np.ndarray,
  episode_end: np.ndarray,
  gamma: float,
  tolerance: float = 0.01,
) -> np.ndarray:
  """Returns the discounted return from each row to the end of its episode, Σ_{i≥0} γ^i r_{t+i}.

  If a time limit truncated an episode, the return lacks the rewards that would have followed. A row
  gets NaN if it is so near to the end that the missing part has a weight γ^steps > `tolerance`. For
  earlier rows the missing part is at most that share of the value at the end, and is neglected.

  Args:
    reward: [N].
    terminal: [N] bool.
    episode_end: [N] bool, True at N-1.
    gamma: discount per step.
    tolerance: the largest weight at which a missing part is neglected. With γ = 0.99 and 0.01 the
      last 459 rows of a truncated episode have no return, with γ = 1 none of its rows has one.

  Returns:
    [N] float32.
  """
  result = np.empty(len(reward), np.float64)
  ends = np.flatnonzero(episode_end)
  for start, end in zip(np.append(0, ends[:-1] + 1), ends, strict=True):
    backwards = reward[start : end + 1][::-1].tolist()
    summed = list(itertools.accumulate(backwards, lambda following, r: r + gamma * following))
    result[start : end + 1] = summed[::-1]
    if not terminal[end]:
      missing = gamma ** np.arange(end - start + 1, 0, -1, dtype=np.float64)
      result[start : end + 1][missing > tolerance] = np.nan
  return result.astype(np.float32)


def returns_of(
  rows: np.ndarray,
  reward: np.ndarray,
  terminal: np.ndarray,
  episode_end: np.ndarray,
  gamma: float,
) -> np.ndarray:
  """Returns `returns_to_go` of some rows; sums only the episodes of these rows.

  Args:
    rows: [B] int64, in [0, N).
    reward: [N].
    terminal: [N] bool.
    episode_end: [N] bool, True at N-1.
    gamma: discount per step.

  Returns:
    [B] float32, NaN where the rest of the episode is missing.
  """
  ends = np.flatnonzero(episode_end)  # [E]
  starts = np.append(0, ends[:-1] + 1)
  episode = np.searchsorted(ends, rows)  # [B]
  wanted = np.zeros(len(ends), bool)
  wanted[episode] = True
  lengths = ends - starts + 1
  kept = np.repeat(wanted, lengths)
  returns = returns_to_go(reward[kept], terminal[kept], episode_end[kept], gamma)
  shift = starts - (np.cumsum(lengths * wanted) - lengths)  # To positions in `returns`.
  return returns[rows - shift[episode]]


def gather(
  columns: Columns,
  frames: Frames,
  rows: np.ndarray,
  *,
  stack_size: int,
  update_horizon: int,
  gamma: float,
) -> types.Batch:
  """Returns the transitions that start at `rows` of a store.

  Every frame of a transition is fetched once: with n = 1 that is S+1 frames, of which `state` and
  `next_state` are overlapping views.

  Args:
    columns: the store's columns.
    frames: the store's frames, same row order.
    rows: [...] int64, rows that start a complete transition (see `valid_rows`).
    stack_size: S, frames per state.
    update_horizon: n.
    gamma: discount per step, used only inside the n-step reward sum.

  Returns:
    A batch of host arrays with leading axes [...].
  """
  capacity = len(columns.action)
  rows = np.asarray(rows, np.int64)
  steps = rows[..., None] + np.arange(update_horizon + 1)  # [..., n+1]
  at = steps % capacity
  ended = np.logical_or.accumulate(columns.episode_end[at[..., :-1]], axis=-1)  # [..., n]
  exists = np.concatenate([np.ones((*rows.shape, 1), bool), ~ended], axis=-1)  # [..., n+1]
  within = exists[..., :-1]  # [..., n]: t+i belongs to the same episode
  powers = float(gamma) ** np.arange(update_horizon)
  reward = np.sum(columns.reward[at[..., :-1]] * within * powers, axis=-1)
  terminal = np.any(columns.terminal[at[..., :-1]] & within, axis=-1)
  next_action = _as_actions(columns.action[at[..., -1]])
  next_action[~exists[..., -1]] = 0

  # Offsets of the frames of both stacks, each once; the first S are the state, the last S the next
  # state.
  offsets = stack_offsets(stack_size, update_horizon)  # [F]
  wanted = rows[..., None] + offsets  # [..., F]
  present = (wanted >= columns.episode_start[rows % capacity][..., None]) & (
    exists[..., np.maximum(offsets, 0)]
  )
  stacked = frames.take(wanted % capacity)  # [..., F, *obs]
  if not present.all():
    stacked[~present] = 0
  axis = rows.ndim
  first = (slice(None),) * axis
  return types.Batch(
    state=stacked[(*first, slice(None, stack_size))],
    action=_as_actions(columns.action[at[..., 0]]),
    reward=reward.astype(np.float32),
    next_state=stacked[(*first, slice(-stack_size, None))],
    next_action=next_action,
    discount=(~terminal).astype(np.float32),
    weight=np.ones(rows.shape, np.float32),
  )


def _as_actions(stored: np.ndarray) -> np.ndarray:
  """Returns a new array of actions in a batch's dtype."""
  return stored.astype(np.float32 if np.issubdtype(stored.dtype, np.floating) else np.int32)


def rows_needed(
  episode_end: np.ndarray, selected: np.ndarray, stack_size: int, update_horizon: int
) -> np.ndarray:
  """Returns which rows must be stored so that the selected rows have complete transitions.

  Args:
    episode_end: [N] bool.
    selected: [N] bool, rows that may start a transition.
    stack_size: S; the S-1 rows before a selected row are needed.
    update_horizon: n; the n rows after it, and their frames, are needed.

  Returns:
    [N] bool; rows of other episodes are not needed.
  """
  starts = episode_starts(episode_end)
  needed = selected.copy()
  for offset in stack_offsets(stack_size, update_horizon):
    shifted = _shift(selected, offset)
    needed |= shifted & (_shift(starts, offset) == starts)
  for offset in range(1, update_horizon):  # Rewards between the two stacks.
    needed |= _shift(selected, offset) & (_shift(starts, offset) == starts)
  return needed


def segment_ends(episode_end: np.ndarray, keep: np.ndarray) -> np.ndarray:
  """Returns which kept rows have no kept successor in their episode, over the kept rows.

  Args:
    episode_end: [N] bool.
    keep: [N] bool.

  Returns:
    [sum(keep)] bool, the `episode_end` of a store that holds only the kept rows.
  """
  followed = np.append(keep[1:], False) & ~episode_end
  return ~followed[keep]


def uniform_numbers(
  seed: int, first_update: int, num_updates: int, batch_size: int, *, stream: int = TRAINING_STREAM
) -> np.ndarray:
  """Draws numbers for a run of updates; update u always draws the same numbers.

  Counter-based (Philox): the draws of update u are a pure function of (seed, stream, u,
  batch_size), so they do not depend on the grouping of updates into calls or on resuming, and no
  state has to be saved. 53 random bits per draw.

  Args:
    seed: non-negative.
    first_update: number of the first update, from 0.
    num_updates: K.
    batch_size: B.
    stream: independent stream of the same seed.

  Returns:
    [K, B] float64 in [0, 1).
  """
  if first_update < 0 or num_updates < 1 or batch_size < 1:
    raise ValueError(
      'first_update must be 0 or more, num_updates and batch_size 1 or more; got '
      f'{first_update}, {num_updates}, {batch_size}.'
    )
  key = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64)
  blocks = -(-batch_size // 4)  # Philox yields four words of 64 bits per counter value.
  bits = np.random.Philox(key=key, counter=first_update * blocks)
  words = bits.random_raw(num_updates * blocks * 4).reshape(num_updates, blocks * 4)
  return (words[:, :batch_size] >> np.uint64(11)) * 2.0**-53


def uniform_indices(
  seed: int, first_update: int, num_updates: int, batch_size: int, n: int, *, stream: int = 0
) -> np.ndarray:
  """Draws indices for a run of updates, with replacement; see `uniform_numbers`.

  Args:
    seed: non-negative.
    first_update: number of the first update, from 0.
    num_updates: K.
    batch_size: B.
    n: exclusive upper bound, 1 to 2^53; an index's bias is below n/2^53.
    stream: independent stream of the same seed.

  Returns:
    [K, B] int64 in [0, n).
  """
  if n < 1:
    raise ValueError('There is nothing to sample from: the store holds no complete transition.')
  numbers = uniform_numbers(seed, first_update, num_updates, batch_size, stream=stream)
  return (numbers * n).astype(np.int64)


def stack_offsets(stack_size: int, update_horizon: int) -> np.ndarray:
  """Returns the row offsets of a state's and a next state's frames, each once, increasing."""
  stack = np.arange(1 - stack_size, 1)
  return np.union1d(stack, stack + update_horizon)


def _shift(values: np.ndarray, offset: int) -> np.ndarray:
  """Returns `values` shifted by `offset` rows, filled with zeros."""
  shifted = np.zeros_like(values)
  if offset == 0:
    shifted[:] = values
  elif abs(offset) < len(values):
    target, source = slice(max(offset, 0), min(offset, 0) or None), slice(max(-offset, 0), None)
    shifted[target] = values[source][: len(shifted[target])]
  return shifted

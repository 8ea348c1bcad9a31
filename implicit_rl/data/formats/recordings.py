"""Recordings, from which stores are made: a dataset as rows in logged order, from any row on."""

from __future__ import annotations

import abc
import pathlib
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from implicit_rl.logs import progress_bars

T = TypeVar('T')
_NAMED = 3  # Number of differences that a message names.


class Rows(NamedTuple):
  """Consecutive logged rows; a row has the observation, action and reward of one step.

  Attributes:
    observation: [m, *shape].
    action: [m] int32.
    reward: [m] float32.
    terminal: [m] bool, whether the episode terminated here.
    episode_end: [m] bool, whether it is the last row of its episode, or the last one in the data.
    is_first: [m] bool, whether it is the first row of its episode; an episode without one lacks its
      beginning.
    checkpoint: [m] int16, the stage of the logging agent's training.
  """

  observation: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  terminal: np.ndarray
  episode_end: np.ndarray
  is_first: np.ndarray
  checkpoint: np.ndarray


COLUMNS: dict[str, type[np.generic]] = {  # Stored for each row besides its frame.
  'action': np.int32,
  'reward': np.float32,
  'terminal': np.bool_,
  'episode_end': np.bool_,
  'is_first': np.bool_,
  'checkpoint': np.int16,
}


class Recording(abc.ABC):
  """A dataset that can be read repeatedly as rows in logged order, from any row on."""

  @property
  @abc.abstractmethod
  def frame_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""

  @property
  @abc.abstractmethod
  def frame_dtype(self) -> np.dtype:
    """Data type of a frame."""

  @abc.abstractmethod
  def identity(self) -> dict[str, Any]:
    """Returns the data's identity, as JSON values: everything that determines the rows of `read`.

    `files` has the `file_stamps` of the files that `read` opens, if any.
    """

  @abc.abstractmethod
  def __len__(self) -> int:
    """The number of rows, without skipped ones."""

  @abc.abstractmethod
  def read(self, start: int = 0) -> Iterator[Rows]:
    """Yields all rows from number `start` on, in parts of any size; always the same rows."""

  @abc.abstractmethod
  def sample(self) -> np.ndarray:
    """Returns some frames [m, *shape] of all stages of the data, in order; always the same."""

  @property
  def skipped(self) -> list[dict[str, Any]]:
    """The parts that were left out because they are missing or damaged, as JSON values."""
    return []

  def skip(self, skipped: Iterable[Mapping[str, Any]]) -> None:
    """Leaves out the same parts as an interrupted reading, so that row numbers are the same."""
    del skipped


def episode_rows(
  observation: np.ndarray, action: Any, reward: Any, terminal: bool, checkpoint: int
) -> Rows:
  """Returns one complete episode, which terminated or was truncated, as rows."""
  places = np.arange(len(observation))
  last = places == len(places) - 1
  return Rows(
    observation=observation,
    action=np.asarray(action, np.int32),
    reward=np.asarray(reward, np.float32),
    terminal=last & terminal,
    episode_end=last,
    is_first=places == 0,
    checkpoint=np.full(len(places), checkpoint, np.int16),
  )


def drop_before(parts: Iterable[Rows], count: int) -> Iterator[Rows]:
  """Yields `parts` without their first `count` rows."""
  for part in parts:
    skip = min(count, len(part.action))
    count -= skip
    if skip < len(part.action):
      yield Rows(*(column[skip:] for column in part))


def in_background(items: Iterator[T], ahead: int = 2) -> Iterator[T]:
  """Yields `items`; a thread computes up to `ahead` of them in advance. Passes on errors."""
  ready: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
  stopped = threading.Event()

  def put(item: tuple[str, Any]) -> bool:
    while not stopped.is_set():
      try:
        ready.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def work() -> None:
    try:
      if all(put(('item', item)) for item in items):
        put(('end', None))
    except BaseException as error:  # Raised again where the items are used.
      put(('error', error))

  thread = threading.Thread(target=work, name='in_background', daemon=True)
  thread.start()
  try:
    while True:
      kind, value = ready.get()
      if kind == 'end':
        return
      if kind == 'error':
        raise value
      yield value
  finally:
    stopped.set()
    thread.join()


def runs(values: np.ndarray) -> list[tuple[int, int]]:
  """Returns consecutive equal values [n] as (value, count)."""
  starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
  counts = np.diff(starts, append=len(values))
  return [(int(values[s]), int(c)) for s, c in zip(starts, counts, strict=True)]


def ranges(numbers: Iterable[int]) -> str:
  """Returns numbers as text: '0-3,7'."""
  held = np.array(sorted(numbers), np.int64)
  parts = np.split(held, np.flatnonzero(np.diff(held) != 1) + 1) if len(held) else []
  return ','.join(f'{p[0]}-{p[-1]}' if len(p) > 1 else f'{p[0]}' for p in parts)


def file_stamps(paths: Iterable[pathlib.Path]) -> dict[str, list[int]]:
  """Returns the size in bytes and the modification time in nanoseconds of each file, by name."""
  found = {path.name: path.stat() for path in paths}
  return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Returns a short text of how two identities differ, with files by name; '' if they are equal."""
  found = []
  for name in sorted(recorded.keys() | now.keys()):
    before, after = recorded.get(name), now.get(name)
    if before == after:
      continue
    if name == 'files' and before and after:
      found += [f'{file} is gone' for file in sorted(before.keys() - after.keys())]
      found += [f'{file} is new' for file in sorted(after.keys() - before.keys())]
      found += [
        f'{file} has changed'
        for file in sorted(before.keys() & after.keys())
        if before[file] != after[file]
      ]
    elif name == 'files':
      found.append('its files are not recorded')
    else:
      found.append(f'{name} was {before}, is {after}')
  more = len(found) - _NAMED
  return '; '.join(found[:_NAMED]) + (f'; and {more} more' if more > 0 else '')


def bar(total: int, what: str, unit: str = 'rows', start: int = 0) -> Any:
  """Returns a progress bar that shows only if the work takes more than five seconds."""
  return progress_bars.bar(total, what, unit, start, unit_scale=True, delay=5, mininterval=0.5)

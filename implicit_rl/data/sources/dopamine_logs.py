"""Dopamine's logged replay buffers (`$store$_observation_ckpt.N.gz` and so on) in logged order.

The buffer is a ring of C rows; row g of the whole run is at g mod C. A file holds the ring after
`add_count` rows were added, that is rows add_count - C to add_count - 1. This has the following
consequences:

- A log is written when `add_count` mod C is C - 1, so position C - 1 is from the previous round. In
  file k it is the row after the last one of file k - 1, and in file 0 it was never written.
- The last log holds the ring in mid-round, and its `add_count` is the position in the round. From
  there on it repeats its predecessor.
- A log is lost if an episode's beginning skips position C - 1. Then a round of C rows is missing,
  and the next file has the lost file's number.

Every episode begins with `stack_size - 1` rows of zeros, which are not experience and are left out.
An episode ends at a terminal row, or at a row in `episode_end_indices` (in newer logs); logs of DQN
Replay mark an end by the time limit of 27,000 steps as terminal.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from implicit_rl.data.formats import dopamine_files, gzip_arrays, recordings
from implicit_rl.data.formats.dopamine_files import COLUMNS
from implicit_rl.logs.errors import DamagedLogError

_ROWS = 256  # Rows of frames read at once.
# A dictionary is trained on this many logs, at most this many frames of each, at this distance in
# rows.
_SAMPLE_LOGS, _SAMPLE_FRAMES, _SAMPLE_EVERY = 25, 64, 50
_FEW = 64  # Maximum number of rows after the seam to keep while a file is checked.


class _Log(NamedTuple):
  """Facts on one file set before its frames are read.

  Attributes:
    checkpoint: N of the file names.
    begin: number in the whole run of the first row that no earlier log held.
    end: number of the first row that it does not hold yet.
    seam: number of the first row at or after position 0; earlier rows are at the ring's end.
    keep: [end - begin] bool, rows that are experience, not padding.
    last: [end - begin] bool, rows that end an episode.
    first: [end - begin] bool, rows that begin one.
    columns: action, reward, terminal of the file, by position.
    follows: whether the rows of the previous log continue in this one.
    stack_size: the logging agent's.
    padding_after: number of rows of zeros at the beginning of the next log.
    fresh_after: whether an episode begins after them.
  """

  checkpoint: int
  begin: int
  end: int
  seam: int
  keep: np.ndarray
  last: np.ndarray
  first: np.ndarray
  columns: dict[str, np.ndarray]
  follows: bool
  stack_size: int
  padding_after: int
  fresh_after: bool

  @property
  def capacity(self) -> int:
    """C, the number of rows of a file."""
    return len(self.columns['action'])


class DopamineLogs(recordings.Recording):
  """The logs in a folder as one recording; only a small buffer of frames is in memory.

  Args:
    folder: the folder of the files, or a run's folder in batch_rl's layout, which has
      `replay_logs`.
    checkpoints: which to read; None for all from 0 to the last, of which none may be missing.
    skip_missing: leave out checkpoints that are missing or damaged, and record them in `skipped`.

  Raises:
    FileNotFoundError: if a file is missing and `skip_missing` is False.
    DamagedLogError: if a file is damaged or contradicts another, and `skip_missing` is False.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    checkpoints: Iterable[int] | None = None,
    skip_missing: bool = False,
  ):
    self._folder = dopamine_files.find_folder(folder)
    self._found = dopamine_files.list_logs(self._folder)
    self._skip_missing = skip_missing
    self._skipped: dict[int, dict[str, Any]] = {}
    self._wanted = dopamine_files.wanted(self._found, checkpoints)
    self._shape: tuple[int, ...] = ()
    self._dtype: np.dtype = np.dtype(np.uint8)
    self._plan()

  @property
  def frame_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return self._shape

  @property
  def frame_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return self._dtype

  @property
  def skipped(self) -> list[dict[str, Any]]:
    """See `Recording.skipped`: `checkpoint` and `why` of each."""
    return [self._skipped[n] for n in sorted(self._skipped)]

  def skip(self, skipped: Iterable[Mapping[str, Any]]) -> None:
    """See `Recording.skip`."""
    self._skipped = {entry['checkpoint']: dict(entry) for entry in skipped}
    self._plan()

  def identity(self) -> dict[str, Any]:
    """See `Recording.identity`."""
    return dopamine_files.identity(
      self._folder, checkpoints=self._wanted, skip_missing=self._skip_missing
    )

  def sample(self) -> np.ndarray:
    """See `Recording.sample`: from the beginning of each log, where a file is read quickly."""
    found = []
    wanted = [n for n in self._wanted if n not in self._skipped]
    for checkpoint in wanted[:: -(-len(wanted) // _SAMPLE_LOGS)]:
      parts = self._observations(checkpoint).parts(_SAMPLE_EVERY)
      found += [part[0] for part in itertools.islice(parts, _SAMPLE_FRAMES)]
    frames = np.stack(found)
    shown = frames.any(axis=tuple(range(1, frames.ndim)))  # Without padding.
    return frames[shown] if shown.any() else frames

  def __len__(self) -> int:
    return self._count

  def read(self, start: int = 0) -> Iterator[recordings.Rows]:
    """See `Recording.read`; all frames of a log are checked before any are returned."""
    return recordings.in_background(self._read(start))

  def _read(self, start: int) -> Iterator[recordings.Rows]:
    held: recordings.Rows | None = None  # The last rows, until more follow.
    gap = False  # Rows are missing since then. A log may add no rows.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      for log, before, early in self._checked(start, pool):
        gap |= not log.follows
        for rows in recordings.drop_before(self._rows(log, early), max(0, start - before)):
          if held is not None:
            held.episode_end[-1] |= gap
            yield held
          held, gap = rows, False
    if held is not None:
      held.episode_end[-1] = True  # Nothing follows.
      yield held

  def _checked(
    self, start: int, pool: concurrent.futures.Executor
  ) -> Iterator[tuple[_Log, int, np.ndarray | None]]:
    """Yields the logs from row `start` on; checks each while the previous one is used.

    Yields:
      A log, the number of rows before it, and the result of `_look_through`.
    """
    used: int | None = -1  # The checkpoint used last.
    while used is not None:
      used = yield from self._checked_until_damage(start, used, pool)

  def _checked_until_damage(
    self, start: int, used: int, pool: concurrent.futures.Executor
  ) -> Generator[tuple[_Log, int, np.ndarray | None], None, int | None]:
    """Does the same up to a skipped log, which changes the meaning of later ones."""
    before, current = 0, None
    for log in itertools.chain(self._logs(), (None,)):
      following = None
      if log is not None:
        begin, before = before, before + int(log.keep.sum())
        if log.checkpoint <= used or before <= start:
          continue
        following = (log, begin, pool.submit(self._look_through, log))
      if current is not None:
        try:
          early = current[2].result()
        except DamagedLogError as error:
          self._leave_out(current[0].checkpoint, error)
          if following:
            following[2].cancel()
          self._plan()
          return used
        yield current[0], current[1], early
        used = current[0].checkpoint
      current = following
    return None

  def _look_through(self, log: _Log) -> np.ndarray | None:
    """Reads all frames of a log once, to detect damage before any of them is used.

    Returns:
      The frames of the rows at the ring's end, which precede those at the file's beginning; None if
      there are more than a few.
    """
    early = log.seam - log.begin
    at = log.begin % log.capacity
    found = []
    position = 0
    padding = np.zeros(log.capacity, bool)
    padding[np.arange(log.begin, log.end)[~log.keep] % log.capacity] = True
    for part in self._observations(log.checkpoint).parts(_ROWS):
      zeros = np.flatnonzero(padding[position : position + len(part)])
      wrong = zeros[part[zeros].any(axis=tuple(range(1, part.ndim)))]
      if len(wrong):
        raise DamagedLogError(self._not_zero(log.checkpoint, 'observation', position + wrong[0]))
      if 0 < early <= _FEW and at < position + len(part):
        found.append(part[max(0, at - position) :][:early].copy())  # A view would keep `part`.
      position += len(part)
    if early > _FEW:
      return None
    return np.concatenate(found) if found else np.empty((0, *self._shape), self._dtype)

  def _rows(self, log: _Log, early: np.ndarray | None) -> Iterator[recordings.Rows]:
    """Yields the experience of a log in logged order."""
    frames = self._observations(log.checkpoint)
    if early is None:
      parts = frames.parts(_ROWS, log.begin % log.capacity)
    else:
      parts = iter([early])
    if log.seam > log.begin:
      yield from self._cut(log, parts, log.begin, log.seam)
    yield from self._cut(log, frames.parts(_ROWS, log.seam % log.capacity), log.seam, log.end)

  def _cut(
    self, log: _Log, parts: Iterator[np.ndarray], begin: int, end: int
  ) -> Iterator[recordings.Rows]:
    """Yields the experience in the run's rows `begin` to `end`, whose frames are `parts`."""
    # The one row of an ordinary log after the seam completes the previous round.
    checkpoint = log.checkpoint - (log.follows and end == log.seam and end - begin == 1)
    while begin < end:
      part = next(parts)[: end - begin]
      rows = slice(begin - log.begin, begin - log.begin + len(part))
      at = np.arange(begin, begin + len(part)) % log.capacity
      keep = log.keep[rows]
      if keep.any():
        at = at[keep]
        yield recordings.Rows(
          observation=part if keep.all() else part[keep],
          action=log.columns['action'][at].astype(np.int32),
          reward=log.columns['reward'][at].astype(np.float32),
          terminal=log.columns['terminal'][at] != 0,
          episode_end=log.last[rows][keep],
          is_first=log.first[rows][keep],
          checkpoint=np.full(len(at), checkpoint, np.int16),
        )
      begin += len(part)

  def _leave_out(self, checkpoint: int, error: Exception) -> None:
    """Records a checkpoint as skipped, or raises the error with its remedy."""
    if not self._skip_missing:
      raise type(error)(
        f'{error} Get that file again, or pass --skip_missing to leave checkpoint {checkpoint} out.'
      ) from error
    self._skipped[checkpoint] = {'checkpoint': checkpoint, 'why': str(error)}

  def _plan(self) -> None:
    """Reads everything except the frames once, to find the logs and their numbers of rows."""
    self._count = sum(int(log.keep.sum()) for log in self._logs())
    if not self._count:
      why = ''.join(f' {entry["why"]}' for entry in self.skipped)
      raise DamagedLogError(f'{self._folder} holds no rows that can be read.{why}')

  def _logs(self) -> Iterator[_Log]:
    """Yields the facts on each log, in order."""
    previous: _Log | None = None
    missing = 0  # Logs left out since the previous one.
    for checkpoint in self._wanted:
      if checkpoint not in self._skipped:
        try:
          log = self._log(checkpoint, previous, missing)
        except (DamagedLogError, FileNotFoundError) as error:
          self._leave_out(checkpoint, error)
        else:
          yield log
          previous, missing = log, 0
          continue
      missing += 1

  def _log(self, checkpoint: int, previous: _Log | None, missing: int) -> _Log:
    """Reads a log's columns and finds its position in the whole run."""
    files = self._open(checkpoint)
    columns = {name: files[name].read() for name in COLUMNS}
    capacity = len(columns['action'])
    added, stack_size = dopamine_files.counts(files, capacity)
    if previous is not None and previous.stack_size != stack_size:
      raise DamagedLogError(
        f'{files["invalid_range"].path} and {files["add_count"].path.name} are of stacks of '
        f'{stack_size}, those of the log before of {previous.stack_size}.'
      )
    position = previous.end if previous else 0
    end = added
    if previous and added <= position:  # The last log: counted from the round's beginning.
      least = position + missing * capacity
      end = least + (added - least) % capacity
      if not missing and not dopamine_files.repeats(previous.columns, previous.end, columns, end):
        end += capacity  # A log between them was lost.
    begin = max(position, end - capacity, 0)
    at = np.arange(begin, end) % capacity
    last = columns['terminal'][at] != 0
    ends = self._found[checkpoint].get('episode_end_indices')
    if ends is not None:
      last |= np.isin(at, gzip_arrays.read_index_set(ends))

    if previous and begin == position:
      padding, fresh = previous.padding_after, previous.fresh_after
    else:  # Earlier rows, if any, are unknown: leading zeros belong to an episode's beginning.
      padding = self._leading_zeros(files['observation'], columns, at[: stack_size - 1])
      # Without padding only row 0 of the run is known to start an episode.
      fresh = padding > 0 or (stack_size == 1 and checkpoint == 0 and begin == 0)
    count = end - begin
    zeros = np.arange(count) < padding
    first = (np.arange(count) == padding) & fresh
    for end_row in np.flatnonzero(last):
      zeros[end_row + 1 : end_row + stack_size] = True
      first[end_row + stack_size : end_row + stack_size + 1] = True
    for name in COLUMNS:
      wrong = np.flatnonzero(columns[name][at[zeros]])
      if len(wrong):
        raise DamagedLogError(self._not_zero(checkpoint, name, int(at[zeros][wrong[0]])))
    if last.any():
      since = count - 1 - int(np.flatnonzero(last)[-1])  # Rows after the last end.
      padding, fresh = max(0, stack_size - 1 - since), since < stack_size
    else:
      padding, fresh = max(0, padding - count), fresh and count <= padding
    seam = end - end % capacity
    return _Log(
      checkpoint=checkpoint,
      begin=begin,
      end=end,
      seam=seam if seam > begin else begin,
      keep=~zeros,
      last=last,
      first=first,
      columns=columns,
      follows=previous is not None and begin == position,
      stack_size=stack_size,
      padding_after=padding,
      fresh_after=fresh,
    )

  def _open(self, checkpoint: int) -> dict[str, gzip_arrays.GzipArray]:
    """Opens a log's files and checks that they fit each other and the previous logs."""
    files = dopamine_files.open_log(self._folder, self._found, checkpoint)
    frames = files['observation']
    if not self._shape:
      self._shape, self._dtype = frames.shape[1:], frames.dtype
    if frames.shape[1:] != self._shape or frames.dtype != self._dtype:
      raise DamagedLogError(
        f'{frames.path} holds {frames.dtype} frames {frames.shape[1:]}, the others {self._dtype} '
        f'{self._shape}.'
      )
    return files

  def _observations(self, checkpoint: int) -> gzip_arrays.GzipArray:
    return gzip_arrays.GzipArray(self._found[checkpoint]['observation'])

  def _leading_zeros(
    self, frames: gzip_arrays.GzipArray, columns: Mapping[str, np.ndarray], at: np.ndarray
  ) -> int:
    """Returns how many of the first rows at positions `at` are all zeros."""
    empty = ~np.any([columns[name][at] != 0 for name in COLUMNS], axis=0)
    if not len(at) or not empty[0]:
      return 0
    position, found = 0, {}
    for part in frames.parts(_ROWS):
      for p in at[(at >= position) & (at < position + len(part))]:
        found[int(p)] = bool(part[p - position].any())
      position += len(part)
      if len(found) == len(at):
        break
    shown = np.array([found[int(p)] for p in at])
    return int(np.argmin(np.append(empty & ~shown, False)))

  def _not_zero(self, checkpoint: int, name: str, row: int) -> str:
    file = self._folder / dopamine_files.file_name(name, checkpoint)
    return f"{file}, row {row}, follows an episode's end and must be zero padding, but is not."

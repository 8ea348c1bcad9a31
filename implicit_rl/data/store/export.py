"""Exports a store as a TFDS dataset or as Dopamine's raw logs."""

from __future__ import annotations

import gzip
import os
import pathlib
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from implicit_rl.data.formats import dopamine_files, recordings, tfds_writer
from implicit_rl.data.store import frame_store, store_files

_ROWS = 1024  # Frames decoded at once.


class Stored:
  """A store opened for reading in order.

  Args:
    folder: the store.

  Attributes:
    settings: the store's settings.
    columns: its columns, by name, [N] each.
    frames: its frames.

  Raises:
    FileNotFoundError: if the store does not exist or is not complete.
    ValueError: if it is damaged, of another version, or holds no transitions.
  """

  def __init__(self, folder: str | os.PathLike):
    self.settings: dict[str, Any]
    self.columns: Mapping[str, np.ndarray]
    self.settings, self.columns = store_files.open_rows(folder)
    self.frames = frame_store.from_arrays(self.settings, self.columns)

  def episodes(self) -> dict[int, Iterator[dict[str, Any]]]:
    """Returns, for `tfds_writer.write_dataset`, the episodes that began in each checkpoint."""
    ends = np.flatnonzero(self.columns['episode_end'])
    begins = np.append(0, ends[:-1] + 1)
    checkpoint = np.asarray(self.columns['checkpoint'][begins])

    def held(number: int) -> Iterator[dict[str, Any]]:
      chosen = checkpoint == number
      for begin, end in zip(begins[chosen].tolist(), ends[chosen].tolist(), strict=True):
        rows = slice(begin, end + 1)
        yield {
          'observation': self.frames.take(np.arange(begin, end + 1)),
          'action': np.asarray(self.columns['action'][rows]),
          'reward': np.asarray(self.columns['reward'][rows]),
          'terminal': bool(self.columns['terminal'][end]),
        }

    return {int(number): held(int(number)) for number in np.unique(checkpoint)}


def to_tfds(
  folder: str | os.PathLike, data_dir: str | os.PathLike, name: str, *, overwrite: bool = False
) -> pathlib.Path:
  """Writes a store as a TFDS dataset.

  An episode belongs to the checkpoint in which it began.

  Args:
    folder: the store.
    data_dir: TFDS's.
    name: such as 'rlu_atari_checkpoints_ordered/Pong_run_1'.
    overwrite: whether to replace an existing dataset.

  Returns:
    The folder written.

  Raises:
    FileExistsError: if the dataset exists and `overwrite` is False.
    ValueError: if the store does not fit that dataset.
  """
  dataset, _, config = name.partition('/')
  stored = Stored(folder)
  return tfds_writer.write_dataset(
    data_dir, dataset, config, stored.episodes(), overwrite=overwrite
  )


def to_dopamine(
  folder: str | os.PathLike,
  logs: str | os.PathLike,
  *,
  capacity: int = 1_000_000,
  stack_size: int = 4,
  update_horizon: int = 1,
) -> int:
  """Writes a store as the logs that Dopamine's replay buffer would have written.

  No log is lost, unlike the buffer's own. An episode that is truncated, or whose beginning is
  missing, is written as a complete one that a time limit ended.

  Args:
    folder: the store.
    logs: folder of the files; it must not contain logs.
    capacity: C, rows of a file.
    stack_size: zero rows before each episode, plus one.
    update_horizon: n, for `invalid_range`.

  Returns:
    The number of logs written.

  Raises:
    FileExistsError: if there are logs already.
    ValueError: if a setting is out of range.
  """
  return write_logs(
    Stored(folder),
    pathlib.Path(logs),
    capacity=capacity,
    stack_size=stack_size,
    update_horizon=update_horizon,
  )


def write_logs(
  stored: Stored,
  logs: pathlib.Path,
  *,
  capacity: int,
  stack_size: int = 4,
  update_horizon: int = 1,
  compression: int = 6,
) -> int:
  """Writes the logs of an open store; `compression` is gzip's level for the frames."""
  if capacity < stack_size + update_horizon + 1 or stack_size < 1 or update_horizon < 1:
    raise ValueError(
      f'--capacity must be at least stack_size + update_horizon + 1, got {capacity}, {stack_size} '
      f'and {update_horizon}.'
    )
  logs.mkdir(parents=True, exist_ok=True)
  if dopamine_files.list_logs(logs):
    raise FileExistsError(f'{logs} already holds logs: delete them or choose another folder.')
  # The row of the store for each row of the run; -1 for padding.
  ends = np.asarray(stored.columns['episode_end'])
  row = np.full(len(ends) + (stack_size - 1) * int(ends.sum()), -1)
  episode = np.cumsum(ends) - ends
  row[np.arange(len(ends)) + (stack_size - 1) * (episode + 1)] = np.arange(len(ends))
  total = len(row)
  counts = [*range(capacity - 1, total + 1, capacity)]
  if total not in counts:
    counts.append(total)  # The log of the end, in mid-round.
  with recordings.bar(total, 'Exporting') as progress:
    for number, count in enumerate(counts):
      held = np.arange(max(0, count - capacity), count)
      ring = np.full(capacity, -1)
      ring[held % capacity] = row[held]
      whole = count == capacity * (number + 1) - 1
      added = count if whole or not number else count % capacity
      _write_log(stored, logs, number, ring, added, (stack_size, update_horizon), compression)
      progress.update(count - progress.n)
  return len(counts)


def _write_log(
  stored: Stored,
  logs: pathlib.Path,
  number: int,
  ring: np.ndarray,
  added: int,
  sizes: tuple[int, int],
  compression: int,
) -> None:
  """Writes the files of one log; `ring` [C] has the store's row for each position."""
  capacity = len(ring)
  real = ring >= 0
  stack_size, update_horizon = sizes

  def column(name: str, dtype: type) -> np.ndarray:
    values: np.ndarray = np.zeros(capacity, dtype)
    values[real] = stored.columns[name][ring[real]]
    return values

  small = {
    'action': column('action', np.int32),
    'reward': column('reward', np.float32),
    'terminal': column('terminal', np.uint8),
    'add_count': np.array(added),
    'invalid_range': np.array(
      [(added - update_horizon + i) % capacity for i in range(stack_size + update_horizon)]
    ),
  }
  for name, array in small.items():
    with gzip.open(logs / dopamine_files.file_name(name, number), 'wb') as stream:
      np.save(stream, array, allow_pickle=False)
  ends = {int(i) for i in np.flatnonzero(column('episode_end', bool))}
  with gzip.open(logs / dopamine_files.file_name('episode_end_indices', number), 'wb') as stream:
    pickle.dump(ends, stream)  # Dopamine reads it in this form.
  shape, dtype = stored.frames.shape[1:], stored.frames.dtype
  path = logs / dopamine_files.file_name('observation', number)
  with gzip.open(path, 'wb', compresslevel=compression) as stream:
    header = {
      'descr': np.lib.format.dtype_to_descr(dtype),
      'fortran_order': False,
      'shape': (capacity, *shape),
    }
    np.lib.format.write_array_header_1_0(stream, header)
    for start in range(0, capacity, _ROWS):
      rows = ring[start : start + _ROWS]
      frames = np.zeros((len(rows), *shape), dtype)
      if (rows >= 0).any():
        frames[rows >= 0] = stored.frames.take(rows[rows >= 0])
      stream.write(frames.tobytes())

"""Prepares a store from a recording, and verifies stores."""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from implicit_rl.data.formats import recordings
from implicit_rl.data.store import frame_store, store_files, store_writer

_DECODED_AT_ONCE = 4096  # frames
_log = logging.getLogger(__name__)


def prepare(
  recording: recordings.Recording,
  folder: str | os.PathLike,
  *,
  codec: str = 'zstd',
  chunk_size: int = frame_store.CHUNK_SIZE,
  commit_rows: int = store_writer.COMMIT_ROWS,
  wait: bool = False,
) -> dict[str, Any]:
  """Writes all rows of a recording into a store, or the rest of them after an interruption.

  Args:
    recording: where the rows come from.
    folder: the new store.
    codec: 'zstd' or 'raw'.
    chunk_size: frames per zstd chunk.
    commit_rows: rows between two points from which an interrupted run can resume.
    wait: wait for another process that is writing the same store, instead of raising.

  Returns:
    The settings of the store, which describe its content.

  Raises:
    StoreBusyError: if another process is writing it and `wait` is False.
    FileExistsError: if the store exists already.
    OSError: if it can't be written, for example because the disk is full.
    ValueError: if the recording is damaged or changes, or the store was begun from another one.
  """
  folder, begun_with = pathlib.Path(folder), recording.identity()
  with store_writer.StoreWriter(
    folder,
    recording.frame_shape,
    recording.frame_dtype,
    begun_with,
    codec=codec,
    chunk_size=chunk_size,
    commit_rows=commit_rows,
    wait=wait,
    make_dictionary=lambda: make_dictionary(recording, codec),
  ) as writer:
    recording.skip(writer.skipped)
    if writer.rows:
      _log.info('Going on at row %d of %s.', writer.rows, store_files.partial(folder))
    if not writer.complete:
      with recordings.bar(
        len(recording), f'Preparing {folder.name}', start=writer.rows
      ) as progress:
        for rows in recording.read(writer.rows):
          writer.append(rows, recording.skipped)
          progress.total = len(recording)
          progress.update(len(rows.action))
      if not writer.rows:
        raise ValueError(f'There are no rows to prepare: {recording.identity()}.')
      writer.end()
    if changed := recordings.differences(begun_with, recording.identity()):
      raise ValueError(
        f'The data changed while it was read ({changed}): delete {store_files.partial(folder)} and '
        'run again once nothing writes to that data.'
      )
    writer.finish(summary(writer.columns()))
  return store_files.read_index(folder)['settings']


def make_dictionary(recording: recordings.Recording, codec: str) -> bytes | None:
  """Returns the dictionary for a recording's frames; None for an uncompressed store."""
  return frame_store.train_dictionary(recording.sample()) if codec == 'zstd' else None


def summary(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns the counts of a store's columns, as JSON values."""
  end, first = columns['episode_end'], columns['is_first']
  begins = np.append(True, end[:-1])
  return {
    'rows': len(end),
    'episodes': int(end.sum()),
    'episodes_without_beginning': int((begins & ~first).sum()),
    'terminals': int(columns['terminal'].sum()),
    'reward_sum': float(columns['reward'].sum(dtype=np.float64)),
    'max_action': int(columns['action'].max()),
    'checkpoints': recordings.runs(columns['checkpoint']),
  }


def verify(folder: str | os.PathLike) -> dict[str, Any]:
  """Reads a store completely: every checksum, every frame, every count.

  Returns:
    Its settings.

  Raises:
    FileNotFoundError: if it does not exist or is not complete.
    ValueError: if it is damaged or of another version.
  """
  folder = pathlib.Path(folder)
  index = store_files.read_index(folder)
  settings = index['settings']
  for name, expected in index['files'].items():
    path = folder / f'{name}.npy'
    if not path.exists() or store_files.sha256(path) != expected['sha256']:
      raise store_files.DamagedStoreError(
        f'{path} has been altered: delete {folder} and prepare it again.'
      )
  _, arrays = store_files.open_rows(folder)
  found = json.loads(json.dumps(summary(arrays)))
  if found != {name: settings[name] for name in found}:
    raise store_files.DamagedStoreError(f'{folder} does not match its {store_files.INDEX}.')
  frames = frame_store.from_arrays(settings, arrays)
  count = frames.shape[0]
  with recordings.bar(count, f'Decoding {folder.name}') as progress:
    for start in range(0, count, _DECODED_AT_ONCE):
      rows = np.arange(start, min(start + _DECODED_AT_ONCE, count))
      try:
        frames.take(rows)
      except Exception as error:  # Errors of the codec.
        raise store_files.DamagedStoreError(
          f'{folder}: frames {rows[0]} to {rows[-1]} cannot be decoded ({error}): delete that '
          'folder and prepare it again.'
        ) from error
      progress.update(len(rows))
  return settings

"""Atomic, checksummed state on disk: nested dicts of arrays, numbers, strings and lists.

A file is a header line and a msgpack body. It is written aside, synced and renamed, so a file with
the final name is whole; the checksum catches what happened to it later. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from typing import Any

from absl import logging
from flax import serialization

_MAGIC = b'implicit_rl checkpoint'
_VERSION = 1
_NAME = re.compile(r'^checkpoint_(\d+)\.msgpack$')


class CorruptCheckpointError(ValueError):
  """A checkpoint file is incomplete, damaged or of another version."""


def save(directory: str | os.PathLike, iteration: int, tree: dict[str, Any], keep: int = 3) -> str:
  """Writes `tree` as the checkpoint of `iteration` and removes all but the newest `keep`.

  Args:
    directory: made if absent.
    iteration: number of the iteration that has ended.
    tree: nested dicts of arrays, numbers, strings, lists.
    keep: checkpoints to keep, at least 1.

  Returns:
    The path written.

  Raises:
    OSError: if the disk is full or the directory can't be written; older checkpoints stay as they
      were.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  body = serialization.msgpack_serialize(tree)
  digest = hashlib.sha256(body).hexdigest().encode()
  path = directory / f'checkpoint_{iteration}.msgpack'
  aside = path.with_suffix('.partial')
  with open(aside, 'wb') as file:
    file.write(b'%s %d %s %d\n' % (_MAGIC, _VERSION, digest, len(body)))
    file.write(body)
    file.flush()
    os.fsync(file.fileno())
  os.replace(aside, path)
  _sync_directory(directory)
  for old in iterations(directory)[:-keep]:
    (directory / f'checkpoint_{old}.msgpack').unlink(missing_ok=True)
  return str(path)


def iterations(directory: str | os.PathLike) -> list[int]:
  """The iterations that have a checkpoint in `directory`, oldest first."""
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    return []
  return sorted(int(m[1]) for m in map(_NAME.match, os.listdir(directory)) if m)


def load(directory: str | os.PathLike, iteration: int) -> dict[str, Any]:
  """Reads one checkpoint.

  Raises:
    CorruptCheckpointError: if it is not whole, with its path.
    FileNotFoundError: if there is none.
  """
  path = pathlib.Path(directory) / f'checkpoint_{iteration}.msgpack'
  with open(path, 'rb') as file:
    header, body = file.readline(256), file.read()
  fields = header.removeprefix(_MAGIC).split()
  if not header.startswith(_MAGIC) or len(fields) != 3:
    raise CorruptCheckpointError(f'{path} is not a checkpoint of this project.')
  version, digest, length = fields
  if version != b'%d' % _VERSION:
    raise CorruptCheckpointError(
      f'{path} has format {version.decode(errors="replace")}; this version reads {_VERSION}.'
    )
  if length != b'%d' % len(body) or hashlib.sha256(body).hexdigest().encode() != digest:
    raise CorruptCheckpointError(f'{path} is damaged: its checksum does not match its content.')
  return serialization.msgpack_restore(body)


def load_newest(directory: str | os.PathLike) -> tuple[int, dict[str, Any]] | None:
  """The newest whole checkpoint as (iteration, tree), or None if there is no checkpoint at all.

  Raises:
    CorruptCheckpointError: if there are checkpoints and none of them is whole.
  """
  error: CorruptCheckpointError | None = None
  for iteration in reversed(iterations(directory)):
    try:
      return iteration, load(directory, iteration)
    except CorruptCheckpointError as found:
      logging.warning('%s Falling back to the checkpoint before it.', found)
      error = error or found
  if error is not None:
    raise error
  return None


def _sync_directory(directory: pathlib.Path) -> None:
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)

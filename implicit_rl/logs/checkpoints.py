"""Atomic, checksummed state on disk: nested dicts of arrays, numbers, strings and lists.

A file is a header line and a msgpack body. It is written under another name, synced and renamed, so
a file with the final name is complete. The checksum detects later damage. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import serialization

_MAGIC = b'implicit_rl checkpoint'
_VERSION = 2
BEST = 'best.msgpack'  # The parameters with the highest evaluation; no run resumes from it.
_ENDED, _INTERRUPTED = 'checkpoint', 'interrupted'
_NAME = re.compile(rf'^({_ENDED}|{_INTERRUPTED})_(\d+)\.msgpack$')


class CorruptCheckpointError(ValueError):
  """A checkpoint file is incomplete, damaged or of another version."""


def to_arrays(tree: Any) -> Any:
  """Returns a pytree as nested dicts of host arrays; typed PRNG keys become their data."""
  return jax.tree.map(np.asarray, serialization.to_state_dict(_without_keys(tree)))


def from_arrays(like: Any, saved: Any) -> Any:
  """Returns the pytree of a `to_arrays` call, as host arrays; typed PRNG keys are restored.

  Args:
    like: a pytree of the same structure, with the same kinds of keys.
    saved: the result of `to_arrays`.

  Raises:
    KeyError, ValueError: if the structures or shapes differ.
  """
  plain = _without_keys(like)
  restored = serialization.from_state_dict(plain, saved)
  for old, new in zip(jax.tree.leaves(plain), jax.tree.leaves(restored), strict=True):
    if np.shape(old) != np.shape(new):
      raise ValueError(f'an array has shape {np.shape(new)} instead of {np.shape(old)}')

  def typed(old: Any, new: Any) -> Any:
    return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if _is_key(old) else new

  return jax.tree.map(typed, like, restored)


def _without_keys(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _is_key(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save(
  directory: str | os.PathLike,
  iteration: int,
  tree: dict[str, Any],
  keep: int = 3,
  *,
  interrupted: bool = False,
) -> str:
  """Writes `tree` as the checkpoint of `iteration` and removes all but the newest `keep`.

  Args:
    directory: created if absent.
    iteration: number of the iteration that has ended, or was interrupted.
    tree: nested dicts of arrays, numbers, strings, lists.
    keep: checkpoints to keep, at least 1.
    interrupted: whether the iteration has not ended. Such a checkpoint stays until an iteration's
      end is saved.

  Returns:
    The path written.

  Raises:
    OSError: if the disk is full or the directory can't be written; older checkpoints do not change.
  """
  directory = pathlib.Path(directory)
  path = directory / f'{_INTERRUPTED if interrupted else _ENDED}_{iteration}.msgpack'
  write(path, tree)
  if not interrupted:
    ended = [old for old in _list(directory) if old.name.startswith(_ENDED)]
    begun = [old for old in _list(directory) if old.name.startswith(_INTERRUPTED)]
    for old in ended[:-keep] + begun:
      old.unlink(missing_ok=True)
  return str(path)


def write(path: str | os.PathLike, tree: dict[str, Any]) -> None:
  """Writes one file completely or not at all; creates the directory if absent.

  Raises:
    OSError: if it can't be written; an existing file stays.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  body = serialization.msgpack_serialize(tree)
  digest = hashlib.sha256(body).hexdigest().encode()
  aside = path.with_suffix('.partial')
  try:
    with open(aside, 'wb') as file:
      file.write(b'%s %d %s %d\n' % (_MAGIC, _VERSION, digest, len(body)))
      file.write(body)
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  except OSError:
    aside.unlink(missing_ok=True)  # A full disk needs its space.
    raise
  _sync_directory(path.parent)


def iterations(directory: str | os.PathLike) -> list[int]:
  """Returns the completed iterations that have a checkpoint in `directory`, oldest first."""
  return [_parse(p)[0] for p in _list(directory) if p.name.startswith(_ENDED)]


def newest(directory: str | os.PathLike) -> pathlib.Path | None:
  """Returns the newest checkpoint's file, even of an interrupted iteration, or None."""
  paths = _list(directory)
  return paths[-1] if paths else None


def load(directory: str | os.PathLike, iteration: int) -> dict[str, Any]:
  """Reads the checkpoint of a completed iteration; see `read`."""
  return read(pathlib.Path(directory) / f'{_ENDED}_{iteration}.msgpack')


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Reads one file.

  Raises:
    CorruptCheckpointError: if the file is damaged; the error has its path.
    OSError: if the file is missing or can't be read.
  """
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
  try:
    tree = serialization.msgpack_restore(body)
  except Exception as error:  # A forged body can raise anything.
    raise CorruptCheckpointError(f'{path} is not a tree of arrays ({error}).') from error
  if not isinstance(tree, dict):
    raise CorruptCheckpointError(f'{path} does not hold a tree of arrays.')
  return tree


def load_newest(directory: str | os.PathLike) -> tuple[int, dict[str, Any]] | None:
  """Returns the newest undamaged checkpoint, or None if there is no checkpoint at all.

  Returns:
    The iteration and its tree. The tree says whether the iteration was interrupted.

  Raises:
    CorruptCheckpointError: if there are checkpoints and all of them are damaged.
  """
  error: CorruptCheckpointError | None = None
  for path in reversed(_list(directory)):
    try:
      return _parse(path)[0], read(path)
    except CorruptCheckpointError as found:
      logging.warning('%s Falling back to the checkpoint before it.', found)
      error = error or found
  if error is not None:
    raise error
  return None


def _list(directory: str | os.PathLike) -> list[pathlib.Path]:
  """Returns the checkpoints in `directory`, oldest first."""
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    return []
  return sorted(filter(lambda path: _NAME.match(path.name), directory.iterdir()), key=_parse)


def _parse(path: pathlib.Path) -> tuple[int, bool]:
  """Returns (iteration, whether it is complete), by which files are in the order of writing."""
  match = _NAME.match(path.name)
  assert match is not None
  return int(match[2]), match[1] == _ENDED


def _sync_directory(directory: pathlib.Path) -> None:
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)

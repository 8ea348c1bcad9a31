"""Arrays in a folder on disk: complete, checksummed and versioned, or absent.

A folder has one `.npy` file per array and one `store.json`. It is written under another name and
renamed when everything is on disk, so a half-written one is never mistaken for a complete one. Each
file's checksum is compared when it is read. Plain `.npy` files can be memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT_VERSION = 2
INDEX = 'store.json'


class DamagedStoreError(ValueError):
  """The folder exists, but its content is not what was written."""


class OtherVersionError(ValueError):
  """The folder was written by another version of this package."""


def save(folder: str | os.PathLike, arrays: Mapping[str, np.ndarray], settings: Mapping) -> None:
  """Writes arrays and settings; replaces no existing folder.

  Args:
    folder: the new folder; its parents are created.
    arrays: by name; names become file names.
    settings: any JSON values.
  """
  folder = pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  aside = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
  try:
    files = {}
    for name, array in arrays.items():
      files[name] = write_array(aside / f'{name}.npy', array)
    write_index(aside, settings, files)
    os.chmod(aside, 0o755)  # Temporary folders are private; a cache may be shared.
    try:
      os.rename(aside, folder)
    except OSError:
      if not (folder / INDEX).exists():  # Not raised: another process wrote the same content first.
        raise
  finally:
    shutil.rmtree(aside, ignore_errors=True)


def load(
  folder: str | os.PathLike, *, memory_map: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """Reads a folder back.

  Args:
    folder: as in `save`.
    memory_map: leave the arrays on disk and map them read-only; sizes are checked, but not
      checksums.

  Returns:
    Arrays and settings, or None if the folder does not exist or has another format version.

  Raises:
    DamagedStoreError: if a file is missing, truncated or altered.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return None
  try:
    index = read_index(folder)
  except OtherVersionError:
    return None
  return read_arrays(folder, index, memory_map=memory_map), index['settings']


def read_index(folder: str | os.PathLike) -> dict[str, Any]:
  """Returns the content of `store.json`: format_version, settings and files.

  Raises:
    FileNotFoundError: if there is no such store, or only an incomplete one; the error says which.
    OtherVersionError: if another version of this package wrote it.
    DamagedStoreError: if it is not readable.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    if partial(folder).is_dir():
      raise FileNotFoundError(
        f'{folder} is not complete yet, only {partial(folder).name} exists: rerun the command that '
        'writes it to resume.'
      )
    raise FileNotFoundError(
      f'There is no store {folder}: make it with python -m implicit_rl.data prepare.'
    )
  try:
    index = json.loads((folder / INDEX).read_text())
    version, _, _ = index['format_version'], index['settings'], index['files']
  except (OSError, KeyError, ValueError, TypeError) as error:
    raise DamagedStoreError(_damaged(folder, str(error))) from error
  if version != FORMAT_VERSION:
    raise OtherVersionError(
      f'{folder} has store format {version}, this version reads {FORMAT_VERSION}: delete that '
      'folder and prepare it again.'
    )
  return index


def read_arrays(
  folder: str | os.PathLike, index: Mapping, *, memory_map: bool = False
) -> dict[str, np.ndarray]:
  """Returns the arrays that `index` lists, checked as described in `load`."""
  folder = pathlib.Path(folder)
  arrays = {}
  try:
    for name, expected in index['files'].items():
      path = folder / f'{name}.npy'
      same = path.stat().st_size == expected['bytes']
      if not same or not (memory_map or sha256(path) == expected['sha256']):
        raise DamagedStoreError(_damaged(folder, f'{path.name} has been altered'))
      arrays[name] = np.load(path, allow_pickle=False, mmap_mode='r' if memory_map else None)
  except DamagedStoreError:
    raise
  except Exception as error:  # NumPy's parser of headers raises many kinds of errors.
    raise DamagedStoreError(_damaged(folder, str(error))) from error
  return arrays


def open_rows(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Opens a store of transitions, as `prepare` makes them.

  Returns:
    Its settings, and its arrays mapped read-only.

  Raises:
    FileNotFoundError: if it is not there or not complete.
    ValueError: if it is damaged, of another version, or holds no transitions.
  """
  folder = pathlib.Path(folder)
  index = read_index(folder)
  if 'rows' not in index['settings']:
    raise ValueError(f'{folder} is not a store of transitions; give one that prepare has made.')
  arrays = read_arrays(folder, index, memory_map=True)
  if not arrays['episode_end'][-1]:  # An earlier reader of raw logs could omit this.
    raise DamagedStoreError(
      f'The last episode in {folder} has no end: delete that folder and prepare it again.'
    )
  return index['settings'], arrays


def write_array(path: pathlib.Path, array: np.ndarray) -> dict[str, Any]:
  """Writes an array durably; returns its entry in `store.json`."""
  with path.open('wb') as stream:
    np.save(stream, array, allow_pickle=False)
    stream.flush()
    os.fsync(stream.fileno())
  return {'bytes': path.stat().st_size, 'sha256': sha256(path)}


def map_randomly(path: pathlib.Path) -> np.ndarray:
  """Maps an array read-only and disables the system's read-ahead, which makes cold reads slow."""
  with path.open('rb') as stream:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
      raise DamagedStoreError(f'{path} is not an array that this package wrote.')
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype, offset=stream.tell()).reshape(shape)


def write_index(folder: pathlib.Path, settings: Mapping, files: Mapping) -> None:
  """Writes `store.json`, the last file of a store, durably."""
  index = {'format_version': FORMAT_VERSION, 'settings': dict(settings), 'files': dict(files)}
  write_durably(folder / INDEX, json.dumps(index, indent=2).encode())


def write_durably(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file by `content` atomically and durably."""
  aside = path.with_name(path.name + '.new')
  with aside.open('wb') as stream:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())
  os.replace(aside, path)
  sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
  """Writes the names in a folder durably."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def partial(folder: pathlib.Path) -> pathlib.Path:
  """Returns the folder in which a store is written until it is complete."""
  return folder.with_name(folder.name + '.partial')


def _damaged(folder: pathlib.Path, why: str) -> str:
  return f'The stored data in {folder} is damaged ({why}): delete that folder and run again.'


def sha256(path: pathlib.Path) -> str:
  """Returns the checksum of a file."""
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()

"""Arrays in a folder on disk: complete, checksummed and versioned, or not there at all.

One `.npy` file per array and one `store.json` beside them. A folder is written under another name
and renamed when everything is on disk, so a half-written one is never taken for complete, and each
file's checksum is compared when it is read. Plain `.npy` files can be memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT_VERSION = 1
_INDEX = 'store.json'


class DamagedStoreError(ValueError):
  """The folder is there but its content is not what was written."""


def save(folder: str | os.PathLike, arrays: Mapping[str, np.ndarray], settings: Mapping) -> None:
  """Writes arrays and settings; replaces nothing that is already there.

  Args:
    folder: where to; its parents are made.
    arrays: by name; names become file names.
    settings: anything JSON holds.
  """
  folder = pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  aside = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
  try:
    files = {}
    for name, array in arrays.items():
      path = aside / f'{name}.npy'
      with path.open('wb') as stream:
        np.save(stream, array, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
      files[name] = {'bytes': path.stat().st_size, 'sha256': _sha256(path)}
    index = {'format_version': FORMAT_VERSION, 'settings': dict(settings), 'files': files}
    with (aside / _INDEX).open('w') as stream:
      json.dump(index, stream, indent=2)
      stream.flush()
      os.fsync(stream.fileno())
    os.chmod(aside, 0o755)  # Temporary folders are private; a cache may be shared.
    try:
      os.rename(aside, folder)
    except OSError:
      if not (folder / _INDEX).exists():  # Not: another process was first with the same content.
        raise
  finally:
    shutil.rmtree(aside, ignore_errors=True)


def load(
  folder: str | os.PathLike, *, memory_map: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """Reads a folder back.

  Args:
    folder: as given to `save`.
    memory_map: leave the arrays on disk and map them read-only; sizes are checked, checksums not.

  Returns:
    Arrays and settings, or None if the folder is not there or of another format version.

  Raises:
    DamagedStoreError: if a file is missing, cut short or altered.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return None
  try:
    index = json.loads((folder / _INDEX).read_text())
    if index['format_version'] != FORMAT_VERSION:
      return None
    arrays = {}
    for name, expected in index['files'].items():
      path = folder / f'{name}.npy'
      same = path.stat().st_size == expected['bytes']
      if not same or not (memory_map or _sha256(path) == expected['sha256']):
        raise DamagedStoreError(_damaged(folder, f'{path.name} is not as it was written'))
      arrays[name] = np.load(path, allow_pickle=False, mmap_mode='r' if memory_map else None)
    return arrays, index['settings']
  except DamagedStoreError:
    raise
  except (OSError, KeyError, ValueError, TypeError) as error:
    raise DamagedStoreError(_damaged(folder, str(error))) from error


def _damaged(folder: pathlib.Path, why: str) -> str:
  return f'The stored data in {folder} is damaged ({why}): delete that folder and run again.'


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()

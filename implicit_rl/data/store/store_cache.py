"""A cache of stores: a run reuses a store that was made from the same files and settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from implicit_rl.data.formats import recordings
from implicit_rl.data.store import frame_store, prepare, store_files

_log = logging.getLogger(__name__)


def find_or_make(
  cache: pathlib.Path,
  name: str,
  identity: Mapping[str, Any],
  open_recording: Callable[[], recordings.Recording],
  *,
  codec: str,
) -> pathlib.Path:
  """Returns the store of a recording; makes it if the cache has none of the same data and codec.

  Stores of other data are not changed. If another process is writing the store, this waits for it.

  Args:
    cache: folder of the stores.
    name: the start of the store's folder name.
    identity: the recording's.
    open_recording: called if the store must be made.
    codec: 'zstd' or 'raw'.

  Raises:
    DamagedStoreError: if the store records that it was made from other data.
    OSError: if it can't be written.
    ValueError: if the recording is damaged.
  """
  layout = [codec, frame_store.CHUNK_SIZE, frame_store.LEVEL, store_files.FORMAT_VERSION]
  folder = cache / f'{name}-{key([identity, *layout])}'
  if not folder.exists():
    for other, how in _outdated(cache, identity):
      _log.info('%s is out of date (%s) and can be deleted.', other, how)
    with contextlib.suppress(FileExistsError):  # Another process was faster.
      prepare.prepare(open_recording(), folder, codec=codec, wait=True)
  check(folder, store_files.read_index(folder)['settings'].get('source', {}), identity)
  return folder


def key(made_from: Any) -> str:
  """Returns the part of a folder's name that identifies its data: JSON -> 32 digits."""
  return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]


def check(folder: pathlib.Path, recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
  """Raises DamagedStoreError if a folder's recorded origin is not `identity`."""
  if different := recordings.differences(recorded, identity):
    raise store_files.DamagedStoreError(
      f'{folder} was made from other data ({different}): delete that folder and run again.'
    )


def _outdated(
  cache: pathlib.Path, identity: Mapping[str, Any]
) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields the stores of the same dataset that were made from other files, and how they differ."""
  for path in sorted(cache.glob(f'*/{store_files.INDEX}')):
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Other files may be there.
      recorded = store_files.read_index(path.parent)['settings'].get('source', {})
      same_dataset = recorded.get('dataset') == identity['dataset']
      if same_dataset and recorded.get('files') != identity['files']:
        yield path.parent, recordings.differences(recorded, identity)

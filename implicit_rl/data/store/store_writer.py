"""Writes a store row by row: bounded memory, one writer at a time, resumable after any kill.

Everything goes into `{folder}.partial`. After a fixed number of rows the files are synced, and
`progress.json` records how many bytes of each are valid. The next writer removes what an
interrupted one left beyond that, and continues from there. When all rows are written, every byte is
read back and compared, `store.json` is added, and the folder gets its final name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from implicit_rl.data.formats import recordings
from implicit_rl.data.store import frame_store, store_files

_PROGRESS = 'progress.json'
_HEADER = 128  # Bytes of a .npy header, the same for every shape, so that it can be written last.
_BLOCK = 1 << 20  # Bytes read at once.
COMMIT_ROWS = 1 << 13  # Rows between two points from which an interrupted writer can resume.


class StoreBusyError(RuntimeError):
  """Another process is writing the store."""


class StoreWriter:
  """Appends rows to a store on disk; a context manager.

  Args:
    folder: the new store; its parents are created.
    frame_shape: shape of one frame.
    frame_dtype: data type of a frame.
    source: identity of the rows' origin, JSON. A store that was begun from another source is not
      continued.
    codec: 'zstd' or 'raw'.
    chunk_size: frames per zstd chunk.
    commit_rows: rows between two points from which to resume.
    make_dictionary: returns the dictionary of the blocks; called unless an interrupted writer has
      left one.
    wait: if another process is writing the store, wait for it instead of raising.

  Attributes:
    rows: number of rows in the store; a resumed writer expects the next one.
    skipped: parts that an interrupted writer has skipped.

  Raises:
    StoreBusyError: if another process is writing the store and `wait` is False.
    FileExistsError: if the store exists already.
    ValueError: if an incomplete store was begun from another source or with other settings.
    OSError: if the disk is full or can't be written.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    frame_shape: tuple[int, ...],
    frame_dtype: np.dtype,
    source: Mapping[str, Any],
    *,
    codec: str = 'zstd',
    chunk_size: int = frame_store.CHUNK_SIZE,
    commit_rows: int = COMMIT_ROWS,
    make_dictionary: Callable[[], bytes | None] = lambda: None,
    wait: bool = False,
  ):
    self._folder = pathlib.Path(folder)
    self._partial = store_files.partial(self._folder)
    frame_store.check_codec(codec)
    self._make_dictionary = make_dictionary
    self._chunk_size = 1 if codec == 'raw' else chunk_size
    self._commit_rows = commit_rows
    self._types = {name: np.dtype(kind) for name, kind in recordings.COLUMNS.items()}
    self._types['frames'] = np.dtype(np.uint8)
    if codec != 'raw':
      self._types['offsets'] = np.dtype(np.int64)
    self._begun = {
      'format_version': store_files.FORMAT_VERSION,
      'source': json.loads(json.dumps(dict(source))),
      'frames': {
        'shape': list(frame_shape),
        'dtype': np.dtype(frame_dtype).name,
        'codec': codec,
        'chunk_size': self._chunk_size,
        'level': frame_store.LEVEL,
      },
    }
    self._held: list[recordings.Rows] = []  # Columns whose frames are not all written yet.
    self._files: dict[str, BinaryIO] = {}
    self.skipped: list[dict[str, Any]] = []
    self._refuse_existing()
    with self._explained():
      self._folder.parent.mkdir(parents=True, exist_ok=True)
      self._lock = _lock(self._partial, wait)
    try:
      self._refuse_existing()
      with self._explained():
        self._resume()
    except BaseException:
      self.close()
      raise

  def append(self, rows: recordings.Rows, skipped: list[dict[str, Any]] | None = None) -> None:
    """Appends rows; `skipped` has the parts that the source has left out so far."""
    self.skipped = self.skipped if skipped is None else skipped
    with self._explained():
      for at in range(0, len(rows.action), self._commit_rows):
        part = recordings.Rows(*(column[at : at + self._commit_rows] for column in rows))
        self.rows += len(part.action)
        self._held.append(part._replace(observation=np.empty(0)))  # Frames are not kept in memory.
        self._write(
          self._encoder.append(part.observation), self.rows - self.rows % self._chunk_size
        )
        if self._written - self._committed >= self._commit_rows:
          self._commit(complete=False)

  def end(self) -> None:
    """Writes the remaining data after the last row."""
    with self._explained():
      if not self._complete:
        self._write(self._encoder.finish(), self.rows)
        self._commit(complete=True)

  def finish(self, settings: Mapping[str, Any]) -> None:
    """Completes the store after `end`: reads everything back and gives the folder its name.

    Args:
      settings: further entries of `store.json`, JSON.

    Raises:
      DamagedStoreError: if the disk returns other data than was written.
    """
    with self._explained():
      files = {name: self._seal(name) for name in self._types}
      if self._dictionary is not None:
        path = self._path('dictionary')
        files['dictionary'] = {'bytes': path.stat().st_size, 'sha256': store_files.sha256(path)}
      digest = hashlib.sha256(
        '\n'.join(f'{name} {files[name]["sha256"]}' for name in sorted(files)).encode()
      )
      layout = self._encoder.settings
      store_files.write_index(
        self._partial,
        {
          **layout,
          'shape': [self._written, *layout['shape'][1:]],
          'source': self._begun['source'],
          'skipped': self.skipped,
          **settings,
          'content_sha256': digest.hexdigest(),
        },
        files,
      )
      (self._partial / _PROGRESS).unlink(missing_ok=True)
      os.rename(self._partial, self._folder)
      store_files.sync_folder(self._folder.parent)

  @property
  def complete(self) -> bool:
    """Whether `end` was called, also by an earlier writer, so that only `finish` is missing."""
    return self._complete

  def columns(self) -> dict[str, np.ndarray]:
    """Returns the columns written so far, memory-mapped; at least one row is needed."""
    for file in self._files.values():
      file.flush()
    return {
      name: np.memmap(
        self._path(name), self._types[name], 'r', offset=_HEADER, shape=(self._written,)
      )
      for name in recordings.COLUMNS
    }

  def close(self) -> None:
    """Closes the files; committed rows can be continued."""
    for file in self._files.values():
      with contextlib.suppress(OSError):  # A full disk was reported earlier.
        file.close()
    self._files = {}
    os.close(self._lock)

  def __enter__(self) -> StoreWriter:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _refuse_existing(self) -> None:
    if self._folder.exists():
      with contextlib.suppress(OSError):
        self._partial.rmdir()  # Empty, if waiting for the lock created it.
      raise FileExistsError(
        f'{self._folder} already exists{self._made_from()}: delete it or choose another folder.'
      )

  def _made_from(self) -> str:
    """Returns a short text on whether the existing store was made from the same source."""
    try:
      recorded = store_files.read_index(self._folder)['settings']['source']
      different = recordings.differences(recorded, self._begun['source'])
    except (OSError, ValueError, KeyError, AttributeError):  # It may be any file.
      return ''
    return f', made from other data ({different})' if different else ', made from the same data'

  def _resume(self) -> None:
    path = self._partial / _PROGRESS
    dictionary = self._path('dictionary')
    if path.exists():
      progress = self._read_progress(path)
    else:
      made = self._make_dictionary()
      dictionary.unlink(missing_ok=True)
      if made is not None:
        store_files.write_array(dictionary, np.frombuffer(made, np.uint8))
      for name, dtype in self._types.items():
        self._path(name).write_bytes(npy_header((0,), dtype))
      progress = {
        'rows': 0,
        'bytes': dict.fromkeys(self._types, 0),
        'crc32': dict.fromkeys(self._types, 0),
        'skipped': [],
        'complete': False,
      }
    self.rows = self._written = self._committed = progress['rows']
    self._bytes, self._crc = progress['bytes'], progress['crc32']
    self._complete, self.skipped = progress['complete'], progress['skipped']
    for name in self._types:
      file = open(self._path(name), 'r+b')  # Closed by `close`.
      self._files[name] = file
      size = _HEADER + self._bytes[name]
      if os.fstat(file.fileno()).st_size < size:
        raise store_files.DamagedStoreError(
          f'{self._path(name)} is shorter than before: delete {self._partial} and start again.'
        )
      file.truncate(size)
      file.seek(size)
    self._dictionary = (
      np.load(dictionary, allow_pickle=False).tobytes() if dictionary.exists() else None
    )
    frames = self._begun['frames']
    self._encoder = frame_store.ChunkEncoder(
      tuple(frames['shape']),
      frames['dtype'],
      frames['codec'],
      self._chunk_size,
      dictionary=self._dictionary,
    )
    self._end = 0  # Start of the next block.
    if 'offsets' in self._types:
      if not self._bytes['offsets']:
        self._put('offsets', np.zeros(1, np.int64).tobytes())
      self._end = self._bytes['frames']

  def _read_progress(self, path: pathlib.Path) -> dict[str, Any]:
    try:
      progress = json.loads(path.read_text())
      begun = {name: progress[name] for name in self._begun}
    except (ValueError, KeyError) as error:
      raise store_files.DamagedStoreError(
        f'{path} is damaged ({error}): delete {self._partial} and start again.'
      ) from error
    before, now = (
      {'format_version': held['format_version'], **held['source'], **held['frames']}
      for held in (begun, self._begun)
    )
    if different := recordings.differences(before, now):
      raise ValueError(
        f'{self._partial} was started from other data or with other settings ({different}): delete '
        'it, or name another store.'
      )
    return progress

  def _write(self, blocks: list[bytes], upto: int) -> None:
    """Writes finished blocks, and the columns of the rows before number `upto`."""
    for block in blocks:
      self._put('frames', block)
      self._end += len(block)
      if 'offsets' in self._types:
        self._put('offsets', struct.pack('<q', self._end))
    while self._held and self._written < upto:
      rows = self._held.pop(0)
      count = min(len(rows.action), upto - self._written)
      for name, kind in recordings.COLUMNS.items():
        self._put(name, np.asarray(getattr(rows, name)[:count], kind).tobytes())
      self._written += count
      if count < len(rows.action):
        self._held.insert(0, recordings.Rows(*(column[count:] for column in rows)))

  def _put(self, name: str, content: bytes) -> None:
    self._files[name].write(content)
    self._bytes[name] += len(content)
    self._crc[name] = zlib.crc32(content, self._crc[name])

  def _commit(self, complete: bool) -> None:
    for file in self._files.values():
      file.flush()
      os.fsync(file.fileno())
    progress = {
      **self._begun,
      'rows': self._written,
      'bytes': self._bytes,
      'crc32': self._crc,
      'skipped': self.skipped,
      'complete': complete,
    }
    store_files.write_durably(self._partial / _PROGRESS, json.dumps(progress).encode())
    self._committed, self._complete = self._written, complete

  def _seal(self, name: str) -> dict[str, Any]:
    """Writes the header and reads the file back; returns its size and checksum."""
    dtype, file = self._types[name], self._files[name]
    file.seek(0)
    file.write(npy_header((self._bytes[name] // dtype.itemsize,), dtype))
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # Read the disk, not the cache.
    digest, crc = hashlib.sha256(), 0
    with open(self._path(name), 'rb') as written:
      digest.update(written.read(_HEADER))
      while block := written.read(_BLOCK):
        digest.update(block)
        crc = zlib.crc32(block, crc)
      size = written.tell()
    if crc != self._crc[name] or size != _HEADER + self._bytes[name]:
      raise store_files.DamagedStoreError(
        f'{self._path(name)} does not read back correctly: check the disk, delete '
        f'{self._partial} and start again.'
      )
    return {'bytes': size, 'sha256': digest.hexdigest()}

  def _path(self, name: str) -> pathlib.Path:
    return self._partial / f'{name}.npy'

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Raises an error with a remedy if the disk is full or the folder can't be written."""
    try:
      yield
    except OSError as error:
      if error.errno is None or isinstance(error, FileExistsError):
        raise
      parent = next(p for p in (self._partial, *self._partial.parents) if p.exists())
      free = shutil.disk_usage(parent).free / 2**30
      raise OSError(
        f'{self._partial} cannot be written ({error.strerror}; {free:.1f} GiB are free there): '
        'make room, then rerun the same command: it resumes where it stopped.'
      ) from error


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  """Returns the header of a .npy file, always of the same length."""
  text = repr(
    {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': shape}
  )
  magic = np.lib.format.magic(1, 0)
  room = _HEADER - len(magic) - 2
  return magic + struct.pack('<H', room) + text.encode().ljust(room - 1) + b'\n'


def is_being_written(folder: str | os.PathLike) -> bool:
  """Whether a process is writing the store now."""
  try:
    os.close(_lock(store_files.partial(pathlib.Path(folder)), wait=False, make=False))
  except StoreBusyError:
    return True
  except FileNotFoundError:
    return False
  return False


def _lock(partial: pathlib.Path, wait: bool, make: bool = True) -> int:
  """Creates the folder and locks it until the process ends; returns the lock's descriptor."""
  while True:
    if make:
      partial.mkdir(exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      if partial.exists() and os.stat(partial).st_ino == os.fstat(descriptor).st_ino:
        return descriptor
    except BlockingIOError as error:
      os.close(descriptor)
      raise StoreBusyError(
        f'Another process is writing {partial}: wait for it to end, or choose another store.'
      ) from error
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)  # The other writer has finished it and given it its final name.

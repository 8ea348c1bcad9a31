"""Reads arrays that `np.save` wrote into gzip files, in parts and without unpickling."""

from __future__ import annotations

import io
import os
import pathlib
import zlib
from collections.abc import Iterator

import numpy as np

from implicit_rl.logs import pickles
from implicit_rl.logs.errors import DamagedLogError

_HEADER = 1 << 12  # Maximum size of an array's header, in bytes.
_COMPRESSED = 1 << 18  # Bytes read at once.
_INTEGERS = {int, np.int32, np.int64, np.uint32, np.uint64}  # Of pickled row positions.
_PLAIN = 1 << 20  # Maximum number of bytes decompressed at once.


class GzipArray:
  """One array in a gzip file, decompressed while it is read.

  Args:
    path: the file.

  Attributes:
    shape: [N, *row].
    dtype: of an element.

  Raises:
    DamagedLogError: if the file does not begin with a plain array.
    FileNotFoundError: if there is no such file.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    header = io.BytesIO()
    with self.path.open('rb') as stream:
      for part in _inflate(stream, self.path):
        header.write(part[:_HEADER])
        if header.tell() >= _HEADER:
          break
    header.seek(0)
    try:
      version = np.lib.format.read_magic(header)
      read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
      }[version]
      self.shape, fortran, self.dtype = read(header)
    except Exception as error:  # NumPy's parser raises many kinds of errors.
      raise DamagedLogError(f'{self.path} does not hold a saved NumPy array.') from error
    if self.dtype.hasobject or fortran:
      raise DamagedLogError(
        f'{self.path} holds pickled objects or columns first; expected a plain C-ordered array.'
      )
    self._header = header.tell()

  def parts(self, rows: int, start: int = 0) -> Iterator[np.ndarray]:
    """Yields [<= rows, *row] arrays of all rows from number `start` on, to the file's end.

    Raises:
      DamagedLogError: if the file is truncated, altered or too long.
    """
    row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
    skip = self._header + start * row_bytes
    left = (self.shape[0] - start) * row_bytes
    held = bytearray()
    with self.path.open('rb') as stream:
      for part in _inflate(stream, self.path):
        if skip >= len(part):
          skip -= len(part)
          continue
        held += part[skip:] if skip else part
        skip = 0
        whole = min(len(held), left) // (rows * row_bytes) * rows * row_bytes
        for at in range(0, whole, rows * row_bytes):
          yield self._array(held[at : at + rows * row_bytes])
        left -= whole
        del held[:whole]
    if len(held) != left or skip:
      raise DamagedLogError(
        f'{self.path} holds {"more" if len(held) > left else "less"} than the {self.shape[0]} rows '
        'it announces.'
      )
    if left:
      yield self._array(held)

  def read(self) -> np.ndarray:
    """Returns the whole array."""
    if not self.shape:
      with self.path.open('rb') as stream:
        content = b''.join(_inflate(stream, self.path))[self._header :]
      if len(content) != self.dtype.itemsize:
        raise DamagedLogError(
          f'{self.path} does not hold the single number that its header states.'
        )
      return np.frombuffer(content, self.dtype)[0]
    return np.concatenate(list(self.parts(max(self.shape[0], 1))) or [np.empty(self.shape)])

  def _array(self, content: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(bytes(content), self.dtype).reshape(-1, *self.shape[1:])


def read_index_set(path: str | os.PathLike) -> np.ndarray:
  """Reads a pickled set of integers without running code from the file.

  Dopamine pickles the positions of episodes' ends.

  Returns:
    [n] int64, increasing.

  Raises:
    DamagedLogError: for any other content.
  """
  path = pathlib.Path(path)
  with path.open('rb') as stream:
    content = b''.join(_inflate(stream, path))
  try:
    found = pickles.load(io.BytesIO(content))
    if type(found) is not set or {type(n) for n in found} - _INTEGERS:
      raise ValueError('it holds something else')
    return np.array(sorted(found), np.int64)
  except (ValueError, OverflowError) as error:
    raise DamagedLogError(f'{path} does not hold a set of integers ({error}).') from error


def _inflate(stream: io.BufferedReader, path: pathlib.Path) -> Iterator[bytes]:
  """Yields the decompressed content in parts of bounded size; checks each member's checksum."""
  inflater = zlib.decompressobj(wbits=31)
  waiting = b''
  try:
    while True:
      waiting = waiting or stream.read(_COMPRESSED)
      ended = not waiting
      part = inflater.decompress(waiting, _PLAIN)
      waiting = inflater.unconsumed_tail
      if part:
        yield part
      if inflater.eof:  # Another compressed member may follow, or padding.
        waiting = inflater.unused_data.lstrip(b'\0')
        if not waiting and not (waiting := stream.read(_COMPRESSED).lstrip(b'\0')):
          return
        inflater = zlib.decompressobj(wbits=31)
      elif ended and not part:
        break
  except zlib.error as error:
    raise DamagedLogError(f'{path} is damaged ({error}).') from error
  raise DamagedLogError(f'{path} is truncated.')

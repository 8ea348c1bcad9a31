"""Frames in memory or on disk, each stored once and read by row number, plain or compressed.

A frame of 84×84 bytes takes 7 kB plain, so 50 million take 353 GB. Compressed frames take a few per
cent of that. Random batches are decoded in threads that do not hold Python's lock. `frame_codec`
makes the blocks and `open_frames` reads them. The bytes may be mapped from a file.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard

from implicit_rl.cpu import cores
from implicit_rl.data import compact
from implicit_rl.data.store import frame_codec
from implicit_rl.data.store.frame_codec import (  # noqa: F401  One door to the codec and the store.
  CHUNK_SIZE,
  CODECS,
  LEVEL,
  ChunkEncoder,
  check_codec,
  train_dictionary,
)

_TILE = 320  # Rows that one thread decodes at once, so that their bytes stay in its cache.
_PIECE = 1 << 16  # Blocks that a writer joins at a time.


class RawFrames:
  """Frames in one plain array, which may be a read-only memory map.

  Args:
    array: [N, *observation_shape].
  """

  def __init__(self, array: np.ndarray):
    self._array = array

  @property
  def shape(self) -> tuple[int, ...]:
    """[N, *observation_shape]."""
    return self._array.shape

  @property
  def dtype(self) -> np.dtype:
    """The data type of a frame."""
    return self._array.dtype

  @property
  def nbytes(self) -> int:
    """Bytes held."""
    return self._array.nbytes

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Returns a new array [..., *observation_shape] for `rows` [...] int64."""
    return self._array[rows]

  def settings(self) -> dict[str, Any]:
    """Returns what `from_arrays` needs besides the arrays, as JSON values."""
    return {'codec': 'raw', 'shape': list(self.shape), 'dtype': self.dtype.name}

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the arrays to save; `from_arrays` restores from them."""
    return {'frames': self._array.reshape(-1).view(np.uint8)}


class ZstdFrames:
  """Frames in blocks of consecutive ones, decoded in threads without holding Python's lock.

  Args:
    settings: from `ChunkEncoder.settings`.
    data: [bytes] uint8, all blocks in order.
    offsets: [blocks + 1] int64 or `compact.Offsets`, the start of each block, then the end of the
      last.
    dictionary: of the compression, if there was one.

  Raises:
    ValueError: if the arrays don't fit the settings.
  """

  def __init__(
    self,
    settings: Mapping,
    data: np.ndarray,
    offsets: np.ndarray | compact.Offsets,
    dictionary: bytes | None = None,
  ):
    self._settings = dict(settings)
    self._shape, self._dtype = tuple(settings['shape']), np.dtype(settings['dtype'])
    self._chunk_size = int(settings['chunk_size'])
    self._frame_bytes = int(np.prod(self._shape[1:])) * self._dtype.itemsize
    if settings['dictionary'] != frame_codec.name_of(dictionary):
      raise ValueError('The dictionary is not the one the frames were compressed with.')
    blocks = -(-self._shape[0] // self._chunk_size)
    if len(offsets) != blocks + 1 or int(offsets[-1]) != len(data):
      raise ValueError('The blocks do not fit the number of frames: the store is damaged.')
    self._data, self._offsets, self._dictionary = data, offsets, dictionary
    self._threads = cores.count()
    self._pool: concurrent.futures.ThreadPoolExecutor | None = None
    self._local = threading.local()

  @property
  def shape(self) -> tuple[int, ...]:
    """[N, *observation_shape]."""
    return self._shape

  @property
  def dtype(self) -> np.dtype:
    """The data type of a frame."""
    return self._dtype

  @property
  def nbytes(self) -> int:
    """Bytes held."""
    return self._data.nbytes + self._offsets.nbytes + len(self._dictionary or b'')

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Returns a new array [..., *observation_shape] for `rows` [...] int64."""
    flat = np.asarray(rows, np.int64).ravel()
    out = np.empty((len(flat), self._frame_bytes), np.uint8)

    def fill(start: int) -> None:
      self._decode(flat[start : start + _TILE], out[start : start + _TILE])

    starts = range(0, len(flat), _TILE)
    if len(starts) < 2 or self._threads == 1:
      for start in starts:
        fill(start)
    else:
      if self._pool is None:
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, 'frames')
      list(self._pool.map(fill, starts))
    return out.view(self._dtype).reshape(*np.shape(rows), *self._shape[1:])

  def settings(self) -> dict[str, Any]:
    """Returns what `from_arrays` needs besides the arrays, as JSON values."""
    return {**self._settings, 'shape': list(self._shape)}

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the arrays to save; `from_arrays` restores from them."""
    arrays = {'frames': self._data, 'offsets': np.asarray(self._offsets)}
    if self._dictionary is not None:
      arrays['dictionary'] = np.frombuffer(self._dictionary, np.uint8)
    return arrays

  def _decode(self, rows: np.ndarray, out: np.ndarray) -> None:
    """Writes the frames of `rows` [m] to `out` [m, bytes]."""
    target, size = out.reshape(-1).data, self._frame_bytes
    if self._chunk_size == 1:
      for at, frame in zip(range(0, len(target), size), self._plain(rows), strict=True):
        target[at : at + size] = frame
      return
    block, within = np.divmod(rows, self._chunk_size)
    # Consecutive rows in one block are decoded once and copied as one piece.
    first = np.flatnonzero((np.diff(block, prepend=-1) != 0) | (np.diff(rows, prepend=-2) != 1))
    length = np.diff(first, append=len(rows))
    pieces = np.stack([within[first], first, length], axis=1) * size
    for plain, (source, at, count) in zip(self._plain(block[first]), pieces.tolist(), strict=True):
      target[at : at + count] = memoryview(plain)[source : source + count]

  def _plain(self, blocks: np.ndarray) -> Any:
    """Returns the plain bytes of `blocks` [m], a sequence of m buffers."""
    segments = np.empty((len(blocks), 2), np.uint64)
    segments[:, 0] = self._offsets[blocks]
    segments[:, 1] = self._offsets[blocks + 1] - segments[:, 0].astype(np.int64)
    sizes = np.full(len(blocks), self._chunk_size * self._frame_bytes, np.uint64)
    return self._decompressor().multi_decompress_to_buffer(
      zstandard.BufferWithSegments(self._data.data, segments.tobytes()),
      decompressed_sizes=sizes.tobytes(),
      threads=1,  # It would start new threads at every call.
    )

  def _decompressor(self) -> zstandard.ZstdDecompressor:
    """Returns this thread's own decompressor."""
    if not hasattr(self._local, 'decompressor'):
      self._local.decompressor = zstandard.ZstdDecompressor(
        dict_data=frame_codec.prepared(self._dictionary)
      )
    return self._local.decompressor

  def __getstate__(self) -> dict:
    return {**self.__dict__, '_pool': None, '_local': None}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state)
    self._local = threading.local()


AnyFrames = RawFrames | ZstdFrames


class FrameWriter:
  """Builds a store from frames in order; compresses them immediately.

  Args:
    count: N, number of expected frames.
    shape: shape of one frame.
    dtype: data type of a frame.
    codec: 'zstd' or 'raw'.
    chunk_size: frames per block.
    level: zstandard's compression level.
    dictionary: from `train_dictionary`.

  Raises:
    ValueError: if the codec is unknown.
  """

  def __init__(
    self,
    count: int,
    shape: tuple[int, ...],
    dtype: Any,
    codec: str = 'zstd',
    chunk_size: int = CHUNK_SIZE,
    level: int = LEVEL,
    dictionary: bytes | None = None,
  ):
    self._expected, self._written = count, 0
    self._encoder = ChunkEncoder(shape, dtype, codec, chunk_size, level, dictionary)
    self._dictionary = dictionary
    # A plain store is filled in place. Blocks have unknown sizes, so they are collected in pieces.
    self._raw = np.empty((count, *shape), dtype) if codec == 'raw' else None
    self._blocks: list[bytes] = []
    self._pieces: list[bytes] = []
    self._sizes: list[np.ndarray] = []

  def append(self, frames: np.ndarray) -> None:
    """Appends `frames` [m, *shape]."""
    if self._written + len(frames) > self._expected:
      raise ValueError(f'More frames than the {self._expected} announced.')
    if self._raw is None:
      self._blocks += self._encoder.append(frames)
      if len(self._blocks) >= _PIECE:
        self._join()
    else:
      frame_codec.check_frames(frames, self._raw.shape[1:], self._raw.dtype)
      self._raw[self._written : self._written + len(frames)] = frames
    self._written += len(frames)

  def finish(self) -> AnyFrames:
    """Returns the store of all frames.

    Raises:
      ValueError: if there are fewer frames than expected.
    """
    if self._written != self._expected:
      raise ValueError(f'Expected {self._expected} frames, got {self._written}.')
    if self._raw is not None:
      return RawFrames(self._raw)
    self._blocks += self._encoder.finish()
    self._join()
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(self._sizes))])
    data = np.empty(offsets[-1], np.uint8)
    at = 0
    self._pieces.reverse()
    while self._pieces:  # Each piece is freed after it is copied.
      piece = self._pieces.pop()
      data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
      at += len(piece)
    return open_frames(self._encoder.settings, data, offsets, self._dictionary)

  def _join(self) -> None:
    self._sizes.append(np.fromiter(map(len, self._blocks), np.int64, len(self._blocks)))
    self._pieces.append(b''.join(self._blocks))
    self._blocks = []


def pack(frames: np.ndarray, codec: str = 'zstd', **settings: Any) -> AnyFrames:
  """Returns a store of `frames` [N, *shape]; `settings` are `FrameWriter`'s."""
  writer = FrameWriter(len(frames), frames.shape[1:], frames.dtype, codec, **settings)
  writer.append(frames)
  return writer.finish()


def open_frames(
  settings: Mapping,
  data: np.ndarray,
  offsets: np.ndarray | None = None,
  dictionary: bytes | None = None,
) -> AnyFrames:
  """Opens frames from the bytes that a `ChunkEncoder` made.

  Args:
    settings: the encoder's, after it has finished.
    data: [bytes] uint8, all its blocks in order; may be a memory map.
    offsets: [blocks + 1] int64, the start of each block, then the end of the last; not used by the
      codec 'raw'.
    dictionary: the encoder's.

  Raises:
    ValueError: if the arrays don't fit the settings.
  """
  check_codec(settings['codec'])
  if settings['codec'] == 'raw':
    return RawFrames(data.view(settings['dtype']).reshape(settings['shape']))
  if offsets is None:
    raise ValueError('The blocks of a compressed store need their offsets.')
  mapped = isinstance(offsets, np.memmap)
  return ZstdFrames(settings, data, offsets if mapped else compact.Offsets(offsets), dictionary)


def from_arrays(settings: Mapping, arrays: Mapping[str, np.ndarray]) -> AnyFrames:
  """Rebuilds a store from its `settings()` and its `arrays()`."""
  dictionary = arrays['dictionary'].tobytes() if 'dictionary' in arrays else None
  return open_frames(settings, arrays['frames'], arrays.get('offsets'), dictionary)

"""Frames in memory, each stored once: plain, or compressed in chunks of consecutive frames.

A frame of 84×84 bytes takes 7 kB plain, so 2.5 million take 17.6 GB. Compressed in chunks they take
a few per cent of that and still serve random batches, because neighbouring frames of a game are
nearly equal and a state's stack lies within one or two chunks.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Mapping

import numpy as np
import zstandard

CODECS = ('zstd', 'raw')
# Frames per chunk. Measured with random batches of 32 five-frame transitions on two cores: 8 served
# as many a second as 4 (Pong 780, Seaquest 560) at three quarters of its size (59 and 153 bytes a
# frame); 16 and 32 save another fifth and serve a third fewer. Plain arrays: 4,000 and 2,750.
CHUNK_SIZE = 8
_LEVEL = 3
_THREADED_CHUNKS = 64  # Below this many chunks, starting threads costs more than they save.


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

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns what a file needs to hold; `from_arrays` takes it back."""
    return {'frames': self._array}


class ZstdFrames:
  """Frames in chunks of consecutive ones, each chunk one zstandard block; decodes in threads.

  Args:
    data: [bytes] uint8, all blocks one after the other.
    offsets: [chunks + 1] int64, where each block starts, then the end of the last.
    shape: [N, *observation_shape].
    dtype: data type of a frame.
    chunk_size: frames per chunk; the last may hold fewer.
  """

  def __init__(
    self,
    data: np.ndarray,
    offsets: np.ndarray,
    shape: tuple[int, ...],
    dtype: np.dtype,
    chunk_size: int,
  ):
    if len(offsets) != -(-shape[0] // chunk_size) + 1 or int(offsets[-1]) != len(data):
      raise ValueError('The blocks do not fit the number of frames: the store is damaged.')
    self._data, self._offsets = data, offsets
    self._shape, self._dtype, self._chunk_size = tuple(shape), np.dtype(dtype), chunk_size
    self._frame_bytes = int(np.prod(shape[1:])) * self._dtype.itemsize
    self._threads = cores()
    self._pool: concurrent.futures.ThreadPoolExecutor | None = None

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
    return self._data.nbytes + self._offsets.nbytes

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Returns a new array [..., *observation_shape] for `rows` [...] int64."""
    flat = np.asarray(rows, np.int64).ravel()
    out = np.empty((len(flat), self._frame_bytes), np.uint8)
    chunk, within = np.divmod(flat, self._chunk_size)
    order = np.argsort(chunk, kind='stable')
    starts = np.flatnonzero(np.diff(chunk[order], prepend=-1))
    groups = np.split(order, starts[1:])  # Positions in `flat`, one group per chunk.

    def decode(some: list[np.ndarray]) -> None:
      decompressor = zstandard.ZstdDecompressor()
      for group in some:
        if len(group):
          out[group] = self._decode_chunk(decompressor, int(chunk[group[0]]))[within[group]]

    if len(groups) < _THREADED_CHUNKS or self._threads == 1:
      decode(groups)
    else:
      if self._pool is None:
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads)
      list(self._pool.map(decode, (groups[i :: self._threads] for i in range(self._threads))))
    return out.view(self._dtype).reshape(*np.shape(rows), *self._shape[1:])

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns what a file needs to hold; `from_arrays` takes it back."""
    return {'frames': self._data, 'offsets': self._offsets}

  def _decode_chunk(
    self, decompressor: zstandard.ZstdDecompressor, chunk: int
  ) -> np.ndarray:  # [frames, bytes]
    block = self._data[self._offsets[chunk] : self._offsets[chunk + 1]]
    frames = min(self._chunk_size, self._shape[0] - chunk * self._chunk_size)
    plain = decompressor.decompress(block.data, max_output_size=frames * self._frame_bytes)
    return np.frombuffer(plain, np.uint8).reshape(frames, self._frame_bytes)

  def __getstate__(self) -> dict:
    return {**self.__dict__, '_pool': None}


def cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


AnyFrames = RawFrames | ZstdFrames


class FrameWriter:
  """Takes frames in order and ends in a store; compresses as they come.

  Args:
    count: N, frames to come.
    shape: shape of one frame.
    dtype: data type of a frame.
    codec: 'zstd' or 'raw'.
    chunk_size: frames per zstd chunk.

  Raises:
    ValueError: if the codec is unknown.
  """

  def __init__(
    self,
    count: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    codec: str = 'zstd',
    chunk_size: int = CHUNK_SIZE,
  ):
    check_codec(codec)
    self._shape, self._dtype = (count, *shape), np.dtype(dtype)
    self._codec, self._chunk_size = codec, chunk_size
    self._written = 0
    self._blocks: list[bytes] = []
    room = count if codec == 'raw' else min(chunk_size, count)
    self._room = np.empty((room, *shape), self._dtype)  # All frames, or the chunk being filled.
    self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

  def append(self, frames: np.ndarray) -> None:
    """Appends `frames` [m, *shape]."""
    if frames.shape[1:] != self._shape[1:] or frames.dtype != self._dtype:
      raise ValueError(
        f'Expected {self._dtype} frames {self._shape[1:]}, got {frames.dtype} {frames.shape[1:]}.'
      )
    if self._written + len(frames) > self._shape[0]:
      raise ValueError(f'More frames than the {self._shape[0]} announced.')
    if self._codec == 'raw':
      self._room[self._written : self._written + len(frames)] = frames
      self._written += len(frames)
      return
    while len(frames):
      at = self._written % self._chunk_size
      part, frames = (
        frames[: self._chunk_size - at],
        frames[self._chunk_size - at :],
      )
      self._room[at : at + len(part)] = part
      self._written += len(part)
      if self._written % self._chunk_size == 0:
        self._blocks.append(self._compressor.compress(self._room.tobytes()))

  def finish(self) -> AnyFrames:
    """Returns the store of all frames.

    Raises:
      ValueError: if fewer came than announced.
    """
    if self._written != self._shape[0]:
      raise ValueError(f'{self._shape[0]} frames were announced, {self._written} came.')
    if self._codec == 'raw':
      return RawFrames(self._room)
    rest = self._written % self._chunk_size
    if rest:
      self._blocks.append(self._compressor.compress(self._room[:rest].tobytes()))
    offsets = np.concatenate([[0], np.cumsum([len(b) for b in self._blocks])]).astype(np.int64)
    data = np.frombuffer(b''.join(self._blocks), np.uint8)
    self._blocks = []
    return ZstdFrames(data, offsets, self._shape, self._dtype, self._chunk_size)


def check_codec(codec: str) -> None:
  """Raises ValueError if the codec is unknown."""
  if codec not in CODECS:
    raise ValueError(f'Unknown codec {codec!r}; choose one of {", ".join(CODECS)}.')


def pack(frames: np.ndarray, codec: str = 'zstd', chunk_size: int = CHUNK_SIZE) -> AnyFrames:
  """Returns a store of `frames` [N, *shape]."""
  writer = FrameWriter(len(frames), frames.shape[1:], frames.dtype, codec, chunk_size)
  writer.append(frames)
  return writer.finish()


def layout(frames: AnyFrames) -> dict:
  """Returns, ready for JSON, what `from_arrays` needs beside the arrays."""
  return {
    'codec': 'raw' if isinstance(frames, RawFrames) else 'zstd',
    'shape': list(frames.shape),
    'dtype': frames.dtype.name,
    'chunk_size': 1 if isinstance(frames, RawFrames) else frames._chunk_size,
  }


def from_arrays(settings: Mapping, arrays: Mapping[str, np.ndarray]) -> AnyFrames:
  """Rebuilds a store from its `layout` and its `arrays()`."""
  readers: dict[str, Callable[[], AnyFrames]] = {
    'raw': lambda: RawFrames(arrays['frames']),
    'zstd': lambda: ZstdFrames(
      arrays['frames'],
      arrays['offsets'],
      tuple(settings['shape']),
      np.dtype(settings['dtype']),
      int(settings['chunk_size']),
    ),
  }
  check_codec(settings['codec'])
  return readers[settings['codec']]()

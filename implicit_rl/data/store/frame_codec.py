"""Frames to compressed blocks: `ChunkEncoder` takes frames in order and returns blocks.

A block is one zstandard frame that holds `chunk_size` consecutive frames of the game. With a
dictionary of frames of the same game (`train_dictionary`), even a block of a single frame is small,
because the dictionary contains everything that does not move. Randomly drawn frames are then
decoded without their neighbours.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zstandard

from implicit_rl.cpu import cores

CODECS = ('zstd', 'raw')
CHUNK_SIZE = 1  # Frames per block.
LEVEL = 9  # zstandard's level; docs/data.md has the costs of levels.
DICTIONARY_FRAMES = 64
_DICTIONARY_HEAD = 16 << 10  # Bytes of the part that zstandard trains.
_AT_ONCE = 1024  # Blocks per call of the compressor.


class ChunkEncoder:
  """Compresses frames in order; the caller keeps the blocks, in memory or in a file.

  Args:
    shape: shape of one frame.
    dtype: data type of a frame.
    codec: 'zstd', or 'raw' for uncompressed blocks, where the next three have no effect.
    chunk_size: frames per block. The last block is filled up with copies of the last frame.
    level: zstandard's compression level.
    dictionary: from `train_dictionary`, of frames like these; None compresses without one.
    threads: number of native threads that compress.

  Raises:
    ValueError: if the codec is unknown or a setting is out of range.
  """

  def __init__(
    self,
    shape: tuple[int, ...],
    dtype: Any,
    codec: str = 'zstd',
    chunk_size: int = CHUNK_SIZE,
    level: int = LEVEL,
    dictionary: bytes | None = None,
    threads: int | None = None,
  ):
    check_codec(codec)
    if chunk_size < 1:
      raise ValueError(f'chunk_size must be at least 1, got {chunk_size}.')
    self._shape, self._dtype = tuple(shape), np.dtype(dtype)
    self._codec, self._chunk_size, self._level = codec, chunk_size, level
    self._dictionary = dictionary if codec == 'zstd' else None
    self._threads = threads or cores.count()
    self._count = 0
    self._rest = np.empty((0, *self._shape), self._dtype)  # Frames of a block that is not yet full.
    # Values that every block would repeat are in the settings: sizes and the dictionary's name.
    parameters = zstandard.ZstdCompressionParameters.from_level(
      level, write_content_size=False, write_checksum=False, write_dict_id=False
    )
    self._compressor = zstandard.ZstdCompressor(
      compression_params=parameters, dict_data=prepared(self._dictionary, level)
    )

  def append(self, frames: np.ndarray) -> list[bytes]:
    """Adds `frames` [m, *shape]; returns the blocks that they complete.

    Raises:
      ValueError: if the frames have another shape or dtype.
    """
    check_frames(frames, self._shape, self._dtype)
    self._count += len(frames)
    if self._codec == 'raw':
      return [frames.tobytes()] if len(frames) else []
    if len(self._rest):
      frames = np.concatenate([self._rest, frames])
    whole = len(frames) // self._chunk_size * self._chunk_size
    self._rest = frames[whole:].copy()
    return self._compress(frames[:whole])

  def finish(self) -> list[bytes]:
    """Returns the last block, if it has frames; missing ones are copies of the last frame."""
    if not len(self._rest):
      return []
    missing = self._chunk_size - len(self._rest)
    last = np.concatenate([self._rest, np.repeat(self._rest[-1:], missing, axis=0)])
    self._rest = self._rest[:0]
    return self._compress(last)

  @property
  def settings(self) -> dict[str, Any]:
    """Returns what `frame_store.open_frames` needs besides the bytes, as JSON values."""
    settings = {
      'codec': self._codec,
      'shape': [self._count, *self._shape],
      'dtype': self._dtype.name,
    }
    if self._codec == 'zstd':
      settings |= {
        'chunk_size': self._chunk_size,
        'level': self._level,
        'dictionary': name_of(self._dictionary),
      }
    return settings

  def _compress(self, frames: np.ndarray) -> list[bytes]:
    """Returns the blocks of `frames` [chunks * chunk_size, *shape]."""
    chunks = np.ascontiguousarray(frames).reshape(-1).view(np.uint8)
    size = self._chunk_size * int(np.prod(self._shape)) * self._dtype.itemsize
    blocks: list[bytes] = []
    for start in range(0, len(chunks), size * _AT_ONCE):
      part = chunks[start : start + size * _AT_ONCE]
      where = np.arange(0, len(part), size, dtype=np.uint64)
      segments = np.stack([where, np.full(len(where), size, np.uint64)], axis=1)
      packed = self._compressor.multi_compress_to_buffer(
        zstandard.BufferWithSegments(part.data, segments.tobytes()), threads=self._threads
      )
      blocks += [packed[i].tobytes() for i in range(len(packed))]
    return blocks


def train_dictionary(frames: np.ndarray, count: int = DICTIONARY_FRAMES) -> bytes:
  """Trains a dictionary for compressing blocks of similar frames.

  It contains the result of zstandard's own training, followed by `count` whole frames. The training
  adds the statistics for coding a block's symbols, so that no block needs its own.

  Args:
    frames: [m, *shape], from all stages of the data; one or two thousand are enough. Evenly spaced
      ones are used, so logged order is best.
    count: number of whole frames in the dictionary; 64 Atari frames are 450 kB.

  Returns:
    The dictionary's bytes.

  Raises:
    ValueError: if there are no frames.
  """
  if not len(frames):
    raise ValueError('A dictionary needs at least one frame.')
  samples: list[Any] = [np.ascontiguousarray(frame).tobytes() for frame in frames]
  try:
    head = zstandard.train_dictionary(_DICTIONARY_HEAD, samples, level=LEVEL).as_bytes()
  except zstandard.ZstdError:  # Too few or too similar frames for training.
    head = b''
  chosen = np.unique(np.linspace(0, len(samples) - 1, count).astype(int))
  return head + b''.join(samples[i] for i in chosen)


def prepared(
  dictionary: bytes | None, level: int | None = None
) -> zstandard.ZstdCompressionDict | None:
  """Returns zstandard's dictionary object, prepared for compression if a level is given."""
  if dictionary is None:
    return None
  data = zstandard.ZstdCompressionDict(dictionary)
  if level is not None:
    data.precompute_compress(level=level)
  return data


def name_of(dictionary: bytes | None) -> str | None:
  """Returns a dictionary's name: a hash of its bytes."""
  return None if dictionary is None else hashlib.sha256(dictionary).hexdigest()[:16]


def check_codec(codec: str) -> None:
  """Raises ValueError if the codec is unknown."""
  if codec not in CODECS:
    raise ValueError(f'Unknown codec {codec!r}; choose one of {", ".join(CODECS)}.')


def check_frames(frames: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
  """Raises ValueError unless `frames` is [m, *shape] of `dtype`."""
  if frames.shape[1:] != shape or frames.dtype != dtype:
    raise ValueError(f'Expected {dtype} frames {shape}, got {frames.dtype} {frames.shape[1:]}.')

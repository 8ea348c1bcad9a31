"""Stores long columns of whole numbers in few bytes: 50 million rows take 50 MB per byte."""

from __future__ import annotations

from typing import Any

import numpy as np

_GROUP = 1 << 12  # Offsets that share one full-length base.


class RowRuns:
  """A set of row numbers, stored as runs of consecutive ones; indexed like a sorted array of them.

  The rows that start a transition are almost all rows, or those of some episodes, so there are few
    runs.

  Args:
    mask: [N] bool, which rows are in the set.
  """

  def __init__(self, mask: np.ndarray):
    edges = np.flatnonzero(np.diff(np.asarray(mask, np.int8), prepend=0, append=0))
    self._start = edges[::2]  # [R]
    self._end = np.cumsum(edges[1::2] - self._start)  # [R], places up to each run's end
    self._shift = edges[1::2] - self._end  # [R], from place to row

  def __len__(self) -> int:
    return int(self._end[-1]) if len(self._end) else 0

  def __getitem__(self, places: Any) -> np.ndarray:
    """Returns the rows [...] int64 at `places`: whole numbers [...] from 0, or a slice."""
    if isinstance(places, slice):
      places = np.arange(*places.indices(len(self)))
    places = np.asarray(places, np.int64)
    if places.size and not 0 <= places.min() <= places.max() < len(self):
      raise IndexError(f'Places must lie in [0, {len(self)}).')
    return places + self._shift[np.searchsorted(self._end, places, side='right')]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[:], dtype)


class Offsets:
  """Starts of blocks in one long array, in 4 bytes each; indexed like an array of offsets.

  Args:
    offsets: [M] int64, increasing; blocks of less than a mebibyte each.

  Raises:
    ValueError: if blocks are so large that 32 bits cannot hold a difference.
  """

  def __init__(self, offsets: np.ndarray):
    self._base = np.asarray(offsets[::_GROUP], np.int64)
    self._within = np.empty(len(offsets), np.uint32)
    for group, base in enumerate(self._base):
      part = slice(group * _GROUP, (group + 1) * _GROUP)
      difference = np.asarray(offsets[part], np.int64) - base
      if len(difference) and not 0 <= difference.min() <= difference.max() < 2**32:
        raise ValueError('The blocks are too large, or their offsets do not increase.')
      self._within[part] = difference

  def __len__(self) -> int:
    return len(self._within)

  def __getitem__(self, at: Any) -> np.ndarray:
    """Returns the offsets [...] int64 at whole numbers `at` [...], or at a slice."""
    if isinstance(at, slice):
      at = np.arange(*at.indices(len(self)))
    at = np.asarray(at, np.int64) % len(self)  # -1 is the last, as usual.
    return self._base[at // _GROUP] + self._within[at]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[:], dtype)

  @property
  def nbytes(self) -> int:
    """Number of bytes in memory."""
    return self._base.nbytes + self._within.nbytes


def smallest(values: np.ndarray) -> np.ndarray:
  """Converts numbers to the first of uint8, int8, uint16, int16 that represents them exactly.

  Args:
    values: [N] of any real dtype; returned unchanged if none does.
  """
  if not len(values):
    return values
  low, high = values.min(), values.max()
  for dtype in (np.uint8, np.int8, np.uint16, np.int16):
    bounds = np.iinfo(dtype)
    if bounds.min <= low and high <= bounds.max:
      small = values.astype(dtype)
      if np.issubdtype(values.dtype, np.integer) or np.array_equal(small, values):
        return small
      return values
  return values

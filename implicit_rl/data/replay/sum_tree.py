"""A sum tree: non-negative numbers whose prefix sums can be searched and changed in log time.

Vectorised NumPy. The sum trees of other libraries require a deep-learning framework, or use their
own random generator, so that an update's draws could not be repeated.
"""

from __future__ import annotations

import numpy as np


class SumTree:
  """N numbers under a binary tree of their sums.

  A node is always computed as the sum of its two children, never as a running total. The tree is a
  pure function of its leaves, so a rebuilt tree gives the same results.

  Args:
    size: N.

  Raises:
    ValueError: for a size below 1.
  """

  def __init__(self, size: int):
    if size < 1:
      raise ValueError(f'A sum tree must hold at least 1 number, got {size}.')
    self._size = size
    self._depth = (size - 1).bit_length()
    self._first = 1 << self._depth  # Node 1 is the root; node i has the children 2i and 2i + 1.
    self._nodes = np.zeros(2 * self._first, np.float64)

  @property
  def total(self) -> float:
    """The sum of all numbers."""
    return float(self._nodes[1])

  def get(self, indices: np.ndarray) -> np.ndarray:
    """Returns the numbers at `indices` [...] int64: [...] float64."""
    return self._nodes[self._first + indices]

  def set(self, indices: np.ndarray, values: np.ndarray) -> None:
    """Writes numbers; if an index occurs more than once, its last value is used.

    Args:
      indices: [M] int64 in [0, N).
      values: [M], finite and at least 0.

    Raises:
      ValueError: for a value that is neither.
      IndexError: for an index out of range.
    """
    indices, values = np.asarray(indices, np.int64), np.asarray(values, np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
      raise ValueError('A sum tree holds finite numbers of at least 0.')
    if indices.size and not 0 <= indices.min() <= indices.max() < self._size:
      raise IndexError(f'Indices must lie in [0, {self._size}).')
    nodes = self._nodes
    at = self._first + indices
    nodes[at] = values
    for _ in range(self._depth):
      at = at >> 1
      nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

  def find(self, targets: np.ndarray) -> np.ndarray:
    """Inverts the cumulative sum; never returns an index whose number is 0.

    Args:
      targets: [...] float64 in [0, total).

    Returns:
      [...] int64, for each target the first index up to which the numbers sum to more.

    Raises:
      ValueError: for a target out of range.
    """
    left_over = np.array(targets, np.float64)
    if left_over.size and not 0 <= left_over.min() <= left_over.max() < self.total:
      raise ValueError(f'Targets must lie in [0, {self.total}).')
    at = np.ones(left_over.shape, np.int64)
    for _ in range(self._depth):
      at = 2 * at
      left = self._nodes[at]
      # Only rounding can violate the second condition; it must not lead to an empty leaf.
      right = (left_over >= left) & (self._nodes[at + 1] > 0)
      left_over = np.where(right, left_over - left, left_over)
      at = at + right
    return at - self._first

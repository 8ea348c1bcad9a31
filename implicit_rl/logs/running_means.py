"""Sums of the training metrics over an iteration's updates; a number that is none ends the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SKIPPED = 'Updates/Skipped'  # 1 for an update that was left out, else 0.
_FOLLOW = ('Gradient/Norm', 'Losses/Total')  # Named only where nothing else went wrong with them.
_PATIENCE = 1000  # Updates skipped in a row, after which nothing is being learnt.


class NonFiniteError(ArithmeticError):
  """A loss, a gradient, a feature or a parameter is infinite or not a number."""


class TrainingSums:
  """What an iteration's updates reported, added up.

  Attributes:
    updates: how many there were.
  """

  def __init__(self) -> None:
    self.updates = 0
    self._sums: dict[str, float] = {}
    self._skipped_in_a_row = 0

  def add(self, metrics: Mapping[str, Any], updates: int, first: int) -> None:
    """Adds metrics of updates `first` to `first + updates`.

    Args:
      metrics: by name, [updates] or the sum over them [].
      updates: how many, at least 1.
      first: number of the first one in the run, for the error.

    Raises:
      NonFiniteError: for an infinite value or one that is no number; names the metric and the
        update. Nothing is added then.
    """
    values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
    check_finite(values, first, updates)
    for name, value in values.items():
      self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())
    self.updates += updates
    skipped = values.get(SKIPPED, np.zeros(())).sum()
    self._skipped_in_a_row = self._skipped_in_a_row + updates if skipped == updates else 0
    if self._skipped_in_a_row >= _PATIENCE:
      raise NonFiniteError(
        f'The last {self._skipped_in_a_row:,} updates up to {first + updates:,} were all skipped'
      )

  def means(self) -> dict[str, float]:
    """The mean of each metric; those that were skipped count for `SKIPPED` alone."""
    counted = self.updates - self._sums.get(SKIPPED, 0.0)
    return {
      name: value / (self.updates if name == SKIPPED else max(counted, 1.0))
      for name, value in self._sums.items()
      if self.updates
    }

  def state_dict(self) -> dict[str, Any]:
    """All of it, for a checkpoint."""
    return {
      'updates': self.updates,
      'sums': dict(self._sums),
      'skipped_in_a_row': self._skipped_in_a_row,
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Takes back what `state_dict` returned."""
    self.updates, self._sums = int(state['updates']), dict(state['sums'])
    self._skipped_in_a_row = int(state['skipped_in_a_row'])


def check_finite(values: Mapping[str, Any], first: int, updates: int | None = None) -> None:
  """Raises NonFiniteError that names the earliest update and the first value that is not finite.

  Args:
    values: by name: [updates], a number of each update, or the sum over them [].
    first: number of the first update.
    updates: how many; None for arrays that are what they are after `first` updates.
  """
  found = []
  for name, value in values.items():
    flat = np.ravel(value)
    if np.issubdtype(flat.dtype, np.inexact) and not np.isfinite(flat).all():
      at = int(np.flatnonzero(~np.isfinite(flat))[0])
      found.append((0 if updates is None else at, name in _FOLLOW, name, float(flat[at])))
  if found:
    at, _, name, value = min(found)
    if updates is None:
      where = f'after update {first:,}'
    elif np.ndim(values[name]):
      where = f'at update {first + at + 1:,}'
    else:
      where = f'within updates {first + 1:,} to {first + updates:,}'
    raise NonFiniteError(f'{name} is {value} {where}')

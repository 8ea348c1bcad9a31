"""Running means of the training metrics over an iteration; non-finite values end the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SKIPPED = 'Updates/Skipped'  # 1 for a skipped update, otherwise 0.
_FOLLOW = ('Gradient/Norm', 'Losses/Total')  # Errors name it last.
_PATIENCE = 1000  # A run ends after this many skipped updates in a row.


class NonFiniteError(ArithmeticError):
  """A loss, gradient, feature or parameter is infinite or NaN."""


class RunningMeans:
  """Means of the metrics of an iteration's updates.

  Attributes:
    updates: number of updates added.
  """

  def __init__(self) -> None:
    self.updates = 0
    self._sums: dict[str, float] = {}
    self._skipped_in_a_row = 0

  def add(self, metrics: Mapping[str, Any], updates: int, first: int) -> None:
    """Adds metrics of updates `first` to `first + updates`.

    Args:
      metrics: by name, [updates] or their sum [].
      updates: number of updates, at least 1.
      first: index of the first update in the run, for the error.

    Raises:
      NonFiniteError: for an infinite value or NaN, with the metric and the update. Nothing is
        added then.
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
    """Returns the mean of each metric. Skipped updates count only for `SKIPPED`."""
    counted = self.updates - self._sums.get(SKIPPED, 0.0)
    return {
      name: value / (self.updates if name == SKIPPED else max(counted, 1.0))
      for name, value in self._sums.items()
      if self.updates
    }

  def state_dict(self) -> dict[str, Any]:
    """Returns the state for a checkpoint."""
    return {
      'updates': self.updates,
      'sums': dict(self._sums),
      'skipped_in_a_row': self._skipped_in_a_row,
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    self.updates, self._sums = int(state['updates']), dict(state['sums'])
    self._skipped_in_a_row = int(state['skipped_in_a_row'])


def check_finite(values: Mapping[str, Any], first: int, updates: int | None = None) -> None:
  """Raises NonFiniteError, naming the earliest update and the first non-finite value.

  Args:
    values: by name: [updates], a number for each update, or their sum [].
    first: index of the first update.
    updates: number of updates; None for arrays of any size with the values after `first` updates.
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

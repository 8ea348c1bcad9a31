"""Dopamine's rotation of log files: only a few random checkpoints are used at a time."""

from __future__ import annotations

import gin
import numpy as np

from implicit_rl.data import transitions

_WHICH_STREAM, _ROW_STREAM, _ROUND_STREAM = 2, 3, 4


@gin.configurable
class CheckpointRotation:
  """Draws like Dopamine's fixed replay, which can't keep a whole run in memory.

  At the beginning of each iteration it loads `count` of the files, chosen at random; until the next
  iteration every batch comes from one of these, again chosen at random. The transitions of a batch
  are therefore close in time. Over many iterations all rows are drawn equally often if the files
  have equal sizes; within one iteration most of the data is never used. Here the draws of update u
  depend only on the seed and u.

  Args:
    count: checkpoints in use at a time; Dopamine's default is 5.
    period: gradient updates between changes; Dopamine's iteration has 62,500.

  Raises:
    ValueError: if either is below 1.
  """

  def __init__(self, count: int = 5, period: int = 62_500):
    if count < 1 or period < 1:
      raise ValueError(
        f'CheckpointRotation.count and .period must be at least 1, got {count} and {period}.'
      )
    self.count, self.period = count, period

  def in_use(self, seed: int, number: int, checkpoints: int) -> np.ndarray:
    """Returns which of `checkpoints` period `number` uses: [min(count, checkpoints)]."""
    rng = np.random.default_rng([seed, _ROUND_STREAM, number])
    return rng.choice(checkpoints, min(self.count, checkpoints), replace=False)

  def draw(
    self, seed: int, first_update: int, num_updates: int, batch_size: int, bounds: np.ndarray
  ) -> np.ndarray:
    """Draws places for a run of updates.

    Args:
      seed: all draws derive from it.
      first_update: number of the first update, from 0.
      num_updates: K.
      batch_size: B.
      bounds: [C + 1] int64, increasing: the places of checkpoint c are bounds[c] to bounds[c+1]-1.

    Returns:
      [K, B] int64.
    """
    number = np.arange(first_update, first_update + num_updates) // self.period  # [K]
    checkpoints = len(bounds) - 1
    chosen = np.stack([self.in_use(seed, int(n), checkpoints) for n in np.unique(number)])
    chosen = chosen[np.unique(number, return_inverse=True)[1]]  # [K, count]
    which = transitions.uniform_indices(
      seed, first_update, num_updates, 1, chosen.shape[1], stream=_WHICH_STREAM
    )
    checkpoint = np.take_along_axis(chosen, which, axis=1)  # [K, 1]
    size = bounds[checkpoint + 1] - bounds[checkpoint]
    unit = transitions.uniform_indices(
      seed, first_update, num_updates, batch_size, 2**53, stream=_ROW_STREAM
    )
    return bounds[checkpoint] + (unit * 2.0**-53 * size).astype(np.int64)

  def describe(self) -> dict[str, int]:
    """Returns the settings, as JSON values."""
    return {'checkpoints': self.count, 'updates': self.period}

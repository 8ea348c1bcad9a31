"""Prioritised replay (Schaul et al., 2016): draws transitions with large errors more often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gin
import numpy as np

from implicit_rl import types
from implicit_rl.data import source, transitions
from implicit_rl.data.replay import online_replay, sum_tree

_LEAST_PRIORITY = 1e-5  # So that every row can be drawn again; √1e-10, as in Dopamine's Rainbow.
_LEAST_PROBABILITY = 1e-10  # Dopamine's, added to each probability before it is inverted.


@gin.configurable(denylist=source.FROM_AGENT)
class PrioritizedReplay(online_replay.OnlineReplay):
  """Replay that draws transition i with probability p_i^α / Σ p^α, stratified over the batch.

  A complete transition starts with the largest priority so far, initially 1, so that it is drawn
  soon. After an update the learner reports the priority of each transition of its batch. An
  incomplete transition has priority 0. `fixed_batch` is uniform, since metrics describe the data.

  The draws of update u depend on the seed, u and the memory's content, including priorities.

  Args:
    *args: `OnlineReplay`'s.
    priority_exponent: α. 1 uses the loss's own priorities, as for Rainbow, whose loss reports the
      root of its cross-entropy.
    weight_exponent: β of the importance weights P^−β, which are divided by the batch's largest; a
      constant ½ as in Dopamine's Rainbow. 0 does not correct.
    **kwargs: `OnlineReplay`'s; bind them as `OnlineReplay.*`.

  Raises:
    ValueError: for a negative exponent.
  """

  prioritized = True

  def __init__(self, *args, priority_exponent: float = 1.0, weight_exponent: float = 0.5, **kwargs):
    super().__init__(*args, **kwargs)
    for name, value in (
      ('priority_exponent', priority_exponent),
      ('weight_exponent', weight_exponent),
    ):
      if not value >= 0:
        raise ValueError(f'PrioritizedReplay.{name} must be at least 0, got {value}.')
    self._priority_exponent, self._weight_exponent = priority_exponent, weight_exponent
    self._tree = sum_tree.SumTree(self.capacity)  # p^α of row t at position t mod capacity.
    self._largest = 1.0  # The largest p^α so far.
    self._entered = 0  # Rows that are in the tree; see `_enter`.
    self._drawn = np.zeros(0, np.int64)  # The rows of the last `sample`.

  def sample(self, first_update: int, num_updates: int, batch_size: int) -> types.Batch:
    """See `DataSource.sample`; here in proportion to the priorities, with `weight` to match."""
    self._enter()
    total = self._tree.total
    if not total:
      raise ValueError('There is nothing to sample from: the store holds no complete transition.')
    numbers = transitions.uniform_numbers(self._seed, first_update, num_updates, batch_size)
    targets = (np.arange(batch_size) + numbers) * (total / batch_size)  # [K, B], one per stratum
    position = self._tree.find(np.minimum(targets, np.nextafter(total, 0)))
    self._drawn = self._oldest + (position - self._oldest) % self.capacity
    probability = self._tree.get(position) / total
    weight = (probability + _LEAST_PROBABILITY) ** -self._weight_exponent
    weight = weight / weight.max(-1, keepdims=True)
    return self._gather(self._drawn)._replace(weight=weight.astype(np.float32))

  def update_priorities(self, priority: types.Array) -> None:
    """Receives the priorities of the transitions that `sample` returned last.

    Args:
      priority: p, finite and at least 0, of the shape of the sample's actions; or [B] for one
        update. If a transition was drawn more than once, its last p is used.

    Raises:
      ValueError: for another shape, or a non-finite priority, such as when training diverges.
    """
    priority = np.asarray(priority, np.float64).ravel()
    rows = self._drawn.ravel()
    if priority.shape != rows.shape:
      raise ValueError(f'{len(rows)} transitions were drawn, {len(priority)} priorities came back.')
    if not np.isfinite(priority).all():
      raise ValueError(
        'A priority is not finite: training diverged. Lower the learning rate, or replay uniformly '
        'with Agent.source = @OnlineReplay.'
      )
    self._enter()
    power = np.maximum(priority, _LEAST_PRIORITY) ** self._priority_exponent
    self._largest = max(self._largest, float(power.max(initial=0.0)))
    position = rows % self.capacity
    # Not rows that were overwritten since, or lost the beginning of their stack.
    current = (rows >= self._oldest) & (self._tree.get(position) > 0)
    self._tree.set(position[current], power[current])

  def describe(self) -> dict[str, Any]:
    """Returns a description of the memory, as JSON values."""
    return {
      **super().describe(),
      'dataset': 'prioritized online replay',
      'priority_exponent': self._priority_exponent,
      'weight_exponent': self._weight_exponent,
    }

  def state_dict(self) -> dict[str, np.ndarray]:
    """Returns everything for a checkpoint, including the priorities of the rows in memory."""
    self._enter()
    rows = np.arange(self._oldest, self._added)
    return {
      **super().state_dict(),
      'priority': self._tree.get(rows % self.capacity),  # p^α
      'largest_priority': np.array(self._largest),
      'drawn': self._drawn,
    }

  def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
    """See `OnlineReplay.load_state_dict`; a checkpoint of a uniform replay is refused."""
    missing = {'priority', 'largest_priority', 'drawn'} - set(state)
    if missing:
      raise ValueError(
        f'The replay checkpoint lacks {sorted(missing)}: it is of a replay without priorities. '
        'Resume with the Agent.source the run started with.'
      )
    super().load_state_dict(state)
    rows = np.arange(self._oldest, self._added)
    self._tree = sum_tree.SumTree(self.capacity)
    self._tree.set(rows % self.capacity, state['priority'])
    self._largest = float(state['largest_priority'])
    self._drawn = np.asarray(state['drawn'], np.int64)
    self._entered = self._added

  def _enter(self) -> None:
    """Adds the rows to the tree that were added since the last call.

    Between two calls no priority changes, so adding many rows at once is equal to adding them one
    by one. These rows may have changed: those added since, the n before them, whose next state may
    now exist, and the oldest, whose stack may have lost its beginning.
    """
    if self._entered == self._added:
      return
    changed = np.arange(max(self._oldest, self._entered - self._horizon), self._added)
    oldest = np.arange(self._oldest, min(self._oldest + self._stack_size - 1, self._added))
    rows = np.union1d(oldest, changed)
    position = rows % self.capacity
    known = np.where(rows < self._entered, self._tree.get(position), 0.0)
    value = np.where(known > 0, known, self._largest)
    self._tree.set(position, np.where(self._complete(rows), value, 0.0))
    self._entered = self._added

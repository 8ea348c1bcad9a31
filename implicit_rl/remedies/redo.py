"""ReDo: dormant units are drawn anew (Sokar et al., 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.remedies import units
from implicit_rl.remedies.base import PeriodicRemedy
from implicit_rl.types import Batch, LearnerState, Metrics, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ReDo(PeriodicRemedy):
  """Resets the units whose mean absolute activation is small for their layer.

  A unit's score is E|h| / (mean of E|h| over its layer), over the states of the update's batch and
  for a convolution's channel over all positions. It is reset where its score is at most τ: fresh
  incoming weights, outgoing weights 0, fresh moments. ReDo/Reset counts the units.

  Attributes:
    threshold: τ, in [0, 1]; 0 resets the units that are never active.
    reset_count: set Adam's step count to 0 as well, where a unit is reset; see `moments.renew`. The
      authors' code keeps it.

  Raises:
    ValueError: for a threshold outside [0, 1].
  """

  period: int | None = 1000
  threshold: float = 0.025
  reset_count: bool = False

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    if not 0 <= self.threshold <= 1:
      raise ValueError(
        f'{type(self).__name__}.threshold must be within [0, 1], got {self.threshold!r}.'
      )

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks that the network has units to reset."""
    units.unit_graph(context, self)

  def operate(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `PeriodicRemedy.operate`."""
    graph = units.unit_graph(context, self)
    loss_key, reset_key = jax.random.split(key)
    active = units.activations(context, graph, state, batch, loss_key)
    chosen = {name: scores(h) <= self.threshold for name, h in active.items()}
    state = units.reset(context, graph, state, chosen, reset_key, self.reset_count)
    return state, units.count('ReDo', chosen)


def scores(values: jax.Array) -> jax.Array:
  """Returns each unit's mean size over that of its layer: [N, C] -> [C]; 0 in a layer of zeros."""
  size = jnp.mean(jnp.abs(values), axis=0)
  return size / (jnp.mean(size) + 1e-9)

"""ReDo: dormant units are reinitialised (Sokar et al., 2023)."""

from __future__ import annotations

import dataclasses

import gin
import jax

from implicit_rl.context import Context
from implicit_rl.layer_graph import LayerGraph
from implicit_rl.remedies import units
from implicit_rl.types import Batch, LearnerState, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ReDo(units.UnitReset):
  """Resets the units whose mean absolute activation is small compared with their layer's.

  The mean is over the states of the update's batch, and for a convolution's channel over all
  positions. With an actor-critic the critics' units are reset. ReDo/Reset counts them.
  """

  def values(
    self, context: Context, graph: LayerGraph, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns the activations."""
    return units.activations(context, graph, state, batch, key)

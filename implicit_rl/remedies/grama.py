"""ReGraMa: units that get little gradient are reinitialised (Liu et al., 2025)."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.layer_graph import LayerGraph, array_at
from implicit_rl.remedies import units
from implicit_rl.types import Batch, LearnerState, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ReGraMa(units.UnitReset):
  """Resets the units whose incoming weights have small gradients compared with their layer's.

  A unit's value is the mean |∂loss/∂w| over its incoming weights w, of the agent's own loss on the
  update's batch. With an actor-critic the units of policy and critics are reset. ReGraMa/Reset
  counts them.
  """

  threshold: float = 0.01

  def values(
    self, context: Context, graph: LayerGraph, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns the gradients of the incoming weights."""
    gradient, _ = jax.grad(context.loss, has_aux=True)(
      state.params, state.target_params, batch, key
    )
    return {
      name: jnp.concatenate(
        [kernel.matrix(array_at(gradient, kernel.path)) for kernel in layer.incoming]
      )
      for name, layer in graph.layers.items()
    }

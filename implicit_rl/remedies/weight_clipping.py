"""Weight clipping (Elsayed et al., 2024)."""

from __future__ import annotations

import dataclasses
import math

import gin
import jax.numpy as jnp
from flax import traverse_util

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.layer_graph import layer_graph
from implicit_rl.remedies.base import PeriodicRemedy
from implicit_rl.types import Batch, LearnerState, Metrics, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WeightClipping(PeriodicRemedy):
  """Clips weights and biases to ±κ/√fan_in after an update.

  Normalisation layers and scalars are unchanged. WeightClipping/Clipped is the share of weights and
  biases that were clipped.

  Attributes:
    scale: κ, above 0.

  Raises:
    ValueError: for a scale that is not above 0.
  """

  period: int | None = 1
  scale: float = 1.0

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('WeightClipping.scale', self.scale, above=0)

  def operate(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `PeriodicRemedy.operate`."""
    flat = traverse_util.flatten_dict(state.params)
    bounds: dict[tuple[str, ...], float] = {}
    for kernel in layer_graph(context.init).kernels:
      weights = flat[kernel.path]
      bound = self.scale / math.sqrt(kernel.fan_in(weights.shape))
      bias = (*kernel.path[:-1], kernel.path[-1].replace('kernel', 'bias'))
      bounds |= {path: bound for path in (kernel.path, bias) if path in flat}
    outside = [jnp.sum(jnp.abs(flat[path]) > bound) for path, bound in bounds.items()]
    clipped = jnp.sum(jnp.stack(outside)) / sum(flat[path].size for path in bounds)
    flat |= {path: jnp.clip(flat[path], -bound, bound) for path, bound in bounds.items()}
    state = state._replace(params=traverse_util.unflatten_dict(flat))
    return state, {'WeightClipping/Clipped': clipped}

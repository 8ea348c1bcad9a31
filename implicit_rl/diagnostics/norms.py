"""Norms of the weights, and their distance from the initial weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import gin
import jax
import numpy as np

from implicit_rl.context import Context, trained
from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey


def layer_norms(params: Params) -> dict[str, float]:
  """Returns the Euclidean norm of the parameters of each layer, by its path."""
  squares: dict[str, float] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    names = [str(getattr(part, 'key', part)) for part in path]
    layer = '/'.join(names[1:-1] if names[0] == 'params' else names[:-1])
    square = float(np.sum(np.square(leaf, dtype=np.float64)))
    squares[layer] = squares.get(layer, 0.0) + square
  return {layer: square**0.5 for layer, square in squares.items()}


def total_norm(params: Params) -> float:
  """Returns the Euclidean norm of all parameters together."""
  return sum(norm**2 for norm in layer_norms(params).values()) ** 0.5


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Norms(Diagnostic):
  """Weight norms, in total and by layer, and the distance from the initial parameters.

  Attributes:
    period: iterations between two measurements.
  """

  period: int = 1
  compiled: ClassVar[bool] = False  # NumPy in float64; the initial parameters stay on the host.

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, float]:
    """Returns `weight_norm`, `weight_norm/LAYER` and `distance_from_start`."""
    del batch, key
    params = jax.tree.map(np.asarray, trained(state.params))
    by_layer = layer_norms(params)
    found = {f'weight_norm/{name}': norm for name, norm in by_layer.items() if name}
    found['weight_norm'] = total_norm(params)
    if context.initial is not None:
      moved = jax.tree.map(lambda a, b: np.float64(a) - b, params, trained(context.initial))
      found['distance_from_start'] = total_norm(moved)
    return found

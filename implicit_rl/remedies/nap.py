"""Normalize and project: normalised layers keep the norm of their initial weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from implicit_rl.context import Context
from implicit_rl.layer_graph import HiddenLayer, Path, array_at, layer_graph
from implicit_rl.remedies.base import PeriodicRemedy
from implicit_rl.types import Batch, LearnerState, Metrics, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NaP(PeriodicRemedy):
  """Scales each kernel before a normalisation back to its initial norm (Lyle et al., 2024).

  W ← W·‖W₀‖/‖W‖, and the layer's bias by the same factor. The layer's output does not change, up to
  the ε of its normalisation. Gradients, and so the effective learning rate, do not shrink with
  growing weights. In a noisy layer the weights of mean and noise form one W. The head is unchanged.
  NaP/Growth is the mean ‖W‖/‖W₀‖ before the projection.
  """

  period: int | None = 1

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Returns the initial norms, [] each.

    Raises:
      ValueError: if no hidden layer is normalised.
    """
    norms = {name: _norm(params, layer) for name, layer in _normalised(context).items()}
    if not norms:
      network = type(context.network).__name__
      raise ValueError(
        f'NaP needs layers that are normalised before their activation, and {network} has none: '
        'add --gin_files=gin_configs/normalisation/layer_norm.gin; networks of residual blocks, '
        'such as SimBa, normalise elsewhere and cannot use NaP.'
      )
    return norms

  def operate(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `PeriodicRemedy.operate`."""
    flat = traverse_util.flatten_dict(state.params)
    growths = []
    for name, layer in _normalised(context).items():
      growth = _norm(state.params, layer) / state.extra[name]
      growths.append(growth)
      flat |= {path: flat[path] / jnp.maximum(growth, 1e-9) for path in _paths(layer)}
    state = state._replace(params=traverse_util.unflatten_dict(flat))
    return state, {'NaP/Growth': jnp.mean(jnp.stack(growths))}


def _normalised(context: Context) -> dict[str, HiddenLayer]:
  """The hidden layers whose kernel's outputs are normalised."""
  layers = layer_graph(context.init).layers
  return {name: layer for name, layer in layers.items() if set(layer.vectors) - _paths(layer)}


def _paths(layer: HiddenLayer) -> set[Path]:
  """Returns a layer's kernels and their biases, without its normalisation."""
  modules = {kernel.path[:-1] for kernel in layer.incoming}
  biases = {path for path in layer.vectors if path[:-1] in modules}
  return biases | {kernel.path for kernel in layer.incoming}


def _norm(params: Params, layer: HiddenLayer) -> jax.Array:
  return optax.tree.norm([array_at(params, kernel.path) for kernel in layer.incoming])

"""Measures of one gradient: units with small gradients, and the size of a step."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp
import optax

from implicit_rl import rank
from implicit_rl.context import Context, trained
from implicit_rl.diagnostics.base import Diagnostic, first
from implicit_rl.layer_graph import layer_graph
from implicit_rl.types import Batch, LearnerState, PRNGKey


def effective_learning_rate(changes: optax.Updates, params: optax.Params) -> jax.Array:
  """Returns ‖Δθ‖ / ‖θ‖: [], the relative size of one step."""
  return optax.tree.norm(changes) / optax.tree.norm(params)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Gradients(Diagnostic):
  """The gradient of the loss on the fixed transitions.

  Attributes:
    period: iterations between two measurements.
    threshold: τ; a unit is gradient-dormant if the mean |∂L/∂w| over the weights that lead into it
      is at most τ of the layer's mean (Liu et al., "Measure gradients, not activations!", 2025).
    states: at most this many transitions.
  """

  period: int = 1
  threshold: float = 0.025
  states: int = 512

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `gradient_norm`, `effective_learning_rate` and `gradient_dormant_units/LAYER`."""
    batch = first(batch, self.states)
    loss = lambda params: context.loss(params, state.target_params, batch, key)[0]
    gradient = jax.grad(loss)(state.params)
    changes, _ = context.optimizer.update(gradient, state.optimizer_state, state.params)
    norm = optax.tree.norm(gradient)
    found = {
      'gradient_norm': norm,
      'effective_learning_rate': effective_learning_rate(trained(changes), trained(state.params)),
    }
    graph = layer_graph(context.init).layers if context.layers else {}
    for name, layer in graph.items():
      kernel = layer.incoming[0]
      leaf = gradient
      for part in kernel.path:
        leaf = leaf[part]
      share = rank.dormant_units(jnp.abs(kernel.matrix(leaf)), self.threshold)
      # A rectifier passes no gradient to a NaN, so all its units would be dormant.
      found[f'gradient_dormant_units/{name}'] = jnp.where(jnp.isfinite(norm), share, jnp.nan)
    return found

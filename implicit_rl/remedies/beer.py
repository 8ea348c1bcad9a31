"""BEER bounds the similarity of consecutive states' features by the Bellman equation."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.remedies.base import LossTerm
from implicit_rl.remedies.forward import features_of, last_layers, outputs_next, outputs_now
from implicit_rl.remedies.kernels import read_graph, squared_norm
from implicit_rl.types import Batch, LossAux, Params, PRNGKey

_TINY = 1e-6  # The smallest norm of features, as in the authors' cosine.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BEER(LossTerm):
  """Adds weight · mean max(0, cos(φ, φ̄′) − bound) (He et al., 2024).

  bound = (‖φ‖² + γ²‖φ′‖² − r²/‖w‖²) / (2γ‖φ‖‖φ̄′‖), where φ and φ′ are the online network's
  features, φ̄′ the target network's, and w the weights of the last layer. The gradient passes only
  through φ in the cosine. Transitions without a next state count as 0; with n-step returns γ is γⁿ.

  Value networks have one φ(s) for all actions; w is then the whole head. For linear heads this is a
  bound; for C51 it is only an approximation.

  Attributes:
    weight: β.
  """

  weight: float = 1e-3

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks network and discount; returns no state."""
    del params, key
    read_graph(context, 'BEER')
    if not context.discount > 0:
      raise ValueError(f'BEER needs Agent.gamma above 0, got {context.discount}.')

  def term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: Any,
  ) -> jax.Array:
    """Returns the mean excess [], summed over critics."""
    now = outputs_now(context, params, batch, aux)
    fixed = jax.lax.stop_gradient(params)
    quartets = zip(
      last_layers(context, now),
      features_of(now),
      features_of(outputs_next(context, fixed, batch)),
      features_of(outputs_next(context, jax.lax.stop_gradient(target_params), batch)),
      strict=True,
    )
    graph, gamma = read_graph(context, 'BEER'), context.discount
    excess = jnp.zeros(())
    for name, phi, following, target in quartets:
      head = squared_norm(fixed, graph.layers[name].outgoing)
      product = _norm(phi) * _norm(target)
      reach = _norm(phi) ** 2 + gamma**2 * _norm(following) ** 2 - batch.reward**2 / head
      bound = jax.lax.stop_gradient(reach / (2 * gamma * product))
      cosine = jnp.sum(phi * target, axis=-1) / product
      excess += jnp.mean(batch.discount * jax.nn.relu(cosine - bound))
    return excess


def _norm(features: jax.Array) -> jax.Array:
  """Returns the norms of rows [B], at least a tiny number; at that bound the gradient is 0."""
  return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(features), axis=-1), _TINY**2))

"""PFO, proximal feature optimisation, keeps pre-activations near those of an older network."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.remedies.base import LossTerm
from implicit_rl.remedies.forward import check_layers, last_layers, outputs_at, outputs_now
from implicit_rl.types import Batch, LossAux, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PFO(LossTerm):
  """Adds weight · mean (h − h⁻)², where h are the pre-activations of Φ (Moalla et al., 2024).

  The mean is over batch and units. The authors' older network is the policy that made the batch,
  which PPO keeps for several epochs. Here h⁻ is the target network's, which a value-based agent
  keeps for a period.

  Attributes:
    weight: the authors use 1, or 10 with all layers.
    all_layers: use every hidden layer, with one mean over all their units.
  """

  weight: float = 1.0
  all_layers: bool = False

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks the network; returns no state."""
    del params, key
    check_layers(context, 'PFO')

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
    """Returns the mean squared difference [], summed over critics where each has a last layer."""
    now = outputs_now(context, params, batch, aux)
    old = outputs_at(context, jax.lax.stop_gradient(target_params), batch.state, batch.action)
    squares = [
      jnp.square(now.layers[name].preactivation - old.layers[name].preactivation)
      for name in (context.layers if self.all_layers else last_layers(context, now))
    ]
    if not self.all_layers:
      return sum(map(jnp.mean, squares), jnp.zeros(()))
    return sum(map(jnp.sum, squares), jnp.zeros(())) / sum(x.size for x in squares)

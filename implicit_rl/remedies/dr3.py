"""DR3: keeps the features of consecutive states from becoming similar."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.remedies.base import LossTerm
from implicit_rl.remedies.forward import features_of, outputs_next, outputs_now
from implicit_rl.types import Batch, LossAux, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DR3(LossTerm):
  """Adds weight · mean |φ(s)·φ(s′)|, of critics φ(s, a)·φ(s′, a′) (Kumar et al., 2022).

  The absolute value is as in Dopamine's code; with ReLU the product is never negative. Transitions
  without a next state count as 0.

  Attributes:
    weight: c; 0.1 is Dopamine's.
  """

  weight: float = 0.1

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
    """Returns the mean product [], summed over critics."""
    pairs = zip(
      features_of(outputs_now(context, params, batch, aux)),
      features_of(outputs_next(context, params, batch)),
      strict=True,
    )
    products = sum(jnp.abs(jnp.sum(now * following, axis=-1)) for now, following in pairs)  # [B]
    return jnp.mean(batch.discount * products)

"""L2-init pulls the parameters towards their initial values."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax

from implicit_rl.context import Context, trained
from implicit_rl.remedies.base import LossTerm
from implicit_rl.types import Batch, LossAux, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class L2Init(LossTerm):
  """Adds weight · ‖θ − θ₀‖², the square of the norm (Kumar et al., 2023).

  Single numbers, such as a learnt temperature, are left out.

  Attributes:
    weight: λ.
  """

  weight: float = 1e-3

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Returns θ₀."""
    del context, key
    return params

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
    """Returns the squared distance []."""
    apart = jax.tree.map(
      lambda p, q: p - q if p.ndim else jnp.zeros(()), trained(params), trained(extra)
    )
    return optax.tree.norm(apart, squared=True)

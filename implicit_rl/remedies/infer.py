"""InFeR, initial feature regularisation: features keep predicting what the initial features do."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.remedies.base import LossTerm
from implicit_rl.remedies.forward import features_of, outputs_at, outputs_now
from implicit_rl.types import Batch, LearnerState, LossAux, Metrics, Params, PRNGKey

_INITIAL = jax.nn.initializers.lecun_normal()


class InitialFeatures(NamedTuple):
  """State of InFeR.

  Attributes:
    params: θ₀, the whole network's.
    targets: the initial heads, which never change.
    heads: g_i, which are trained.
    optimizer_state: of the agent's optimiser, for the heads.
  """

  params: Params
  targets: Params
  heads: Params
  optimizer_state: Any


@gin.configurable
@dataclasses.dataclass(frozen=True)
class InFeR(LossTerm):
  """Adds weight · mean Σ_i (g_i(φ) − β · g_i⁰(φ⁰))² over k linear heads (Lyle et al., 2022).

  Features φ⁰ and heads g⁰ are those before the first update. The heads g_i are trained too, by the
  agent's optimiser, one step after each step of the network.

  Attributes:
    weight: α.
    heads: k.
    scale: β.
  """

  weight: float = 0.1
  heads: int = 10
  scale: float = 100.0

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('InFeR.heads', self.heads, whole=True, least=1)
    check_number('InFeR.scale', self.scale, above=0)

  def init(self, context: Context, params: Params, key: PRNGKey) -> InitialFeatures:
    """Returns θ₀ and the first heads."""
    if context.batch is None:
      raise ValueError("InFeR needs `context.batch`, the shapes and dtypes of an update's batch.")
    outputs = jax.eval_shape(
      lambda params, batch: outputs_at(context, params, batch.state, batch.action),
      params,
      context.batch,
    )
    heads: Params = {
      # Optimisers may depend on a parameter's name: these belong to the critics.
      f'critic_heads_{number}': {
        'kernel': _INITIAL(jax.random.fold_in(key, number), (phi.shape[-1], self.heads)),
        'bias': jnp.zeros(self.heads),
      }
      for number, phi in enumerate(features_of(outputs))
    }
    heads = {'params': heads}
    return InitialFeatures(params, heads, heads, context.optimizer.init(heads))

  def term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: InitialFeatures,
  ) -> jax.Array:
    """Returns the mean over the batch of the summed squares [], summed over critics."""
    now = features_of(outputs_now(context, params, batch, aux))
    return self._distance(extra.heads, now, self._targets(context, batch, extra))

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Moves the heads by one step; see `Remedy.after_update`."""
    del key
    own: Any = state.extra
    now = features_of(outputs_at(context, state.params, batch.state, batch.action))
    targets = self._targets(context, batch, own)
    slopes = jax.grad(lambda heads: self.weight * self._distance(heads, now, targets))(own.heads)
    changes, moments = context.optimizer.update(slopes, own.optimizer_state, own.heads)
    own = own._replace(heads=optax.apply_updates(own.heads, changes), optimizer_state=moments)
    return state._replace(extra=own), {}

  def _targets(self, context: Context, batch: Batch, own: InitialFeatures) -> list[jax.Array]:
    """β · g⁰(φ⁰), [B, k] for each critic."""
    first = features_of(outputs_at(context, own.params, batch.state, batch.action))
    return [self.scale * values for values in _apply(own.targets, first)]

  def _distance(
    self, heads: Params, features: list[jax.Array], targets: list[jax.Array]
  ) -> jax.Array:
    pairs = zip(_apply(heads, features), targets, strict=True)
    return sum((jnp.mean(jnp.sum(jnp.square(x - y), axis=-1)) for x, y in pairs), jnp.zeros(()))


def _apply(heads: Params, features: list[jax.Array]) -> list[jax.Array]:
  """Features [B, d] of each critic -> its heads' values [B, k]."""
  layers = [heads['params'][f'critic_heads_{number}'] for number in range(len(features))]
  pairs = zip(features, layers, strict=True)
  return [phi @ layer['kernel'] + layer['bias'][None] for phi, layer in pairs]

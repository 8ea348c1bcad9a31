"""C-CHAIN reduces the change of values on states that are not in the update's batch."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.logs.running_means import SKIPPED
from implicit_rl.remedies.base import Remedy
from implicit_rl.remedies.forward import outputs_at
from implicit_rl.types import Array, Batch, LearnerState, LossAux, Metrics, Params, PRNGKey

_TINY = 1e-8  # As in the authors' code.
_FIRST = 2  # The first update, counted from 0, that has a second batch.


class Reference(NamedTuple):
  """A batch that is compared later, and its values.

  Attributes:
    state: [B, S, ...].
    action: [B], or [B, A].
    q_values: [B, A], or [B, K] of K critics.
  """

  state: Array
  action: Array
  q_values: Array


class Churn(NamedTuple):
  """State of C-CHAIN.

  Attributes:
    due: compared at the next update: the batch of two updates ago, with its values before the last
      update.
    later: compared at the update after that.
    updates: [] int32, number of updates in the means.
    loss: [] mean of the agent's loss.
    churn: [] mean of the term.
  """

  due: Reference
  later: Reference
  updates: jax.Array
  loss: jax.Array
  churn: jax.Array


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CChain(Remedy):
  """Adds λ · mean (Q(s, ·) − Q⁻(s, ·))² on a second batch (Tang et al., 2025).

  Q⁻ is the network one update ago. The second batch is used neither in this update nor in the last
  one: it is the batch of two updates ago. The authors sample another batch instead.

  λ is `first_weight` until `warm_up` updates are done, then ratio · (mean loss) / (mean term). The
  authors average over the last 50,000 updates. Here both means are arithmetic for the first
  `window` updates, and exponential afterwards.

  Attributes:
    ratio: of the weighted term to the agent's loss, Losses/TD; 0 removes the term.
    first_weight: λ before the means are used.
    warm_up: gradient updates until then.
    window: gradient updates that the means cover.
  """

  ratio: float = 0.01
  first_weight: float = 50.0
  warm_up: int = 10_000  # gradient updates
  window: int = 50_000  # gradient updates

  def __post_init__(self):
    """Checks the settings."""
    check_number('CChain.ratio', self.ratio, least=0)
    check_number('CChain.first_weight', self.first_weight, least=0)
    check_number('CChain.warm_up', self.warm_up, whole=True, least=0)
    check_number('CChain.window', self.window, whole=True, least=1)

  @property
  def active(self) -> bool:
    """Whether the ratio is above 0."""
    return self.ratio > 0

  def init(self, context: Context, params: Params, key: PRNGKey) -> Churn:
    """Returns an initial state.

    Raises:
      ValueError: if the agent's loss is not a TD loss, or the context has no batch shapes.
    """
    if context.batch is None:
      raise ValueError("CChain needs `context.batch`, the shapes and dtypes of an update's batch.")
    _, aux = jax.eval_shape(context.loss, params, params, context.batch, key)
    if 'Losses/TD' not in aux.metrics:
      raise ValueError(
        'CChain.ratio is relative to the metric Losses/TD, which this agent does not report: bind '
        'CChain.ratio = 0.0, or choose an agent with a TD loss.'
      )
    shapes = jax.eval_shape(lambda *given: _reference(context, *given), params, context.batch)
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    zero = jnp.zeros(())
    return Churn(empty, empty, jnp.zeros((), jnp.int32), zero, zero)

  def loss_term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: Churn,
  ) -> tuple[jax.Array, Metrics]:
    """See `Remedy.loss_term`."""
    due = extra.due
    now = outputs_at(context, params, due.state, due.action).q_values
    known = extra.updates >= _FIRST
    churn = jnp.where(known, jnp.mean(jnp.square(now - due.q_values)), 0)
    adapted = self.ratio * extra.loss / (extra.churn + _TINY)
    ready = extra.updates >= max(self.warm_up, _FIRST + 1)
    weight = jnp.where(ready, adapted, self.first_weight)
    return weight * churn, {'Losses/CChain': churn, 'CChain/Weight': weight}

  def observe(self, extra: Churn, metrics: Metrics) -> Churn:
    """Adds the losses of an update that was not skipped to their means."""

    def follow(mean: jax.Array, name: str, count: jax.Array) -> jax.Array:
      rate = 1 / jnp.clip(count, 1, self.window)
      return jnp.where(count > 0, mean + rate * (metrics[name] - mean), mean)

    updates = extra.updates + 1
    seen = extra._replace(
      updates=updates,
      loss=follow(extra.loss, 'Losses/TD', updates),
      churn=follow(extra.churn, 'Losses/CChain', updates - _FIRST),
    )
    skipped = metrics.get(SKIPPED, jnp.zeros(())) > 0
    return jax.tree.map(lambda old, new: jnp.where(skipped, old, new), extra, seen)

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Remembers this batch and its values; see `Remedy.after_update`."""
    del key
    own: Any = state.extra
    later = _reference(context, state.params, batch)
    later = jax.tree.map(lambda new, old: new.astype(old.dtype), later, own.later)
    own = own._replace(due=own.later, later=later)
    return state._replace(extra=own), {}


def _reference(context: Context, params: Params, batch: Batch) -> Reference:
  values = outputs_at(context, params, batch.state, batch.action).q_values
  return Reference(jnp.asarray(batch.state), jnp.asarray(batch.action), values)

"""Churn: how much a few updates change the values of states outside their batches."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp
import optax

from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first, q_values
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey


def after_updates(
  context: Context,
  state: LearnerState,
  batch: Batch,
  key: PRNGKey,
  updates: int,
  batch_size: int,
) -> Params:
  """Returns the parameters after further updates by the agent's loss and optimiser alone.

  Args:
    context: see `Context`.
    state: the state before these updates.
    batch: transitions that minibatches are drawn from.
    key: draws the minibatches.
    updates: how many.
    batch_size: transitions in each.
  """

  def update(carry, key):
    params, optimizer_state = carry
    draw_key, loss_key = jax.random.split(key)
    rows = jax.random.randint(draw_key, (batch_size,), 0, len(batch.reward))
    some = jax.tree.map(lambda x: jnp.asarray(x)[rows], batch)
    loss = lambda params: context.loss(params, state.target_params, some, loss_key)[0]
    changes, optimizer_state = context.optimizer.update(
      jax.grad(loss)(params), optimizer_state, params
    )
    return (optax.apply_updates(params, changes), optimizer_state), None

  keys = jax.random.split(key, updates)
  (params, _), _ = jax.lax.scan(update, (state.params, state.optimizer_state), keys)
  return params


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Churn(Diagnostic):
  """Changes on half of the fixed transitions by updates on the other half (Tang and Berseth, 2024).

  Attributes:
    period: iterations between two measurements.
    updates: number of updates, by the agent's loss without penalty and remedies; they are not kept.
    batch_size: transitions in each.
    states: at most this many transitions in both halves.
  """

  period: int = 1
  updates: int = 16
  batch_size: int = 32
  states: int = 2048

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `churn_values`, mean |ΔQ|, and `churn_actions`, the share of changed greedy ones."""
    batch = first(batch, self.states)
    half = len(batch.reward) // 2
    trained = jax.tree.map(lambda x: x[:half], batch)
    held = jax.tree.map(lambda x: x[half:], batch)
    params = after_updates(context, state, trained, key, self.updates, self.batch_size)
    before, after = (q_values(context, p, held) for p in (state.params, params))
    found = {'churn_values': jnp.mean(jnp.abs(after - before))}
    if jnp.ndim(batch.action) == 1:
      changed = jnp.argmax(after, axis=1) != jnp.argmax(before, axis=1)
      sound = jnp.all(jnp.isfinite(after)) & jnp.all(jnp.isfinite(before))
      found['churn_actions'] = jnp.where(sound, jnp.mean(changed), jnp.nan)
    return found

"""The gridworld's only loss: regression to targets computed before the fitting iteration.

Algorithm 1 of the paper computes the targets y_k once and then takes T gradient steps towards them.
So every variant (soft or hard backup, supervised, exact policy values, Monte Carlo, policy
evaluation) is the same loss with other targets, and the next states need no forward pass.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from implicit_rl.losses import value_regression
from implicit_rl.types import Apply, Batch, LossAux, Params, PRNGKey


def fitted_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
) -> tuple[jax.Array, LossAux]:
  """The mean of (Q(s, a) - y)², with y in `batch.reward`.

  Args:
    params: online parameters.
    target_params: unused; the targets contain the target network's values.
    batch: `reward` holds the targets [B]; `next_state`, `next_action` and `discount` are not read.
    key: unused.
    apply: `apply(params, state) -> QOutputs`.

  Returns:
    [] loss, LossAux.
  """
  del target_params, key
  outputs = apply(params, batch.state)
  q_tm1 = jnp.take_along_axis(outputs.q_values, batch.action[:, None], axis=1)[:, 0]  # [B]
  target_tm1, weight = jnp.asarray(batch.reward), jnp.asarray(batch.weight)
  loss = value_regression(q_tm1, target_tm1, weight, 'mse')
  metrics = {'Losses/TD': loss, 'Q/Mean': jnp.mean(outputs.q_values)}
  return loss, LossAux(outputs=outputs, td_error=target_tm1 - q_tm1, metrics=metrics)

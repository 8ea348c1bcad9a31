"""Conservative Q-learning for discrete actions, on any value loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from implicit_rl.losses.temporal_difference import take_actions
from implicit_rl.types import Batch, Loss, LossAux, Params, PRNGKey


def cql_loss(
  params: Params, target_params: Params, batch: Batch, key: PRNGKey, *, loss: Loss, weight: float
) -> tuple[jax.Array, LossAux]:
  """A value loss plus w·(logsumexp_a Q(s, a) − Q(s, a_data)) (Kumar et al., 2020, eq. 4, CQL(H)).

  On a distributional or an HL-Gauss head Q is the mean, as in the authors' Atari code.

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`.
    key: passed to the value loss.
    loss: the value loss: DQN's, C51's or QR-DQN's.
    weight: w; 0 gives the value loss.

  Returns:
    [] loss, LossAux.
  """
  value, aux = loss(params, target_params, batch, key)
  q_values = aux.outputs.q_values
  gap = jax.nn.logsumexp(q_values, axis=-1) - take_actions(q_values, batch.action)  # [B]
  conservative = jnp.mean(batch.weight * gap)
  metrics = {**aux.metrics, 'Losses/CQL': conservative}
  return value + weight * conservative, aux._replace(metrics=metrics)

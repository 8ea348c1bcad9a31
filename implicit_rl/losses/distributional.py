"""Losses of many values per action: C51, QR-DQN and the random ensemble mixture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from implicit_rl.losses.temporal_difference import (
  TargetRange,
  bellman_target,
  bootstrap,
  regression_loss,
  take_actions,
)
from implicit_rl.types import Apply, Array, Batch, LossAux, Params, PRNGKey


def project_categorical(returns: Array, probabilities: Array, support: Array) -> jax.Array:
  """Projects distributions onto a fixed support (Bellemare et al., 2017, eq. 7).

  Each return's probability is shared among its two neighbours in the support, more for the nearer
  one. Returns beyond the support are clipped to its ends.

  Args:
    returns: [B, K'].
    probabilities: [B, K'].
    support: [K], evenly spaced and increasing.

  Returns:
    [B, K] probabilities.
  """
  support = jnp.asarray(support)
  spacing = support[1] - support[0]
  clipped = jnp.clip(returns, support[0], support[-1])[..., None]  # [B, K', 1]
  share = jnp.clip(1 - jnp.abs(clipped - support[None, None, :]) / spacing, 0, 1)  # [B, K', K]
  return jnp.einsum('bi,bij->bj', probabilities, share)


def c51_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  discount: float,
  double: bool = False,
  target_range: TargetRange | None = None,
) -> tuple[jax.Array, LossAux]:
  """Cross-entropy of the projected target distribution (Bellemare et al., 2017, algorithm 1).

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`.
    key: unused; part of every loss's signature.
    apply: `apply(params, state) -> CategoricalOutputs`.
    discount: γⁿ.
    double: choose the next action with the online network.
    target_range: of the target's returns, before they are projected; see `bellman_target`.

  Returns:
    [] loss, LossAux; `td_error` is the difference of the distributions' means.
  """
  del key
  outputs, next_outputs, selector_t = bootstrap(params, target_params, batch, apply, double)
  support = outputs.support
  p_t = take_actions(jax.nn.softmax(next_outputs.logits), jnp.argmax(selector_t, axis=-1))
  discount_t = discount * jnp.asarray(batch.discount)
  returns, clipped = bellman_target(
    jnp.asarray(batch.reward)[:, None], discount_t[:, None], support[None, :], target_range
  )
  target_tm1 = jax.lax.stop_gradient(project_categorical(returns, p_t, support))  # [B, K]
  logits_tm1 = take_actions(outputs.logits, batch.action)
  cross_entropy = optax.softmax_cross_entropy(logits_tm1, target_tm1)  # [B]
  loss = jnp.mean(batch.weight * cross_entropy)
  td_error = target_tm1 @ support - take_actions(outputs.q_values, batch.action)
  metrics = {'Losses/TD': loss, 'Q/Mean': jnp.mean(outputs.q_values), **clipped}
  priority = jnp.sqrt(cross_entropy + 1e-10)  # Dopamine's Rainbow (Castro et al., 2018).
  return loss, LossAux(outputs, td_error, metrics, priority)


def quantile_huber_loss(quantiles: Array, targets: Array, kappa: float = 1.0) -> jax.Array:
  """Quantile Huber loss: a sum over quantiles, a mean over targets (Dabney et al., 2018, eq. 10).

  Args:
    quantiles: [B, N] predictions at the levels (i + ½)/N.
    targets: [B, N'] samples of the target distribution.
    kappa: κ, the error at which the loss changes from quadratic to linear; above 0.

  Returns:
    [B].
  """
  quantiles, targets = jnp.asarray(quantiles), jnp.asarray(targets)
  n = quantiles.shape[-1]
  levels = (jnp.arange(n) + 0.5) / n
  u = targets[:, None, :] - quantiles[:, :, None]  # [B, N, N']
  tilt = jnp.abs(levels[None, :, None] - (jax.lax.stop_gradient(u) < 0))
  return jnp.sum(jnp.mean(tilt * optax.huber_loss(u, delta=kappa), axis=-1), axis=-1)


def qr_dqn_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  discount: float,
  double: bool = False,
  kappa: float = 1.0,
  target_range: TargetRange | None = None,
) -> tuple[jax.Array, LossAux]:
  """Quantile regression of the Bellman target's quantiles (Dabney et al., 2018, algorithm 1).

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`.
    key: unused; part of every loss's signature.
    apply: `apply(params, state) -> QuantileOutputs`.
    discount: γⁿ.
    double: choose the next action with the online network.
    kappa: κ of the Huber loss.
    target_range: of the target's quantiles, see `bellman_target`.

  Returns:
    [] loss, LossAux; `td_error` is the difference of the quantiles' means.
  """
  del key
  outputs, next_outputs, selector_t = bootstrap(params, target_params, batch, apply, double)
  z_t = take_actions(next_outputs.quantiles, jnp.argmax(selector_t, axis=-1))  # [B, N]
  discount_t = discount * jnp.asarray(batch.discount)
  target_tm1, clipped = bellman_target(
    jnp.asarray(batch.reward)[:, None], discount_t[:, None], z_t, target_range
  )
  z_tm1 = take_actions(outputs.quantiles, batch.action)
  loss = jnp.mean(batch.weight * quantile_huber_loss(z_tm1, target_tm1, kappa))
  td_error = jnp.mean(target_tm1, axis=-1) - take_actions(outputs.q_values, batch.action)
  metrics = {'Losses/TD': loss, 'Q/Mean': jnp.mean(outputs.q_values), **clipped}
  return loss, LossAux(outputs=outputs, td_error=td_error, metrics=metrics)


def rem_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  discount: float,
  error_loss: str = 'huber',
  target_range: TargetRange | None = None,
) -> tuple[jax.Array, LossAux]:
  """DQN's loss of a random convex combination of N values per action (Agarwal et al., 2020, eq. 6).

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`.
    key: draws the combination, one for the batch: uniform numbers divided by their sum.
    apply: `apply(params, state) -> QuantileOutputs`, whose N numbers are the ensemble here.
    discount: γⁿ.
    error_loss: 'huber' or 'mse'.
    target_range: see `bellman_target`.

  Returns:
    [] loss, LossAux; `td_error` is that of the combination, `q_values` are the ensemble's means.
  """
  outputs = apply(params, batch.state)
  q_t = apply(target_params, batch.next_state).quantiles  # [B, A, N]
  share = jax.random.uniform(key, q_t.shape[-1:])
  share = share / jnp.sum(share)
  value_t = jnp.max(q_t @ share, axis=-1)
  target_tm1, clipped = bellman_target(
    batch.reward, discount * batch.discount, value_t, target_range
  )
  mixed = outputs._replace(q_values=outputs.quantiles @ share)
  loss, aux = regression_loss(mixed, target_tm1, batch, error_loss)
  return loss, aux._replace(outputs=outputs, metrics={**aux.metrics, **clipped})

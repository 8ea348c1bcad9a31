"""Soft actor-critic for continuous actions.

One objective for all parameters. Each part stops the gradients to other parts, and Adam updates
every parameter by its own gradient only. One optimiser of the sum is therefore equal to three
optimisers of the parts. All parts use the parameters from before the update.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_rl.losses import tanh_gaussian
from implicit_rl.losses.temporal_difference import TargetRange, bellman_target
from implicit_rl.types import Apply, Batch, CriticOutputs, LossAux, Params, PRNGKey


class SACNoise(NamedTuple):
  """Standard normal numbers [B, A] for one action in each state and one in each next state."""

  now: jax.Array
  following: jax.Array


def sac_loss(
  params: Params, target_params: Params, batch: Batch, key: PRNGKey, **settings: Any
) -> tuple[jax.Array, LossAux]:
  """Soft actor-critic; draws the policy's actions with `key` and applies `sac_terms`."""
  noise = SACNoise(*jax.random.normal(key, (2, *batch.action.shape)))
  return sac_terms(params, target_params, batch, noise, **settings)


def sac_terms(
  params: Params,
  target_params: Params,
  batch: Batch,
  noise: SACNoise,
  *,
  apply: Apply,
  discount: float,
  target_entropy: float,
  temperature: float | None = None,
  entropy_in_target: bool = True,
  target_range: TargetRange | None = None,
) -> tuple[jax.Array, LossAux]:
  """Soft actor-critic (Haarnoja et al., 2018b): critics, policy and temperature.

  Args:
    params: online parameters.
    target_params: target network's parameters; only its critics are used.
    batch: see `Batch`; actions [B, A] float32.
    noise: the random numbers of the policy's actions.
    apply: `ActorCritic.apply` or one with the same methods.
    discount: γⁿ.
    target_entropy: entropy of the policy to which the temperature is adapted.
    temperature: α, fixed; None learns it.
    entropy_in_target: whether the target contains the next action's entropy.
    target_range: see `bellman_target`.

  Returns:
    [] loss, LossAux: `CriticOutputs` on the batch's own actions, TD errors [B, K].
  """
  log_alpha = apply(params, method='log_temperature')
  alpha = jax.lax.stop_gradient(jnp.exp(log_alpha)) if temperature is None else temperature

  # Critics: regression to r + γⁿ·d·(min_k Q⁻_k(s', a') − α·log π(a'|s')), eq. 5 and 6.
  next_gaussian = apply(params, batch.next_state, method='actor')
  next_action, next_log_prob = tanh_gaussian.sample(next_gaussian, noise.following)
  q_t = apply(target_params, batch.next_state, next_action, method='critics').q_values
  value_t = jnp.min(q_t, axis=-1)
  if entropy_in_target:
    value_t = value_t - alpha * next_log_prob
  target_tm1, clipped = bellman_target(
    batch.reward, discount * batch.discount, value_t, target_range
  )  # [B]
  outputs: CriticOutputs = apply(params, batch.state, batch.action, method='critics')
  td_error = jnp.subtract(target_tm1[:, None], outputs.q_values)  # [B, K]
  critic_loss = jnp.sum(jnp.mean(jnp.asarray(batch.weight)[:, None] * td_error**2, axis=0))

  # Policy: minimise α·log π(a|s) − min_k Q_k(s, a) for the policy's action a, eq. 9.
  action, log_prob = tanh_gaussian.sample(apply(params, batch.state, method='actor'), noise.now)
  frozen = jax.lax.stop_gradient(params)
  q_policy = jnp.min(apply(frozen, batch.state, action, method='critics').q_values, axis=-1)
  actor_loss = jnp.mean(alpha * log_prob - q_policy)

  # Temperature: eq. 18, in log α as in the authors' code.
  entropy = -jnp.mean(log_prob)
  temperature_loss = log_alpha * jax.lax.stop_gradient(entropy - target_entropy)
  loss = critic_loss + actor_loss
  if temperature is None:
    loss = loss + temperature_loss
  metrics = {
    'Losses/TD': critic_loss,
    'Losses/Actor': actor_loss,
    'Q/Mean': jnp.mean(outputs.q_values),
    'Policy/Entropy': entropy,
    'Policy/Temperature': jnp.asarray(alpha, jnp.float32),
    **clipped,
  }
  priority = jnp.mean(jnp.abs(td_error), axis=-1)
  return loss, LossAux(outputs, td_error, metrics, priority)

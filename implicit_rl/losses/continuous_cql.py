"""Conservative Q-learning for continuous actions: SAC's loss plus the critics' conservative gap."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from implicit_rl.losses import tanh_gaussian
from implicit_rl.types import Apply, Batch, Loss, LossAux, Params, PRNGKey

_MOST_MULTIPLIER = 1e6  # As in the authors' code.


class CQLNoise(NamedTuple):
  """Numbers [N, B, A] for N actions of each kind in each state.

  Attributes:
    uniform: uniform in [−1, 1]; these are the actions.
    now: standard normal, for the policy's actions in the state.
    following: standard normal, for the policy's actions in the next state.
  """

  uniform: jax.Array
  now: jax.Array
  following: jax.Array


def continuous_cql_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  loss: Loss,
  weight: float,
  num_samples: int = 10,
  threshold: float | None = None,
) -> tuple[jax.Array, LossAux]:
  """SAC's loss plus w·Σ_k gap_k, or plus λ·w·Σ_k (gap_k − τ) with a multiplier λ that is learnt.

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`; actions [B, A] float32 in [−1, 1].
    key: draws the actions; SAC's loss gets another key.
    apply: `ActorCritic.apply`; with a threshold, of a network that has `lagrange` set.
    loss: SAC's.
    weight: w of each critic's gap, see `conservative_gap`; 0 gives SAC's loss if τ is None.
    num_samples: N actions of each of the three kinds.
    threshold: τ, the gap that λ aims at (Kumar et al., 2020, eq. 30); None fixes λ at 1.

  Returns:
    [] loss, LossAux.
  """
  loss_key, *keys = jax.random.split(key, 4)
  value, aux = loss(params, target_params, batch, loss_key)
  shape = (num_samples, *batch.action.shape)
  noise = CQLNoise(
    jax.random.uniform(keys[0], shape, minval=-1.0),
    jax.random.normal(keys[1], shape),
    jax.random.normal(keys[2], shape),
  )
  gap = conservative_gap(params, batch, noise, aux.outputs.q_values, apply=apply)  # [K]
  term, metrics = conservative_terms(params, gap, apply=apply, weight=weight, threshold=threshold)
  return value + term, aux._replace(metrics={**aux.metrics, **metrics})


def conservative_terms(
  params: Params, gap: jax.Array, *, apply: Apply, weight: float, threshold: float | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the term of the critics' gaps [K], and metrics; see `continuous_cql_loss`."""
  conservative = jnp.sum(gap)
  metrics = {'Losses/CQL': conservative}
  if threshold is None:
    return weight * conservative, metrics
  multiplier = jnp.clip(jnp.exp(apply(params, method='log_multiplier')), 0, _MOST_MULTIPLIER)
  held, fixed = jax.lax.stop_gradient((multiplier, gap))
  term = held * weight * jnp.sum(gap - threshold)
  term = term - multiplier * weight * jnp.mean(fixed - threshold)  # λ rises if gap > τ.
  return term, {**metrics, 'CQL/Multiplier': multiplier}


def conservative_gap(
  params: Params, batch: Batch, noise: CQLNoise, q_data: jax.Array, *, apply: Apply
) -> jax.Array:
  """Returns the critics' soft maximum minus their values of the data (Kumar et al., 2020).

  The soft maximum log Σ_a exp Q(s, a) is estimated by importance sampling from three proposals, N
  actions each: uniform actions, the policy's in the state, and the policy's in the next state. Each
  is divided by its density (appendix F). No gradient reaches the policy.

  Args:
    params: online parameters.
    batch: states, next states and weights.
    noise: see `CQLNoise`.
    q_data: [B, K], the critics' values of the batch's actions.
    apply: see `sac_loss`.

  Returns:
    [K], the weighted mean over the batch for each critic.
  """
  count, size, length = noise.uniform.shape  # N, B, A
  actions, log_densities = [noise.uniform], [jnp.full((count, size), -length * math.log(2.0))]
  for state, drawn in ((batch.state, noise.now), (batch.next_state, noise.following)):
    gaussian = apply(jax.lax.stop_gradient(params), state, method='actor')
    action, log_prob = tanh_gaussian.sample(gaussian, drawn)
    actions.append(action)
    log_densities.append(log_prob)
  action = jnp.concatenate(actions)  # [3N, B, A]
  state = jnp.broadcast_to(jnp.asarray(batch.state)[None], (3 * count, *batch.state.shape))
  flat = (x.reshape(-1, *x.shape[2:]) for x in (state, action))  # [3N·B, ...]
  q_values = apply(params, *flat, method='critics').q_values.reshape(3 * count, size, -1)
  soft_maximum = jax.nn.logsumexp(q_values - jnp.concatenate(log_densities)[..., None], axis=0)
  return jnp.mean(jnp.asarray(batch.weight)[:, None] * (soft_maximum - q_data), axis=0)

"""Regression of Q(s, a) to a target, and DQN's target."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from implicit_rl.losses.histogram import histogram_loss
from implicit_rl.losses.munchausen import Munchausen
from implicit_rl.types import Apply, Array, Batch, HistogramOutputs, LossAux, Params, PRNGKey

# The smallest and the largest target; others are clipped.
TargetRange = tuple[float, float]

_ELEMENTWISE = {'huber': optax.huber_loss, 'mse': optax.squared_error}


def take_actions(values: Array, actions: Array) -> jax.Array:
  """Returns the entries of `values` [B, A, ...] for `actions` [B]: [B, ...]."""
  values, actions = jnp.asarray(values), jnp.asarray(actions)
  index = actions.reshape(-1, *[1] * (values.ndim - 1))
  return jnp.take_along_axis(values, index, axis=1)[:, 0]


def bellman_target(
  reward: Array, discount_t: Array, value_t: Array, target_range: TargetRange | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the n-step Bellman target r + γⁿ·d·V_t, clipped if there is a target range.

  Args:
    reward: [B] n-step rewards, or [B, 1].
    discount_t: γⁿ, 0 where the episode terminated within the horizon; shaped like `reward`.
    value_t: [B] values of the next state, or [B, N] of its distribution.
    target_range: smallest and largest target; None does not clip.

  Returns:
    Targets that pass no gradient, shaped like `value_t`, and metrics: the share of clipped targets.
  """
  target = jax.lax.stop_gradient(jnp.add(reward, discount_t * value_t))
  if target_range is None:
    return target, {}
  clipped = jnp.clip(target, *target_range)
  return clipped, {'Targets/Clipped': jnp.mean(clipped != target)}


def bootstrap(
  params: Params, target_params: Params, batch: Batch, apply: Apply, double: bool
) -> tuple[Any, Any, jax.Array]:
  """Evaluates the networks for a Q-learning target.

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: its states and next states.
    apply: `apply(params, state) -> outputs` with `q_values`.
    double: choose the next action with the online network (van Hasselt et al., 2016).

  Returns:
    The online network's outputs on the states, the target network's outputs on the next states, and
    the values of the next states that choose the action [B, A].
  """
  outputs = apply(params, batch.state)
  next_outputs = apply(target_params, batch.next_state)
  selector_t = apply(params, batch.next_state).q_values if double else next_outputs.q_values
  return outputs, next_outputs, selector_t


def value_regression(prediction: Array, target: Array, weight: Array, error_loss: str) -> jax.Array:
  """The importance-weighted mean elementwise loss.

  Args:
    prediction: [B].
    target: [B].
    weight: [B] importance weights.
    error_loss: 'huber' (0.5·x² up to |x| = 1, then linear) or 'mse' (x², as in Dopamine).

  Returns:
    [] the loss.

  Raises:
    ValueError: for another `error_loss`.
  """
  if error_loss not in _ELEMENTWISE:
    raise ValueError(f"error_loss must be 'huber' or 'mse', got {error_loss!r}.")
  return jnp.mean(weight * _ELEMENTWISE[error_loss](prediction, target))


def regression_loss(
  outputs: Any, target_tm1: jax.Array, batch: Batch, error_loss: str, name: str = 'TD'
) -> tuple[jax.Array, LossAux]:
  """Returns the loss of Q(s, a) against targets that pass no gradient, and its `LossAux`.

  Args:
    outputs: the network's outputs on `batch.state`; of an HL-Gauss head, the loss is its
      cross-entropy (`histogram_loss`).
    target_tm1: [B].
    batch: its actions and weights.
    error_loss: 'huber' or 'mse'; it has no effect with an HL-Gauss head.
    name: the loss's name in the metrics.

  Returns:
    [] loss, LossAux.
  """
  q_tm1 = take_actions(outputs.q_values, batch.action)
  metrics = {'Q/Mean': jnp.mean(outputs.q_values)}
  if isinstance(outputs, HistogramOutputs):
    edges, logits_tm1 = outputs.edges, take_actions(outputs.logits, batch.action)
    loss = jnp.mean(batch.weight * histogram_loss(logits_tm1, target_tm1, edges, outputs.sigma))
    beyond = (target_tm1 < edges[0]) | (target_tm1 > edges[-1])
    metrics['Targets/BeyondBins'] = jnp.mean(beyond)
  else:
    loss = value_regression(q_tm1, target_tm1, batch.weight, error_loss)
  metrics[f'Losses/{name}'] = loss
  return loss, LossAux(outputs=outputs, td_error=target_tm1 - q_tm1, metrics=metrics)


def dqn_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  discount: float,
  double: bool = False,
  error_loss: str = 'huber',
  munchausen: Munchausen | None = None,
  target_range: TargetRange | None = None,
) -> tuple[jax.Array, LossAux]:
  """The temporal-difference loss of DQN (Mnih et al., 2015), in the form of fitted Q-iteration.

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`.
    key: unused; part of every loss's signature.
    apply: `apply(params, state) -> QOutputs`.
    discount: γⁿ.
    double: choose the next action with the online network (double DQN).
    error_loss: 'huber' or 'mse'; see `regression_loss`.
    munchausen: None, or the settings of Munchausen DQN's target.
    target_range: see `bellman_target`.

  Returns:
    [] loss, LossAux.

  Raises:
    ValueError: for `double` with `munchausen`, whose target takes all next actions.
  """
  del key
  if munchausen is not None and double:
    raise ValueError(
      'double must be False with Agent.munchausen, whose target averages over the next actions '
      'instead of choosing one; got double = True.'
    )
  outputs, next_outputs, selector_t = bootstrap(params, target_params, batch, apply, double)
  reward, found = batch.reward, {}
  if munchausen is None:
    value_t = take_actions(next_outputs.q_values, jnp.argmax(selector_t, axis=-1))
  else:
    value_t = munchausen.value(next_outputs.q_values)
    bonus = munchausen.bonus(apply(target_params, batch.state).q_values)
    reward = reward + take_actions(bonus, batch.action)
    found['Munchausen/Bonus'] = jnp.mean(take_actions(bonus, batch.action))
  target_tm1, clipped = bellman_target(reward, discount * batch.discount, value_t, target_range)
  loss, aux = regression_loss(outputs, target_tm1, batch, error_loss)
  return loss, aux._replace(metrics={**aux.metrics, **found, **clipped})

"""Regression of Q(s, a) to a target, and DQN's target."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from implicit_rl.types import Apply, Array, Batch, LossAux, Params, PRNGKey

_ELEMENTWISE = {'huber': optax.huber_loss, 'mse': optax.squared_error}


def take_actions(values: Array, actions: Array) -> jax.Array:
  """What `values` [B, A, ...] holds for `actions` [B]: [B, ...]."""
  values, actions = jnp.asarray(values), jnp.asarray(actions)
  index = actions.reshape(-1, *[1] * (values.ndim - 1))
  return jnp.take_along_axis(values, index, axis=1)[:, 0]


def q_learning_target(reward: Array, discount_t: Array, q_t: Array, selector_t: Array) -> jax.Array:
  """The n-step Q-learning target r + γⁿ·d·Q_t[argmax_a selector_t].

  Args:
    reward: [B] n-step rewards.
    discount_t: [B] γⁿ, 0 where the episode terminated within the horizon.
    q_t: [B, A] the target network's values of the next state.
    selector_t: [B, A] the values that choose the action: `q_t` itself, or the online network's for
      double Q-learning (van Hasselt et al., 2016).

  Returns:
    [B] targets that pass no gradient.
  """
  value_t = take_actions(q_t, jnp.argmax(selector_t, axis=-1))
  return jax.lax.stop_gradient(jnp.add(reward, discount_t * value_t))


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
    The online network's outputs on the states, the target network's on the next states, and [B, A]
    the values of the next states that choose the action.
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
    ValueError: if `error_loss` is neither.
  """
  if error_loss not in _ELEMENTWISE:
    raise ValueError(f"error_loss is 'huber' or 'mse', not {error_loss!r}.")
  return jnp.mean(weight * _ELEMENTWISE[error_loss](prediction, target))


def regression_loss(
  outputs: Any, target_tm1: jax.Array, batch: Batch, error_loss: str, name: str = 'TD'
) -> tuple[jax.Array, LossAux]:
  """The loss of Q(s, a) against targets that pass no gradient, and what a loss returns beside it.

  Args:
    outputs: the network's outputs on `batch.state`.
    target_tm1: [B].
    batch: its actions and weights.
    error_loss: 'huber' or 'mse'.
    name: what the loss is called in the metrics.

  Returns:
    [] loss, LossAux.
  """
  q_tm1 = take_actions(outputs.q_values, batch.action)
  loss = value_regression(q_tm1, target_tm1, batch.weight, error_loss)
  metrics = {f'Losses/{name}': loss, 'Q/Mean': jnp.mean(outputs.q_values)}
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
    error_loss: 'huber' or 'mse'.

  Returns:
    [] loss, LossAux.
  """
  del key
  outputs, next_outputs, selector_t = bootstrap(params, target_params, batch, apply, double)
  discount_t = discount * batch.discount
  target_tm1 = q_learning_target(batch.reward, discount_t, next_outputs.q_values, selector_t)
  return regression_loss(outputs, target_tm1, batch, error_loss)

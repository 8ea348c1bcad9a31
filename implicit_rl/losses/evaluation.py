"""Losses that evaluate a given policy: fitted Q-evaluation and Monte Carlo regression."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from implicit_rl.losses.temporal_difference import (
  TargetRange,
  bellman_target,
  regression_loss,
  take_actions,
)
from implicit_rl.types import Apply, Array, Batch, LossAux, Params, PRNGKey

Policy = Callable[[Array], jax.Array]


def policy_probabilities(
  q_values: jax.Array, kind: str, *, epsilon: float = 0.0, temperature: float = 1.0
) -> jax.Array:
  """Returns the action probabilities of a policy that is derived from values.

  Args:
    q_values: [B, A].
    kind: 'greedy', 'epsilon_greedy' or 'softmax'. Ties go to the first of the best actions.
    epsilon: probability of a uniformly drawn action, for 'epsilon_greedy'.
    temperature: of the softmax, above 0.

  Returns:
    [B, A] float32, rows sum to 1.

  Raises:
    ValueError: for another kind.
  """
  if kind == 'softmax':
    return jax.nn.softmax(q_values / temperature)
  if kind not in ('greedy', 'epsilon_greedy'):
    raise ValueError(f"The policy must be 'greedy', 'epsilon_greedy' or 'softmax', got {kind!r}.")
  actions = q_values.shape[-1]
  greedy = jax.nn.one_hot(jnp.argmax(q_values, axis=-1), actions)
  return greedy if kind == 'greedy' else (1 - epsilon) * greedy + epsilon / actions


def fqe_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  discount: float,
  policy: Policy | None = None,
  error_loss: str = 'mse',
  target_range: TargetRange | None = None,
) -> tuple[jax.Array, LossAux]:
  """Fitted Q-evaluation: regression to r + γⁿ·E_{a∼π} Q_target(s', a) (Le et al., 2019).

  Args:
    params: online parameters.
    target_params: target network's parameters.
    batch: see `Batch`.
    key: unused; part of every loss's signature.
    apply: `apply(params, state) -> QOutputs`.
    discount: γⁿ.
    policy: `policy(states) -> probabilities [B, A]`; None is the policy that made the data, of
      which the logged next action is a sample.
    error_loss: 'huber' or 'mse'. Only 'mse' has the policy's value as its minimum where rewards,
      transitions or next actions are random.
    target_range: see `bellman_target`.

  Returns:
    [] loss, LossAux; the metric `Q/Policy` is the policy's value, averaged over the batch's states.
  """
  del key
  outputs = apply(params, batch.state)
  q_t = apply(target_params, batch.next_state).q_values
  if policy is None:
    value_t = take_actions(q_t, batch.next_action)
    value_tm1 = take_actions(outputs.q_values, batch.action)
  else:
    value_t = jnp.sum(policy(batch.next_state) * q_t, axis=-1)
    value_tm1 = jnp.sum(policy(batch.state) * outputs.q_values, axis=-1)
  target_tm1, clipped = bellman_target(
    batch.reward, discount * batch.discount, value_t, target_range
  )
  loss, aux = regression_loss(outputs, target_tm1, batch, error_loss)
  metrics = {**aux.metrics, 'Q/Policy': jnp.mean(value_tm1), **clipped}
  return loss, aux._replace(metrics=metrics)


def monte_carlo_loss(
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  apply: Apply,
  error_loss: str = 'mse',
) -> tuple[jax.Array, LossAux]:
  """Regression to the logged discounted return: no bootstrapping, no target network.

  Args:
    params: online parameters.
    target_params: unused.
    batch: see `Batch`; `return_to_go` is required.
    key: unused.
    apply: `apply(params, state) -> QOutputs`.
    error_loss: 'huber' or 'mse'; only the latter has the expected return as its minimum.

  Returns:
    [] loss, LossAux; `td_error` is return minus prediction.

  Raises:
    ValueError: if the batch has no returns.
  """
  del target_params, key
  if batch.return_to_go is None:
    raise ValueError(
      'Monte Carlo needs Batch.return_to_go: use a source that can compute it, such as TFDSReplay '
      'with return_to_go = True.'
    )
  outputs = apply(params, batch.state)
  return_tm1 = jnp.asarray(batch.return_to_go)
  return regression_loss(outputs, return_tm1, batch, error_loss, name='MonteCarlo')

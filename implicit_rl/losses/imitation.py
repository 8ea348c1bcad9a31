"""Behaviour cloning: the network's values are read as logits of the logged action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from implicit_rl.types import Apply, Batch, LossAux, Params, PRNGKey


def behaviour_cloning_loss(
  params: Params, target_params: Params, batch: Batch, key: PRNGKey, *, apply: Apply
) -> tuple[jax.Array, LossAux]:
  """Cross-entropy of the logged action under softmax(`q_values`) (Pomerleau, 1991).

  Args:
    params: online parameters.
    target_params: unused.
    batch: see `Batch`; only states, actions and weights are read.
    key: unused.
    apply: `apply(params, state) -> QOutputs`, of which `q_values` are logits here.

  Returns:
    [] loss, LossAux; `td_error` is each transition's cross-entropy.
  """
  del target_params, key
  outputs = apply(params, batch.state)
  action = jnp.asarray(batch.action)
  nll = optax.softmax_cross_entropy_with_integer_labels(outputs.q_values, action)
  loss = jnp.mean(batch.weight * nll)
  agreement = jnp.mean(jnp.argmax(outputs.q_values, axis=-1) == action)
  metrics = {'Losses/BehaviourCloning': loss, 'Policy/Agreement': agreement}
  return loss, LossAux(outputs=outputs, td_error=nll, metrics=metrics)

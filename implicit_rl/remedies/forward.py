"""Outputs of a network on a batch and on its next states, for remedies.

Noisy networks are applied with their mean weights.
"""

from __future__ import annotations

from typing import Any

import jax

from implicit_rl.context import Context
from implicit_rl.losses import tanh_gaussian
from implicit_rl.types import Array, Batch, LossAux, Params


def outputs_at(context: Context, params: Params, state: Array, action: Array) -> Any:
  """Returns the outputs on states [B, S, ...]; those of critics on the actions [B, A] too."""
  if _has_critics(context):
    return context.apply(params, state, action, method='critics')
  return context.apply(params, state)


def outputs_now(context: Context, params: Params, batch: Batch, aux: LossAux) -> Any:
  """Returns the outputs on the batch's states: those of the loss, unless they have noise."""
  if getattr(getattr(context.network, 'head', None), 'noisy', False):
    return outputs_at(context, params, batch.state, batch.action)
  return aux.outputs


def outputs_next(context: Context, params: Params, batch: Batch) -> Any:
  """Returns the outputs on the next states.

  Critics are evaluated on the policy's mean action, and no gradient reaches the policy. Outputs are
  meaningless where `batch.discount` is 0: mask them.
  """
  if not _has_critics(context):
    return context.apply(params, batch.next_state)
  policy = context.apply(jax.lax.stop_gradient(params), batch.next_state, method='actor')
  return outputs_at(context, params, batch.next_state, tanh_gaussian.mode(policy))


def features_of(outputs: Any) -> list[jax.Array]:
  """Returns Φ [B, d] of a value network, or of each critic."""
  return jax.tree.leaves(outputs.features)


def check_layers(context: Context, who: str) -> None:
  """Raises ValueError for a network that does not report its hidden layers."""
  if not context.layers:
    network = type(context.network).__name__
    raise ValueError(
      f"{who} needs a network that reports its hidden layers, and {network}'s outputs have none: "
      'apply them with implicit_rl.layers.Hidden, or leave the remedy out.'
    )


def last_layers(context: Context, outputs: Any) -> list[str]:
  """Returns the name of the last hidden layer, whose activation is Φ, for each critic."""
  count = len(features_of(outputs))
  return list(context.layers[len(context.layers) // count - 1 :: len(context.layers) // count])


def _has_critics(context: Context) -> bool:
  return hasattr(context.network, 'critics')

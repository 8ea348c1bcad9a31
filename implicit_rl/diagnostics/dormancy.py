"""Inactive units: dormant units in every layer, and saturated units of tanh."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp

from implicit_rl import rank
from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first, hidden_layers
from implicit_rl.types import Batch, Layers, LearnerState, PRNGKey


def as_rows(activation: jax.Array) -> jax.Array:
  """Returns activations [B, ..., C] as a matrix [n, C]: a row per state and position."""
  return activation.reshape(-1, activation.shape[-1])


def layer_scores(layers: Layers) -> dict[str, jax.Array]:
  """Returns the dormancy scores [C] of every layer; a channel is a unit of a convolution."""
  return {name: rank.dormancy_scores(as_rows(one.activation)) for name, one in layers.items()}


def dormant_masks(layers: Layers, threshold: float) -> dict[str, jax.Array]:
  """Returns 1 for every τ-dormant unit of a layer and 0 for the rest, NaN if non-finite: [C]."""
  return {
    name: jnp.where(jnp.isnan(scores), scores, (scores <= threshold).astype(scores.dtype))
    for name, scores in layer_scores(layers).items()
  }


def overlap(mask: jax.Array, earlier: jax.Array) -> jax.Array:
  """Returns the overlap coefficient |A ∩ B| / min(|A|, |B|) of two masks [C]: [].

  NaN if one of the two is empty or unknown.
  """
  least = jnp.minimum(jnp.sum(mask), jnp.sum(earlier))
  both = jnp.sum(mask * earlier) / jnp.where(least == 0, 1, least)
  return jnp.where(least == 0, jnp.nan, both)


def saturated_share(activation: jax.Array, threshold: float = 0.99) -> jax.Array:
  """Returns the share of tanh's outputs beyond ±threshold, where its slope is below 0.02: []."""
  sizes = jnp.abs(activation)
  return jnp.where(jnp.all(jnp.isfinite(sizes)), jnp.mean(sizes > threshold), jnp.nan)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Dormancy(Diagnostic):
  """The share of dormant units in each hidden layer (Sokar et al., ICML 2023).

  Attributes:
    period: iterations between two measurements.
    threshold: τ of `dormant_units/LAYER`, `dormant_at_start/LAYER` and `dormant_overlap/LAYER`.
    others: further τ, each logged as `dormant_units_τ/LAYER`.
    states: at most this many transitions.
  """

  period: int = 1
  threshold: float = 0.025
  others: tuple[float, ...] = (0.0, 0.1)
  states: int = 2048

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns shares, now and initially, their overlap, and tanh's `saturated_units/LAYER`.

    The initial network is measured on the same transitions, if the context has it.
    """
    del key
    batch = first(batch, self.states)
    layers = hidden_layers(context, state, batch)
    found = {}
    for name, mask in dormant_masks(layers, self.threshold).items():
      found[f'dormant_units/{name}'] = jnp.mean(mask)
      found[f'dormant_overlap/{name}'] = overlap(mask, jnp.asarray(state.extra[name]))
    for threshold in self.others:
      for name, mask in dormant_masks(layers, threshold).items():
        found[f'dormant_units_{threshold:g}/{name}'] = jnp.mean(mask)
    if context.initial is not None:
      begin = hidden_layers(context, state._replace(params=context.initial), batch)
      for name, mask in dormant_masks(begin, self.threshold).items():
        found[f'dormant_at_start/{name}'] = jnp.mean(mask)
    if getattr(context.network, 'activation', None) == 'tanh':
      for name, layer in layers.items():
        found[f'saturated_units/{name}'] = saturated_share(layer.activation)
    return found

  def remember(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns this measurement's dormant units."""
    del key
    layers = hidden_layers(context, state, first(batch, self.states))
    return dormant_masks(layers, self.threshold)

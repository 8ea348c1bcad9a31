"""What an iteration measures on a fixed set of transitions: feature ranks, TD error, Q."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from implicit_rl import rank
from implicit_rl.types import Batch, Loss, Params, PRNGKey

Measure = Callable[[Params, Params, Batch, PRNGKey], Mapping[str, jax.Array]]


def make_measure(loss: Loss, delta: float = 0.01) -> Measure:
  """Builds the jitted measurement on a fixed batch; the paper takes 2048 i.i.d. transitions (§3).

  Args:
    loss: the agent's loss: its outputs and TD errors are what is measured, so an agent's rank and
      error are those of the network and target that it trains.
    delta: δ of srank.

  Returns:
    measure(params, target_params, batch, key) -> scalars by name. `td_error` is the root mean
    square of the TD errors; `singular_values` [min(B, d)] is the one array. Where `features` are
    several networks' (twin critics), what is measured of them is the mean over the networks, and
    `srank_1`, `srank_2`, … are each one's own.
  """

  @jax.jit
  def measure(params, target_params, batch, key):
    loss_value, aux = loss(params, target_params, batch, key)
    q_values = aux.outputs.q_values
    return {
      **_of_features(aux.outputs.features, delta),
      'loss': loss_value,
      'td_error': jnp.sqrt(jnp.mean(jnp.square(aux.td_error))),
      'q_mean': jnp.mean(q_values),
      'q_max': jnp.max(q_values),
    }

  return measure


def _of_features(features: jax.Array | tuple[jax.Array, ...], delta: float) -> dict[str, jax.Array]:
  """Rank metrics and singular values of Φ, or their means over several networks' Φ."""
  measured = [
    {**rank.rank_metrics(phi, delta), 'singular_values': rank.singular_values(phi)}
    for phi in jax.tree.leaves(features)
  ]
  if len(measured) == 1:
    return measured[0]
  means = jax.tree.map(lambda *values: sum(values) / len(values), *measured)
  return means | {f'srank_{i}': one['srank'] for i, one in enumerate(measured, 1)}

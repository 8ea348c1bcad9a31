"""Measurements of an iteration on a fixed set of transitions: feature ranks, TD error, values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from implicit_rl import rank
from implicit_rl.types import Batch, Loss, LossAux, Params, PRNGKey

# Returns must be known for this share of transitions; a few are not a fair sample of the data.
_LEAST_KNOWN = 0.25

Measure = Callable[[Params, Params, Batch, PRNGKey], Mapping[str, jax.Array]]


def make_measure(loss: Loss, delta: float = 0.01) -> Measure:
  """Builds the jitted measurement on a fixed batch; the paper uses 2048 i.i.d. transitions (§3).

  Args:
    loss: the agent's loss, whose outputs and TD errors are measured. An agent's rank and error are
      thus those of the network and target that it trains.
    delta: δ of srank.

  Returns:
    measure(params, target_params, batch, key) -> scalars by name. `td_error` is the root mean
    square of the TD errors; the arrays are `singular_values` and `centred_singular_values`
    [min(B, d)]. If `features` belong to several networks (twin critics), the measures are means
    over the networks, and `srank_1`, `srank_2`, … are those of each network.
  """
  return jax.jit(functools.partial(measure, loss, delta))


def measure(
  loss: Loss,
  delta: float,
  params: Params,
  target_params: Params,
  batch: Batch,
  key: PRNGKey,
) -> dict[str, jax.Array]:
  """Returns the measurements described in `make_measure`. Pure, for any transformation."""
  loss_value, aux = loss(params, target_params, batch, key)
  q_values = aux.outputs.q_values
  return {
    **of_features(aux.outputs.features, delta),
    **of_errors(loss_value, aux),
    **of_values(q_values),
    'q_data_gap': value_gap(q_values, batch),
  }


def of_errors(loss_value: jax.Array, aux: LossAux) -> dict[str, jax.Array]:
  """Returns the loss and the root mean square of the TD errors."""
  return {'loss': loss_value, 'td_error': jnp.sqrt(jnp.mean(jnp.square(aux.td_error)))}


def of_values(q_values: jax.Array) -> dict[str, jax.Array]:
  """Returns the mean and the extremes of values [B, A]."""
  return {'q_mean': jnp.mean(q_values), 'q_max': jnp.max(q_values), 'q_min': jnp.min(q_values)}


def value_gap(q_values: jax.Array, batch: Batch) -> jax.Array:
  """Returns the mean of Q(s, a) minus the Monte Carlo return of the same step of the data.

  Args:
    q_values: [B, A], or [B, K] of K critics on the data's actions, whose mean is used.
    batch: its `return_to_go` is NaN where the return is unknown.

  Returns:
    [] over the transitions whose return is known; NaN if these are less than a quarter.
  """
  if batch.return_to_go is None:
    return jnp.full((), jnp.nan)
  if jnp.ndim(batch.action) == 1:
    q_tm1 = jnp.take_along_axis(q_values, jnp.asarray(batch.action)[:, None], axis=1)[:, 0]
  else:
    q_tm1 = jnp.mean(q_values, axis=1)
  known = ~jnp.isnan(batch.return_to_go)
  gaps = jnp.where(known, q_tm1 - batch.return_to_go, 0.0)
  enough = jnp.mean(known) >= _LEAST_KNOWN
  return jnp.where(enough, jnp.sum(gaps) / jnp.sum(known), jnp.nan)


def of_features(features: jax.Array | tuple[jax.Array, ...], delta: float) -> dict[str, jax.Array]:
  """Returns rank metrics and singular values of Φ, or their means over several networks' Φ."""
  measured = [rank.rank_metrics(phi, delta, spectra=True) for phi in jax.tree.leaves(features)]
  if len(measured) == 1:
    return measured[0]
  means = jax.tree.map(lambda *values: sum(values) / len(values), *measured)
  return means | {f'srank_{i}': one['srank'] for i, one in enumerate(measured, 1)}

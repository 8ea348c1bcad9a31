"""Shared parts of remedies that act on single units: scores by layer, and the reset of units."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from implicit_rl import rank
from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.layer_graph import LayerGraph, layer_graph
from implicit_rl.remedies import moments
from implicit_rl.remedies.base import PeriodicRemedy
from implicit_rl.types import Batch, LearnerState, Metrics, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class UnitReset(PeriodicRemedy):
  """Reinitialises units of hidden layers whose score is small compared with their layer's.

  A subclass defines `values`, from which `rank.dormancy_scores` computes the scores. CLASS/Reset
  counts the units.

  Attributes:
    threshold: τ, in [0, 1]: units with a score of at most τ are reset. 0 resets those whose values
      are all 0.
    reset_count: set Adam's step count to 0 as well if a unit is reset; see `moments.renew`.

  Raises:
    ValueError: for a threshold outside [0, 1].
  """

  period: int | None = 1000
  threshold: float = 0.025
  reset_count: bool = False

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number(f'{type(self).__name__}.threshold', self.threshold, least=0, most=1)

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks that the network has units to reset."""
    unit_graph(context, self)

  def values(
    self, context: Context, graph: LayerGraph, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns the values that units are scored by: [N, C] by layer."""
    raise NotImplementedError(f'{type(self).__name__} has no values().')

  def operate(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `PeriodicRemedy.operate`."""
    graph = unit_graph(context, self)
    values_key, reset_key = jax.random.split(key)
    values = self.values(context, graph, state, batch, values_key)
    chosen = {name: rank.dormancy_scores(one) <= self.threshold for name, one in values.items()}
    state = reset(context, graph, state, chosen, reset_key, self.reset_count)
    return state, {f'{type(self).__name__}/Reset': count(chosen)}


def unit_graph(context: Context, remedy: object) -> LayerGraph:
  """Returns the network's layer graph.

  Args:
    context: see `Context`.
    remedy: the remedy that needs the graph, for the error.

  Raises:
    ValueError: if no unit of the network can be reset.
  """
  graph = layer_graph(context.init)
  if not graph.layers:
    raise ValueError(
      f'{type(remedy).__name__} resets units of hidden layers, and '
      f'{type(context.network).__name__} names none: its outputs need `layers`, as '
      '`implicit_rl.layers.Hidden` makes them (docs/extending.md). Or bind Remedies.NAME = None.'
    )
  return graph


def activations(
  context: Context, graph: LayerGraph, state: LearnerState, batch: Batch, key: PRNGKey
) -> dict[str, jax.Array]:
  """Returns every unit's activations on a batch's states.

  The layers are those that the agent's loss reports: for actor-critics the critics' layers, on the
  batch's actions.

  Args:
    context: see `Context`.
    graph: the network's.
    state: the learner's; its online parameters are used.
    batch: see `Batch`.
    key: of the loss's noise.

  Returns:
    [N, C] by layer. N is B, or B·H·W for a convolution, times k if an activation such as crelu
    returns k numbers for a unit.
  """
  _, aux = context.loss(state.params, state.target_params, batch, key)
  layers = aux.outputs.layers
  return {
    name: layers[name].activation.reshape(-1, layer.units)
    for name, layer in graph.layers.items()
    if name in layers
  }


def reset(
  context: Context,
  graph: LayerGraph,
  state: LearnerState,
  chosen: Mapping[str, jax.Array],
  key: PRNGKey,
  reset_count: bool,
) -> LearnerState:
  """Reinitialises units.

  Their incoming weights, biases and normalisation get the values of a fresh network. Their outgoing
  weights become 0. The moments of all these parameters are reset. The target network does not
  change.

  Args:
    context: see `Context`.
    graph: the network's.
    state: the learner's.
    chosen: masks [C] by layer.
    key: of the fresh network.
    reset_count: see `moments.renew`.
  """
  into, out_of = graph.masks(chosen, state.params)
  params = jax.tree.map(jnp.where, into, context.init(key), state.params)
  params = jax.tree.map(lambda mask, x: jnp.where(mask, 0, x), out_of, params)
  optimizer_state = moments.renew(
    context.optimizer,
    state.optimizer_state,
    params,
    jax.tree.map(jnp.logical_or, into, out_of),
    reset_count=reset_count,
  )
  return state._replace(params=params, optimizer_state=optimizer_state)


def count(chosen: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the number of units that masks choose, [] float32."""
  return jnp.sum(jnp.stack([jnp.sum(mask, dtype=jnp.float32) for mask in chosen.values()]))

"""Continual backpropagation: a few of the least useful units are reinitialised at a fixed rate."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.layer_graph import HiddenLayer, array_at
from implicit_rl.remedies import units
from implicit_rl.remedies.base import Remedy
from implicit_rl.types import Batch, LearnerState, Metrics, Params, PRNGKey


class LayerRecord(NamedTuple):
  """Record of a hidden layer's C units.

  Attributes:
    utility: [C] float32, the running mean of each unit's contribution.
    age: [C] int32, updates since a unit was initialised.
    due: [] float32, number of units to be replaced; a fraction is kept for later updates.
  """

  utility: jax.Array
  age: jax.Array
  due: jax.Array


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ContinualBackprop(Remedy):
  """Replaces the mature unit of lowest utility in each layer, at a fixed rate.

  A unit's contribution is E|h| · Σ|w| over its outgoing weights w (Dohare et al., 2024), and its
  utility is the running mean of this. After each update, `rate` times the number of a layer's
  mature units is added to the number that is due. If at least one is due, one unit is replaced: it
  gets fresh incoming weights, outgoing weights 0, and fresh moments. With an actor-critic the
  critics' units are replaced. ContinualBackprop/Reset counts them.

  Attributes:
    rate: of replacement, units per unit and update, at least 0; 0 removes the remedy from the
      program.
    decay: of the running mean, in [0, 1).
    maturity: updates for which a new unit is not replaced, at least 0.
    reset_count: set Adam's step count to 0 if a unit is replaced; see `moments.renew`.

  Raises:
    ValueError: for a setting out of its range.
  """

  rate: float = 1e-4
  decay: float = 0.99
  maturity: int = 10_000
  reset_count: bool = False

  def __post_init__(self):
    """Checks the settings."""
    check_number('ContinualBackprop.rate', self.rate, least=0, most=1)
    check_number('ContinualBackprop.decay', self.decay, least=0, below=1)
    check_number('ContinualBackprop.maturity', self.maturity, least=0, whole=True)

  @property
  def active(self) -> bool:
    """Whether the rate is above 0."""
    return self.rate > 0

  def init(self, context: Context, params: Params, key: PRNGKey) -> dict[str, LayerRecord]:
    """Returns a record of every hidden layer, without utility and of age 0."""
    layers = units.unit_graph(context, self).layers
    zeros = lambda layer: (jnp.zeros(layer.units), jnp.zeros(layer.units, jnp.int32))
    return {name: LayerRecord(*zeros(layer), due=jnp.zeros(())) for name, layer in layers.items()}

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `Remedy.after_update`."""
    graph = units.unit_graph(context, self)
    loss_key, reset_key = jax.random.split(key)
    active = units.activations(context, graph, state, batch, loss_key)
    records: dict[str, Any] = dict(state.extra)
    chosen = {}
    for name, h in active.items():
      contribution = jnp.mean(jnp.abs(h), axis=0) * outgoing(graph.layers[name], state.params)
      records[name], chosen[name] = self._replace(records[name], contribution)
    state = state._replace(extra=records)
    replaced = units.count(chosen)
    state = jax.lax.cond(
      replaced > 0,
      lambda: units.reset(context, graph, state, chosen, reset_key, self.reset_count),
      lambda: state,
    )
    return state, {'ContinualBackprop/Reset': replaced}

  def _replace(self, record: LayerRecord, contribution: jax.Array) -> tuple[LayerRecord, jax.Array]:
    """Returns the record after an update, and a mask [C] of the replaced unit, if any."""
    age = record.age + 1
    utility = self.decay * record.utility + (1 - self.decay) * contribution
    mature = age > self.maturity
    due = record.due + self.rate * jnp.sum(mature, dtype=jnp.float32)
    least = jnp.argmin(jnp.where(mature, utility, jnp.inf))
    replace = (jnp.arange(len(age)) == least) & mature & (due >= 1)
    due = due - jnp.any(replace)
    return LayerRecord(jnp.where(replace, 0, utility), jnp.where(replace, 0, age), due), replace


def outgoing(layer: HiddenLayer, params: Params) -> jax.Array:
  """Returns Σ|w| over each unit's outgoing weights, [C]."""
  sizes = [
    jnp.sum(jnp.abs(kernel.by_unit(array_at(params, kernel.path), layer.units)), axis=1)
    for kernel in layer.outgoing
  ]
  return sum(sizes, jnp.zeros(layer.units))

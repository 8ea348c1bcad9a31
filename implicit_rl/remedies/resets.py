"""Resets of the head or of the whole network (Nikishin et al., 2022), and shrink and perturb."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.layer_graph import layer_graph
from implicit_rl.remedies import moments
from implicit_rl.remedies.base import PeriodicRemedy
from implicit_rl.types import Batch, LearnerState, Metrics, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class _Reset(PeriodicRemedy, abc.ABC):
  """Base of the three resets, which rewrite parameters, target network and moments together.

  Attributes:
    reset_target: rewrite the target network too, with the same random numbers, so that the distance
      of the two networks does not change.
    reset_count: set Adam's step count to 0; see `moments.renew`.
  """

  period: int | None = None
  reset_target: bool = True
  reset_count: bool = False

  @abc.abstractmethod
  def rewritten(self, context: Context, params: Params, fresh: Params) -> Params:
    """Returns the parameters after a reset, given those of a fresh network."""

  @abc.abstractmethod
  def chosen(self, context: Context, params: Params) -> Params:
    """Returns a tree of bools like `params`: True where moments are reset."""

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks that the settings suit the network."""
    self.chosen(context, params)

  def operate(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `PeriodicRemedy.operate`."""
    fresh = context.init(key)
    params = self.rewritten(context, state.params, fresh)
    target_params = state.target_params
    if self.reset_target:
      target_params = self.rewritten(context, target_params, fresh)
    optimizer_state = moments.renew(
      context.optimizer,
      state.optimizer_state,
      params,
      self.chosen(context, state.params),
      reset_count=self.reset_count,
    )
    state = state._replace(
      params=params, target_params=target_params, optimizer_state=optimizer_state
    )
    return state, {f'{type(self).__name__}/Done': jnp.ones(())}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NetworkReset(_Reset):
  """Reinitialises the whole network: parameters, target network and the optimiser's moments.

  With an actor-critic these are policy, critics and temperature. NetworkReset/Done counts the
  resets.
  """

  period: int | None = 200_000
  reset_count: bool = True

  def rewritten(self, context: Context, params: Params, fresh: Params) -> Params:
    """Returns the fresh network's parameters."""
    return fresh

  def chosen(self, context: Context, params: Params) -> Params:
    """Chooses everything."""
    return jax.tree.map(lambda _: True, params)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HeadReset(_Reset):
  """Reinitialises the network's last layers and their moments.

  With an actor-critic these are the last layers of the policy and of the critics. HeadReset/Done
  counts the resets.

  Attributes:
    hidden_layers: how many hidden layers before the head are reinitialised with it.

  Raises:
    ValueError: for a negative number of layers; from `init` if the network has fewer.
  """

  period: int | None = 40_000
  hidden_layers: int = 0

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('HeadReset.hidden_layers', self.hidden_layers, least=0, whole=True)

  def rewritten(self, context: Context, params: Params, fresh: Params) -> Params:
    """Returns the parameters with fresh last layers."""
    return _pick(self.chosen(context, params), fresh, params)

  def chosen(self, context: Context, params: Params) -> Params:
    """Chooses the last layers."""
    return _last(self, 'hidden_layers', self.hidden_layers, context, params)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ShrinkAndPerturb(_Reset):
  """θ ← shrink·θ + perturb·θ_new, for a fresh network's θ_new (Ash and Adams, 2020).

  As in BBF and SR-SPR (Schwarzer et al., 2023; D'Oro et al., 2023) the last layers may be
  reinitialised instead. All moments are reset. ShrinkAndPerturb/Done counts the operations.

  Attributes:
    shrink: factor of the old parameters; 1 with perturb 0 changes nothing.
    perturb: factor of the fresh parameters.
    reset_layers: hidden layers reinitialised with the head; None reinitialises nothing.

  Raises:
    ValueError: for a factor outside [0, 1], or a negative number of layers; from `init` if the
      network has fewer.
  """

  period: int | None = 40_000
  shrink: float = 0.5
  perturb: float = 0.5
  reset_layers: int | None = 1
  reset_count: bool = True

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('ShrinkAndPerturb.shrink', self.shrink, least=0, most=1)
    check_number('ShrinkAndPerturb.perturb', self.perturb, least=0, most=1)
    check_number(
      'ShrinkAndPerturb.reset_layers', self.reset_layers, least=0, whole=True, optional=True
    )

  def rewritten(self, context: Context, params: Params, fresh: Params) -> Params:
    """Returns the mixture, with fresh last layers."""
    mixed = jax.tree.map(lambda old, new: self.shrink * old + self.perturb * new, params, fresh)
    if self.reset_layers is None:
      return mixed
    last = _last(self, 'reset_layers', self.reset_layers, context, params)
    return _pick(last, fresh, mixed)

  def chosen(self, context: Context, params: Params) -> Params:
    """Chooses everything."""
    if self.reset_layers is not None:  # Raises if there are fewer.
      _last(self, 'reset_layers', self.reset_layers, context, params)
    return jax.tree.map(lambda _: True, params)


def _pick(chosen: Params, new: Params, old: Params) -> Params:
  return jax.tree.map(lambda choose, a, b: a if choose else b, chosen, new, old)


def _last(remedy: object, name: str, number: int, context: Context, params: Params) -> Params:
  """The last layers, or an error that names the setting."""
  try:
    return layer_graph(context.init).last(number, params)
  except ValueError as error:
    raise ValueError(f'{type(remedy).__name__}.{name} is {number}: {error}') from error

"""Remedies: terms of the loss and operations after an update, with an optional state."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.types import Array, Batch, LearnerState, LossAux, Metrics, Params, PRNGKey


class Remedy:
  """An intervention in training. Subclass it; every method's default changes nothing.

  All methods are pure and are traced into the compiled update. Make a remedy a frozen dataclass
  with `@gin.configurable`. Metrics are scalars by name: their means over an iteration's updates
  appear in `metrics.jsonl` under these names.
  """

  @property
  def active(self) -> bool:
    """Whether the remedy has an effect; an inactive one leaves the compiled program unchanged."""
    return True

  def conflict(self, other: Remedy) -> str | None:
    """Returns why this remedy and another can't be combined; None if they can."""
    del other
    return None

  def wrap(self, network: Any, state: Array) -> Any:
    """Returns the network that the agent trains and acts with.

    Args:
      network: the agent's network, a Flax module or the result of another remedy's `wrap`.
      state: [1, S, ...], with the shape and dtype of the network's input.

    Returns:
      `network`, or an object with the same attributes whose `init` and `apply` extend those of
      `network`.
    """
    del state
    return network

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Returns this remedy's own state, such as a copy of the initial parameters.

    Args:
      context: see `Context`.
      params: the initial online parameters.
      key: a PRNG key for this remedy.

    Returns:
      A pytree of arrays, None for no state. It is kept in `LearnerState.extra[NAME]`, saved in
      checkpoints, and has a leading axis if several seeds train as one program.
    """
    del context, params, key
    return None

  def loss_term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: Any,
  ) -> tuple[jax.Array, Metrics]:
    """Returns a term that is added to the loss, within the gradient.

    Args:
      context: see `Context`; `context.apply(params, batch.next_state)` gives outputs on s′.
      params: online parameters, with respect to which the gradient is taken.
      target_params: the target network's parameters.
      batch: see `Batch`.
      aux: the by-products of the agent's loss. `aux.outputs` are the outputs on s, with `features`
        and, by layer, `layers`.
      key: a PRNG key for this remedy, a new one at every update.
      extra: this remedy's state, from `init` or a later `after_update`.

    Returns:
      The weighted term [], and metrics.
    """
    del context, params, target_params, batch, aux, key, extra
    return jnp.zeros(()), {}

  def project(self, context: Context, params: Params, extra: Any) -> Params:
    """Returns constrained parameters after an optimiser's step, before the target network's update.

    Use it for constraints that hold after every update. XLA computes it in the optimiser's pass
    over the parameters, while `after_update` needs another pass.

    Args:
      context: see `Context`.
      params: the online parameters after the step.
      extra: as in `loss_term`.
    """
    del context, extra
    return params

  def observe(self, extra: Any, metrics: Metrics) -> Any:
    """Returns this remedy's new state, given the update's metrics; runs before `after_update`.

    Args:
      extra: as in `loss_term`.
      metrics: those of the agent, such as 'Losses/TD', and of all loss terms.
    """
    del metrics
    return extra

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Returns the learner's new state after an update, and metrics.

    It runs after the optimiser's step and the target network's update, so it can change parameters,
    target parameters and the optimiser's moments together.

    Args:
      context: see `Context`.
      state: `updates` includes this update; `extra` is this remedy's state.
      batch: the update's batch.
      key: a PRNG key for this remedy, a new one at every update.
    """
    del context, batch, key
    return state, {}


@dataclasses.dataclass(frozen=True)
class LossTerm(Remedy):
  """A remedy that is one weighted term of the loss; a subclass writes `term`.

  Attributes:
    weight: of the term, at least 0; 0 removes it from the program.

  Raises:
    ValueError: for a negative or non-numeric weight.
  """

  weight: float

  def __post_init__(self):
    """Checks the weight."""
    check_number(f'{type(self).__name__}.weight', self.weight, least=0)

  @property
  def active(self) -> bool:
    """Whether the weight is above 0."""
    return self.weight > 0

  def term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: Any,
  ) -> jax.Array:
    """Returns the term [] before its weight; arguments as in `Remedy.loss_term`."""
    raise NotImplementedError(f'{type(self).__name__} has no term(); see docs/extending.md.')

  def loss_term(self, *arguments: Any) -> tuple[jax.Array, Metrics]:
    """See `Remedy.loss_term`; the term before its weight is logged as Losses/CLASS."""
    value = self.term(*arguments)
    return self.weight * value, {f'Losses/{type(self).__name__}': value}


@dataclasses.dataclass(frozen=True)
class PeriodicRemedy(Remedy):
  """A remedy that acts after every `period`-th update; a subclass writes `operate`.

  Attributes:
    period: gradient updates between two operations; None removes it from the program.
    until: the update after which it stops acting; None never stops.

  Raises:
    ValueError: if one of them is below 1 or not a whole number.
  """

  period: int | None
  until: int | None = None

  def __post_init__(self):
    """Checks the settings."""
    for name in ('period', 'until'):
      of = f'{type(self).__name__}.{name}'
      check_number(of, getattr(self, name), least=1, whole=True, optional=True)

  @property
  def active(self) -> bool:
    """Whether there is a period."""
    return self.period is not None

  def operate(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Returns the new state and metrics; arguments as in `Remedy.after_update`."""
    raise NotImplementedError(f'{type(self).__name__} has no operate(); see docs/extending.md.')

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `Remedy.after_update`; metrics are 0 at the updates in between."""
    assert self.period is not None  # An inactive remedy is not called.
    operate = lambda: self.operate(context, state, batch, key)
    _, metrics = jax.eval_shape(operate)
    idle = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    due = state.updates % self.period == 0
    if self.until is not None:
      due = due & (state.updates <= self.until)
    return jax.lax.cond(due, operate, lambda: (state, idle))


@gin.configurable('Remedies')
def bound_remedies(**by_name: Remedy | None) -> dict[str, Remedy]:
  """Returns the remedies that gin binds as `Remedies.NAME = @Class()`, sorted by name.

  Files can be combined, since each binds its own names; None removes an earlier binding.

  Raises:
    ValueError: for a value that is not a `Remedy`.
  """
  return check_remedies(by_name)


def check_remedies(by_name: dict[str, Any]) -> dict[str, Remedy]:
  """Returns the remedies that are not None, sorted by name.

  Raises:
    ValueError: for a value that is not a `Remedy`, or two that can't be combined; names their gin
      bindings.
  """
  for name, remedy in by_name.items():
    if remedy is not None and not isinstance(remedy, Remedy):
      hint = f': say @{remedy.__name__}().' if isinstance(remedy, type) else '.'
      raise ValueError(f'Remedies.{name} must be a Remedy or None, got {remedy!r}{hint}')
  remedies = {name: by_name[name] for name in sorted(by_name) if by_name[name] is not None}
  for (name, one), (other_name, other) in itertools.permutations(remedies.items(), 2):
    if one.active and other.active and (why := one.conflict(other)):
      raise ValueError(
        f'Remedies.{name} cannot be combined with Remedies.{other_name}: {why}. Bind one of them '
        'to None.'
      )
  return remedies

"""Measures a run's diagnostics when they are due."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.context import Context, add_new, named_key
from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.diagnostics.dormancy import Dormancy
from implicit_rl.diagnostics.held_out import HeldOutError
from implicit_rl.diagnostics.norms import Norms
from implicit_rl.diagnostics.values import Values
from implicit_rl.logs import checkpoints
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey

KEYS = 0xD1A6  # Sets the diagnostics' keys apart from those of updates.

# Cheap diagnostics, part of every run unless gin binds None: `Diagnostics.dormancy = None`.
DEFAULTS: dict[str, Callable[[], Diagnostic]] = {
  'dormancy': Dormancy,
  'held_out': HeldOutError,
  'norms': Norms,
  'values': Values,
}


@gin.configurable('Diagnostics')
def bound_diagnostics(**by_name: Diagnostic | None) -> dict[str, Diagnostic]:
  """Returns the default diagnostics and those that gin binds, sorted by name.

  `Diagnostics.NAME = @Class()` adds one. Files can be combined, since each binds its own names;
  None removes a default or an earlier binding.

  Raises:
    ValueError: for a value that is not a `Diagnostic`, or a period below 1.
  """
  by_name = {**{name: make() for name, make in DEFAULTS.items() if name not in by_name}, **by_name}
  for name, diagnostic in by_name.items():
    if diagnostic is None:
      continue
    if not isinstance(diagnostic, Diagnostic):
      hint = f': say @{diagnostic.__name__}().' if isinstance(diagnostic, type) else '.'
      raise ValueError(f'Diagnostics.{name} must be a Diagnostic or None, got {diagnostic!r}{hint}')
    if not isinstance(diagnostic.period, int) or diagnostic.period < 1:
      raise ValueError(
        f'{type(diagnostic).__name__}.period must be a whole number of iterations, at least 1; got '
        f'{diagnostic.period!r} (Diagnostics.{name}).'
      )
  return {name: found for name, found in sorted(by_name.items()) if found is not None}


class Measurements:
  """Measures the diagnostics that are due.

  Args:
    diagnostics: by name.
    context: information on the agent.
  """

  def __init__(self, diagnostics: Mapping[str, Diagnostic], context: Context):
    self._diagnostics, self._context = diagnostics, context
    self._initial = context.initial
    self._memory: dict[str, Any] = {}
    self._map: Callable[..., Any] = lambda function: function
    self._measures: dict[str, Callable[..., tuple[Mapping[str, Any], Any]]] = {}
    for name, diagnostic in diagnostics.items():
      measure = functools.partial(measure_and_remember, diagnostic, context)
      self._measures[name] = jax.jit(measure) if diagnostic.compiled else measure

  def over_seeds(self, initial: Sequence[Params | None]) -> Measurements:
    """Returns measurements of several seeds as one program, with nothing remembered yet.

    All inputs and outputs of `take` have a leading axis [N]. A diagnostic is one vmapped program;
    one that is not compiled measures the seeds in sequence.

    Args:
      initial: the initial parameters of each seed, or None.
    """
    together = copy.copy(self)
    together._initial = jax.tree.map(lambda *leaves: np.stack(leaves), *initial)
    together._memory = {}
    together._map = jax.vmap
    together._measures = {
      name: jax.jit(jax.vmap(measure)) if self._diagnostics[name].compiled else _in_turn(measure)
      for name, measure in self._measures.items()
    }
    return together

  def take(
    self, iteration: int, state: LearnerState, batch: Batch, held_out: Batch | None = None
  ) -> dict[str, Any]:
    """Returns the measurements that are due in this iteration.

    Args:
      iteration: from 0.
      state: the learner's.
      batch: the run's fixed transitions.
      held_out: transitions that no update draws, or None.

    Raises:
      ValueError: if two diagnostics return the same name, or for a batch without a transition.
    """
    if not np.size(batch.reward):
      raise ValueError('Diagnostics need at least one transition to measure on, got none.')
    measured: dict[str, Any] = {}
    for name, diagnostic in self._diagnostics.items():
      measured_on = held_out if diagnostic.held_out else batch
      if iteration % diagnostic.period == 0 and measured_on is not None:
        key = self._map(functools.partial(_key, name))(state.key)
        if name not in self._memory:
          nothing = functools.partial(nothing_yet, diagnostic, self._context)
          self._memory[name] = self._map(nothing)(state, measured_on, key)
        own: Any = state._replace(extra=self._memory[name])
        found, self._memory[name] = self._measures[name](self._initial, own, measured_on, key)
        add_new(measured, found, f'Diagnostics.{name}')
    return measured

  def state_dict(self) -> dict[str, Any]:
    """Returns the diagnostics' remembered values, nested dicts of arrays by their names."""
    return {
      name: checkpoints.to_arrays(memory)
      for name, memory in self._memory.items()
      if jax.tree.leaves(memory)
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    self._memory = {name: memory for name, memory in state.items() if name in self._diagnostics}


def measure_and_remember(
  diagnostic: Diagnostic,
  context: Context,
  initial: Params | None,
  state: LearnerState,
  batch: Batch,
  key: PRNGKey,
) -> tuple[Mapping[str, Any], Any]:
  """Returns a diagnostic's measurements and remembered values; `initial` is `context.initial`."""
  # It is an argument, since a compiled program would hold a copy of a constant.
  context = dataclasses.replace(context, initial=initial)
  measured = diagnostic.measure(context, state, batch, key)
  return measured, diagnostic.remember(context, state, batch, key)


def nothing_yet(
  diagnostic: Diagnostic, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
) -> Any:
  """Returns the value of `state.extra` before a diagnostic's first measurement: only NaN."""
  if type(diagnostic).remember is Diagnostic.remember:
    return None
  shapes = jax.eval_shape(lambda: diagnostic.remember(context, state, batch, key))
  return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)


def _key(name: str, key: PRNGKey) -> PRNGKey:
  """Returns the key of a diagnostic, derived from that of the learner's state."""
  return named_key(jax.random.fold_in(key, KEYS), name)


def _in_turn(measure: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `measure` of several seeds [N, ...], computed in sequence."""

  def measured(initial: Any, state: LearnerState, batch: Batch, key: PRNGKey) -> Any:
    given = (initial, state, batch, key)
    parts = [measure(*jax.tree.map(lambda x, n=n: x[n], given)) for n in range(len(key))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

  return measured

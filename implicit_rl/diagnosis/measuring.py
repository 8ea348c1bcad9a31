"""Measures a network as far as the given arguments allow."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import gin
import jax

from implicit_rl import diagnostics, metrics
from implicit_rl.compat import config_files, gin_state
from implicit_rl.context import Context, NotGivenError, add_new, named_key
from implicit_rl.diagnosis.given import compiled_call
from implicit_rl.diagnostics import Diagnostic
from implicit_rl.diagnostics.measurements import KEYS, nothing_yet
from implicit_rl.types import Batch, LearnerState, PRNGKey

Measure = Callable[[LearnerState, Batch, PRNGKey], Mapping[str, Any]]


def every_diagnostic() -> dict[str, Diagnostic]:
  """Returns the default diagnostics and the expensive ones of `gin_configs/diagnostics/all.gin`."""
  for module in pkgutil.iter_modules(diagnostics.__path__):
    if module.name != '__main__':
      importlib.import_module(f'{diagnostics.__name__}.{module.name}')
  with gin_state.set_aside():
    gin.parse_config_file(config_files.find('gin_configs/diagnostics/all.gin', ''))
    return diagnostics.bound_diagnostics()


def take(
  chosen: Mapping[str, Diagnostic],
  context: Context,
  state: LearnerState,
  batch: Batch,
  delta: float,
) -> tuple[dict[str, Any], dict[str, str]]:
  """Measures everything whose arguments were given, as a run's first measurement.

  Args:
    chosen: diagnostics by name.
    context: missing parts are `NotGiven`.
    state: as above.
    batch: as above.
    delta: δ of srank.

  Returns:
    The measurements, and by name the reasons for missing ones.
  """
  measured: dict[str, Any] = {}
  missing: dict[str, str] = {}
  keys = jax.random.fold_in(state.key, KEYS)
  for name, measure in _basic(context, delta).items():
    try:
      measured |= compiled_call(measure, state, batch, state.key)
    except NotGivenError as error:
      missing[name] = str(error)
  for name, diagnostic in chosen.items():
    if diagnostic.held_out:
      missing[name] = 'give transitions that were kept out of training: td_error is theirs then'
      continue
    measure = _first(diagnostic, context)
    call = compiled_call if diagnostic.compiled else lambda function, *args: function(*args)
    try:
      found = call(measure, state, batch, named_key(keys, name))
    except ValueError as error:  # Also errors of the diagnostic itself.
      missing[name] = ' '.join(str(error).split())
    else:
      add_new(measured, found, f'Diagnostics.{name}')
  return measured, missing


def _basic(context: Context, delta: float) -> dict[str, Measure]:
  """Returns the measures of every iteration of a run, in parts with increasing requirements."""

  def ranks(state: LearnerState, batch: Batch, key: PRNGKey) -> Mapping[str, Any]:
    del key
    return metrics.of_features(context.apply(state.params, batch.state).features, delta)

  def values(state: LearnerState, batch: Batch, key: PRNGKey) -> Mapping[str, Any]:
    del key
    return metrics.of_values(context.apply(state.params, batch.state).q_values)

  def gap(state: LearnerState, batch: Batch, key: PRNGKey) -> Mapping[str, Any]:
    del key
    if batch.return_to_go is None:
      raise NotGivenError('give actions and returns')
    q_values = context.apply(state.params, batch.state).q_values
    return {'q_data_gap': metrics.value_gap(q_values, batch)}

  def errors(state: LearnerState, batch: Batch, key: PRNGKey) -> Mapping[str, Any]:
    return metrics.of_errors(*context.loss(state.params, state.target_params, batch, key))

  return {'srank': ranks, 'q_mean': values, 'q_data_gap': gap, 'td_error': errors}


def _first(diagnostic: Diagnostic, context: Context) -> Measure:
  def measure(state: LearnerState, batch: Batch, key: PRNGKey) -> Mapping[str, Any]:
    earlier: Any = nothing_yet(diagnostic, context, state, batch, key)
    return diagnostic.measure(context, state._replace(extra=earlier), batch, key)

  return measure

"""What a diagnostic is: a measurement of the trained network every so many iterations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gin
import jax

from implicit_rl.context import Context, add_new, named_key
from implicit_rl.types import Batch, LearnerState, PRNGKey

_KEYS = 0xD1A6  # Sets the diagnostics' keys apart from those of updates.


class Diagnostic:
  """A measurement; a subclass writes `measure`. Best a frozen dataclass, `@gin.configurable`.

  Attributes:
    period: iterations between two measurements, at least 1; the first iteration is measured.
    compiled: whether `measure` is compiled with `jax.jit`; False for what computes on the host.
  """

  period: int = 1
  compiled: ClassVar[bool] = True

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> Mapping[str, Any]:
    """Measures the network.

    Args:
      context: see `Context`.
      state: the learner's.
      batch: the run's fixed transitions, 2048 by default.
      key: a PRNG key of this diagnostic's own, the same at every measurement.

    Returns:
      Scalars, which stand in `metrics.jsonl` under their names, and arrays, in `spectra.jsonl`.
    """
    raise NotImplementedError(f'{type(self).__name__} has no measure(); see docs/extending.md.')


@gin.configurable('Diagnostics')
def bound_diagnostics(**by_name: Diagnostic | None) -> dict[str, Diagnostic]:
  """Returns the diagnostics that gin binds as `Diagnostics.NAME = @Class()`, sorted by name.

  Files add up, since each binds names of its own; None removes what an earlier file bound.

  Raises:
    ValueError: for what is not a `Diagnostic`, or a period below 1.
  """
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
  """Takes the measurements that are due.

  Args:
    diagnostics: by name.
    context: what they are told of the agent.
  """

  def __init__(self, diagnostics: Mapping[str, Diagnostic], context: Context):
    self._diagnostics = diagnostics
    self._measures: dict[str, Callable[..., Mapping[str, Any]]] = {}
    for name, diagnostic in diagnostics.items():
      measure = functools.partial(diagnostic.measure, context)
      self._measures[name] = jax.jit(measure) if diagnostic.compiled else measure

  def take(self, iteration: int, state: LearnerState, batch: Batch) -> dict[str, Any]:
    """Returns what the diagnostics that are due in this iteration measure.

    Raises:
      ValueError: if two diagnostics return the same name.
    """
    measured: dict[str, Any] = {}
    keys = jax.random.fold_in(state.key, _KEYS)
    for name, diagnostic in self._diagnostics.items():
      if iteration % diagnostic.period == 0:
        found = self._measures[name](state, batch, named_key(keys, name))
        add_new(measured, found, f'Diagnostics.{name}')
    return measured

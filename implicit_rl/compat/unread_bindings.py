"""Bindings that a run has not read when it is built, and so never reads; most are mistakes.

Gin accepts bindings of everything that is imported, also of Dopamine's classes and functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from gin import config as gin_config

from implicit_rl.compat import config_files, gin_names

# Bound for every run, even if it needs no collector.
_ALWAYS_BOUND = 'dopamine.metrics.collector_dispatcher.CollectorDispatcher'


class Binding(NamedTuple):
  """One `name = value` of the configuration.

  Attributes:
    name: as gin writes it, with its scope.
    parameter: the last part of the name.
    ours: whether its function or class is this project's, a user's or optax's; otherwise it is
      Dopamine's or gin's.
    included: whether it comes from a file that another one includes.
  """

  name: str
  parameter: str
  ours: bool
  included: bool


def unread() -> list[Binding]:
  """Returns the bindings that no call so far has read, by name.

  Bindings of a class or function that was passed on without a call, such as `@NatureCNN`, count as
  read, since it may be called later. So do macros.
  """
  read = {
    (scope, selector, parameter)
    for (called_in, selector), parameters in gin_config._OPERATIVE_CONFIG.items()
    for scope in _outer(called_in)
    for parameter in parameters
  }
  later = {_ALWAYS_BOUND, *_handed_on()}
  found = []
  for (scope, selector), parameters in gin_config._CONFIG.items():
    if selector in later or selector.startswith('gin.'):
      continue
    short = gin_config._REGISTRY.minimal_selector(selector)
    for parameter in parameters:
      if (scope, selector, parameter) not in read:
        name = f'{scope}/{short}.{parameter}' if scope else f'{short}.{parameter}'
        included = config_files.is_included(scope, selector, parameter)
        found.append(Binding(name, parameter, gin_names.is_ours(selector), included))
  return sorted(found)


def refuse_dopamines() -> None:
  """Raises ValueError for a Dopamine binding that the run never reads."""
  for binding in unread():
    if not binding.ours:
      raise ValueError(
        f'{binding.name} belongs to Dopamine, and this run never reads it.'
        f'{_hint(binding.parameter)}'
      )


def name_others() -> None:
  """Prints one line to stderr that names the other bindings that the run never reads, if any.

  An included file may bind more than a run needs, since the including file may choose another
    agent.
  """
  names = [binding.name for binding in unread() if binding.ours and not binding.included]
  if names:
    print(f'No effect in this run, which never reads: {", ".join(names)}.', file=sys.stderr)


def _outer(scope: str) -> Iterator[str]:
  """Returns the scopes whose bindings apply in a scope: '' and each of its prefixes."""
  parts = scope.split('/') if scope else []
  return ('/'.join(parts[:length]) for length in range(len(parts) + 1))


def _handed_on() -> set[str]:
  """Returns selectors of objects that the run got without a call by gin, and of their bindings."""
  found: set[str] = set()
  values: list[Any] = [dict(gin_config._OPERATIVE_CONFIG)]
  while values:
    for value in gin_config._iterate_flattened_values(values.pop()):
      selector = _selector(value)
      if selector is not None and selector not in found:
        found.add(selector)
        values += [bound for (_, one), bound in gin_config._CONFIG.items() if one == selector]
  return found


def _selector(value: Any) -> str | None:
  """Returns the selector of a value that is a configurable itself, not a call of it."""
  if isinstance(value, gin_config.ConfigurableReference):
    return None if value.evaluate else value.configurable.selector
  configurable = gin_config._inverse_lookup(value) if callable(value) else None
  return configurable and configurable.selector


def _hint(parameter: str) -> str:
  """Returns the settings that the run has read under the same or a similar name."""
  called = {selector for _, selector in gin_config._OPERATIVE_CONFIG}
  ours: dict[str, list[str]] = {}
  for configurable in gin_names.configurables():
    if configurable.ours and configurable.selector in called:
      for one in configurable.parameters:
        ours.setdefault(one, []).append(f'{configurable.name}.{one}')
  near = gin_names.nearest(parameter, ours)
  return gin_names.did_you_mean(' or '.join(ours[near]) if near else None)

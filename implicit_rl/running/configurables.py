"""Imports the modules whose names a gin line may use, so that gin knows them."""

from __future__ import annotations

import importlib
import pkgutil

import implicit_rl

# Packages whose modules a gin line may name without an import.
_ALWAYS = ('agents', 'remedies', 'diagnostics')
_ALL = (*_ALWAYS, 'data', 'environments', 'gridworld', 'simba', 'soft_moe')


def load(everything: bool = False) -> None:
  """Imports what gin lines may name without an import: agents, remedies and diagnostics.

  Args:
    everything: import all modules that have configurables.
  """
  packages = _ALL if everything else _ALWAYS
  for package in packages:
    found = importlib.import_module(f'{implicit_rl.__name__}.{package}')
    for module in pkgutil.walk_packages(getattr(found, '__path__', []), f'{found.__name__}.'):
      if not module.name.endswith('.__main__'):
        importlib.import_module(module.name)

"""implicit_rl: measure and prevent rank collapse in value-based deep reinforcement learning.

Names of the package, imported on first use:
  load_run: loads a trained run.
  diagnose: measures any JAX network.
  diagnose_features: measures activations from any library.
"""

import importlib
from typing import Any

from implicit_rl.compat import old_names

__version__ = '0.2.0'

old_names.install()

# Imported on first use: their dependencies take seconds to load.
_LAZY = {
  'diagnose': 'implicit_rl.diagnosis.network',
  'diagnose_features': 'implicit_rl.diagnosis.network',
  'load_run': 'implicit_rl.running.loading',
}


def __getattr__(name: str) -> Any:
  """Returns a name of the package."""
  if name not in _LAZY:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  try:
    module = importlib.import_module(_LAZY[name])
  except ModuleNotFoundError as error:
    if not (error.name or '').startswith(f'{__name__}.'):
      raise
    raise ModuleNotFoundError(  # In implicit-rl-rank.
      f'implicit_rl.{name} is in the whole package: pip install implicit_rl'
    ) from None
  return getattr(module, name)


def __dir__() -> list[str]:
  return [*globals(), *_LAZY]

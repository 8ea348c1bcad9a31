"""implicit_rl: measure and prevent rank collapse in value-based deep reinforcement learning.

What it offers by name, imported when it is first used:
  load_run: gives a trained run back.
  diagnose: measures anybody's JAX network.
  diagnose_features: measures activations from any other library.
"""

import importlib
from typing import Any

from implicit_rl.compat import old_names

__version__ = '0.2.0'

old_names.install()

# Imported when they are used: what they need takes seconds to load.
_LAZY = {
  'diagnose': 'implicit_rl.diagnosis.network',
  'diagnose_features': 'implicit_rl.diagnosis.network',
  'load_run': 'implicit_rl.running.loading',
}


def __getattr__(name: str) -> Any:
  """Returns what the package offers by name."""
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

"""Checks that settings and data match those in a run's directory before it resumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from implicit_rl.compat import gin_names

# Settings that may differ between a run and its continuation: its length, and where and how data is
# kept.
_FREE_ON_RESUME = (
  'Alarms.dormant_units',
  'Alarms.one_direction',
  'Alarms.stop',
  'Alarms.values',
  'OfflineRunner.num_iterations',
  'OfflineRunner.keep_checkpoints',
  'OfflineRunner.num_seeds',
  'OfflineRunner.seeds_as',
  'OnlineRunner.num_iterations',
  'OnlineRunner.keep_checkpoints',
  'OnlineRunner.num_seeds',
  'OnlineRunner.seeds_as',
  'Learner.devices',
  'ArraySource.data',
  'DopamineReplay.cache_dir',
  'DopamineReplay.codec',
  'DopamineReplay.data_dir',
  'StoreReplay.frames',
  'StoreReplay.path',
  'TFDSReplay.cache_dir',
  'TFDSReplay.codec',
  'TFDSReplay.data_dir',
  'VectorReplay.path',
)


def fixed_settings() -> dict[str, str]:
  """Returns the settings that a run and its continuation share."""
  return {
    name: value for name, value in gin_names.settings().items() if name not in _FREE_ON_RESUME
  }


def refuse_difference(
  base_dir: str, what: str, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
  """Raises ValueError if a run's settings differ from the given ones; names the first three."""
  differing = [
    f'{name} was {there.get(name, "not set")} and is {here.get(name, "not set")}'
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]
  if differing:
    raise ValueError(
      f'{base_dir} holds a run with another {what}: {"; ".join(differing[:3])}. Use a new '
      '--base_dir, or the settings it was started with.'
    )

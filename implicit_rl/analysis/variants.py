"""Names of variants: short texts of the settings that differ between runs."""

from __future__ import annotations

import glob
import pathlib
import re
from collections.abc import Mapping, Sequence
from os import PathLike

Sources = Mapping[str, Sequence[str | PathLike]] | Sequence[str | PathLike]

# Settings that do not make two runs different variants: the game, the data run of a seed, paths,
# the length, and how the run is measured.
_SAME = re.compile(
  r'(^GAME$|\.game(_name)?$|\.run$|\.seed$|_dir$|\.codec$|^CollectorDispatcher|^Logger\.|^Runner\.'
  r'|Runner\.(num_iterations|evaluation_steps|keep_checkpoints|max_steps_per_episode|num_seeds|seeds_as)$'
  r'|^Learner\.devices$|\.max_steps_per_episode$|\.num_environments$)'
)
_PENALTY, _WEIGHT = 'Learner.penalty', 'Learner.penalty_weight'


def _agent(settings: Mapping[str, str]) -> str:
  reference = settings.get('Experiment.agent', '').strip('@()').split('.')[-1]
  return reference.removesuffix('Agent')


def _penalty(settings: Mapping[str, str]) -> str:
  """Returns the penalty in words; empty if its weight is 0."""
  weight = settings.get(_WEIGHT, '0')
  if weight in ('0', '0.0', 'None'):
    return ''
  return f'{settings.get(_PENALTY, "penalty").strip("@()").split(".")[-1]} {weight}'


def _differing(group: Sequence[Mapping[str, str]]) -> list[str]:
  """Returns names with several values; ignores missing ones, since gin records only first calls."""
  names = {name for settings in group for name in settings if not _SAME.search(name)}
  names -= {_PENALTY, _WEIGHT, 'Experiment.agent'}
  values = {name: {settings[name] for settings in group if name in settings} for name in names}
  return sorted(name for name in names if len(values[name]) > 1)


def _short(name: str, names: Sequence[str]) -> str:
  last = name.split('.')[-1]
  shared = [other for other in names if other.split('.')[-1] == last]
  return last if len(shared) == 1 else '.'.join(name.split('.')[-2:])


def names(settings: Sequence[Mapping[str, str]], paths: Sequence[PathLike]) -> list[str]:
  """Returns a name for each run, equal for runs that differ only in seed, game or length.

  A name has the agent, then the penalty if there is one, then each setting in which runs of that
  agent differ: `DQN + lp_penalty 0.001, fraction=0.2`. Settings that depend only on the agent are
  not repeated.

  Args:
    settings: gin's bindings of each run; empty for a run without a record.
    paths: the directory of each run. Its last part that is not a seed is the name of a run without
      settings.
  """
  made = []
  for own, path in zip(settings, paths, strict=True):
    if not own:
      parts = [p for p in pathlib.Path(path).parts if not re.fullmatch(r'(seed|run)?_?\d+', p)]
      made.append(parts[-1] if parts else str(path))
      continue
    differing = _differing([other for other in settings if other and _agent(other) == _agent(own)])
    name = _agent(own) or 'run'
    if _penalty(own):
      name += f' + {_penalty(own)}'
    for setting in differing:
      value = own.get(setting, 'not set').strip('\'"@')
      name += f', {_short(setting, differing)}={value}'
    made.append(name)
  return made


def parse(arguments: Sequence[str]) -> Sources:
  """Returns the sources of a command line: paths, or NAME=GLOB pairs, which name the variant.

  Raises:
    ValueError: if both kinds are given, or a pattern has no match.
  """
  named = [
    argument for argument in arguments if '=' in argument and not pathlib.Path(argument).exists()
  ]
  if not named:
    return list(arguments)
  if len(named) < len(arguments):
    plain = next(argument for argument in arguments if argument not in named)
    raise ValueError(f'{plain} has no name while {named[0]} has: name all or none, as NAME=GLOB.')
  found: dict[str, list[str]] = {}
  for argument in named:
    name, pattern = argument.split('=', 1)
    paths = sorted(glob.glob(pattern))
    if not paths:
      raise ValueError(f'{argument}: no such file or directory.')
    found.setdefault(name.strip(), []).extend(paths)
  return found

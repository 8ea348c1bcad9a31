"""Reads and checks the leaderboard's YAML file, and lists its cells."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from implicit_rl.sweep import spec as sweep_spec
from implicit_rl.sweep.spec import Planned, Resources

_WHAT = 'a leaderboard'
NONE = 'none'  # The method that all others are compared with.


class Regime(NamedTuple):
  """A setting in which every method is run.

  Attributes:
    gin_files: of the agent and its data.
    bindings: gin lines; they override the files, and a method's bindings override them.
    returns: the returns with scores 0, such as random play's, and 1; None if nothing is evaluated.
    vmap: whether the seeds of a cell train as one program; with False each seed is a run.
  """

  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  returns: tuple[float, float] | None
  vmap: bool


class Method(NamedTuple):
  """A remedy, a control or a pair of remedies.

  Attributes:
    kind: its kind, such as 'loss term', for the tables.
    gin_files: mix-ins.
    bindings: gin lines.
    strength: the gin name of its free number; empty if there is none.
    values: the values to try for it, the authors' default first.
    together: names of the methods that a pair has; empty otherwise.
    excluded: regimes in which it makes no sense, with reasons; a pair has those of its parts.
  """

  kind: str
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  strength: str
  values: tuple[float, ...]
  together: tuple[str, ...]
  excluded: Mapping[str, str]


class Spec(NamedTuple):
  """The leaderboard's file.

  Attributes:
    path: of the file.
    bindings: gin lines of every run; those of a regime override them.
    regimes: by name.
    methods: by name; `none` is among them.
    seeds: of every cell, consecutive.
    tuning_regime: the regime in which strengths are chosen; not one of `regimes`.
    tuning_seeds: its seeds; consecutive, and not in `seeds`.
    resources: what one run occupies.
    retries: how often a run is restarted after its process or machine died.
    slurm: parameters of submitit for the SLURM array.
  """

  path: pathlib.Path
  bindings: tuple[str, ...]
  regimes: Mapping[str, Regime]
  methods: Mapping[str, Method]
  seeds: tuple[int, ...]
  tuning_regime: tuple[str, Regime] | None
  tuning_seeds: tuple[int, ...]
  resources: Resources
  retries: int
  slurm: Mapping[str, Any]

  @property
  def sweep(self) -> sweep_spec.Spec:
    """Returns the file's settings for the sweep code."""
    own: dict[str, Any] = {'path': self.path, 'seeds': self.seeds, 'resources': self.resources}
    own |= {'retries': self.retries, 'slurm': self.slurm}
    return sweep_spec.parse({}, self.path)._replace(**own)


class Cell(NamedTuple):
  """One method in one regime with all seeds, or with one where the regime has `vmap: false`.

  Attributes:
    regime: its name.
    remedy: the method's name.
    setting: its strength, as text; empty without one. A pair's has both.
    seeds: of the cell.
    planned: the run for the sweep code.
  """

  regime: str
  remedy: str
  setting: str
  seeds: tuple[int, ...]
  planned: Planned


def cells(spec: Spec, chosen: Mapping[str, float]) -> list[Cell]:
  """Returns the cells of the table by method, so that a stopped command leaves complete methods.

  Args:
    spec: the leaderboard's.
    chosen: strengths by the method's name; a method that needs a missing one is left out.
  """
  return [
    cell
    for method in spec.methods
    if not open_strengths(spec, method, chosen)
    for regime in spec.regimes.items()
    if (regime[0], method) not in excluded(spec)
    for cell in _cells_of(spec, regime, method, chosen, spec.seeds)
  ]


def open_strengths(spec: Spec, name: str, chosen: Mapping[str, float]) -> list[str]:
  """Returns the parts of a method whose strength is not chosen yet."""
  parts = spec.methods[name].together or (name,)
  return [part for part in parts if spec.methods[part].strength and part not in chosen]


def excluded(spec: Spec) -> dict[tuple[str, str], str]:
  """Returns why the file leaves cells out, by regime and method."""
  return {
    (regime, name): why
    for name, method in spec.methods.items()
    for part in method.together or (name,)
    for regime, why in spec.methods[part].excluded.items()
  }


def tuning_cells(spec: Spec) -> list[Cell]:
  """Returns the cells that choose strengths: each method with each value of its strength."""
  if spec.tuning_regime is None:
    return []
  return [
    cell
    for name, method in spec.methods.items()
    for value in method.values
    for cell in _cells_of(spec, spec.tuning_regime, name, {name: value}, spec.tuning_seeds)
  ]


def _cells_of(
  spec: Spec,
  named: tuple[str, Regime],
  remedy: str,
  chosen: Mapping[str, float],
  seeds: tuple[int, ...],
) -> list[Cell]:
  regime_name, regime = named
  parts = spec.methods[remedy].together or (remedy,)
  methods = [spec.methods[part] for part in parts]
  gin_files = (*regime.gin_files, *(path for one in methods for path in one.gin_files))
  bindings = [*spec.bindings, *regime.bindings, *(line for one in methods for line in one.bindings)]
  settings = []
  for part, method in zip(parts, methods, strict=True):
    if method.strength:
      value = chosen[part]
      bindings.append(f'{method.strength} = {value!r}')
      settings.append(f'{value:g}')
  setting = '+'.join(settings)
  groups = [seeds] if regime.vmap else [(seed,) for seed in seeds]
  if regime.vmap:
    bindings += [f'OfflineRunner.num_seeds = {len(seeds)}', "OfflineRunner.seeds_as = 'vmap'"]
  folder = f'{regime_name}/{remedy}' + f'={setting}' * bool(setting)
  return [
    Cell(
      regime=regime_name,
      remedy=remedy,
      setting=setting,
      seeds=group,
      planned=Planned(
        name=folder if regime.vmap else f'{folder}/seed_{group[0]}',
        variant=remedy,
        game=regime_name,
        seed=group[0],
        gin_files=gin_files,
        bindings=tuple(bindings),
        measured={},
      ),
    )
    for group in groups
  ]


# --- reading --------------------------------------------------------------------------------------

_TOP = ('bindings', 'regimes', 'methods', 'seeds', 'tuning', 'resources', 'retries', 'slurm')


def read(path: str | os.PathLike) -> Spec:
  """Reads and checks the file.

  Raises:
    FileNotFoundError: if it does not exist.
    ValueError: for an invalid entry; the error names the file and the key.
  """
  return parse(*sweep_spec.load(path))


def parse(said: Any, path: pathlib.Path) -> Spec:
  """Checks the content of a file; see `read`."""
  file = _Checked(path, _WHAT)
  said = file.mapping('', said, _TOP)
  methods = {
    file.name('methods', name): file.method(f'methods.{name}', method)
    for name, method in file.mapping('methods', said.get('methods')).items()
  }
  if NONE not in methods:
    raise file.wrong('methods', f'needs `{NONE}: {{}}`, which the others are compared with')
  for name, method in methods.items():
    for part in method.together:
      if part not in methods or methods[part].together:
        raise file.wrong(f'methods.{name}.together', f'names {part!r}, not a single method')
    for regime in method.excluded:
      if regime not in (said.get('regimes') or {}):
        raise file.wrong(f'methods.{name}.excluded', f'names {regime!r}, which is not a regime')
  regimes = {
    file.name('regimes', name): file.regime(f'regimes.{name}', regime)
    for name, regime in file.mapping('regimes', said.get('regimes')).items()
  }
  if not regimes:
    raise file.wrong('regimes', 'is empty')
  seeds = file.seeds('seeds', said.get('seeds', 5))
  tuning = file.mapping('tuning', said.get('tuning'), ('regime', 'seeds'))
  tuning_regime = None
  if tuning:
    named = list(file.mapping('tuning.regime', tuning.get('regime')).items())
    if len(named) != 1 or named[0][0] in regimes:
      raise file.wrong('tuning.regime', 'must be one regime that is not among `regimes`')
    ((one, what),) = named
    tuning_regime = (file.name('tuning.regime', one), file.regime(f'tuning.regime.{one}', what))
  tuning_seeds = file.seeds('tuning.seeds', tuning.get('seeds', [])) if tuning else ()
  if set(seeds) & set(tuning_seeds):
    raise file.wrong('tuning.seeds', 'has a seed that the table uses')
  resources = file.mapping('resources', said.get('resources'), Resources._fields)
  return Spec(
    path=path,
    bindings=file.texts('bindings', said.get('bindings', [])),
    regimes=regimes,
    methods=methods,
    seeds=seeds,
    tuning_regime=tuning_regime,
    tuning_seeds=tuning_seeds,
    resources=Resources(**{k: file.number(f'resources.{k}', v) for k, v in resources.items()}),
    retries=int(file.number('retries', said.get('retries', 3), whole=True)),
    slurm=file.mapping('slurm', said.get('slurm')),
  )


class _Checked(sweep_spec.Checked):
  """Checks values of the leaderboard's file."""

  def seeds(self, key: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
      return tuple(range(value))
    found = [int(self.number(key, one, whole=True)) for one in self.sequence(key, value)]
    if not found or found != list(range(found[0], found[0] + len(found))):
      raise self.wrong(key, f'must be consecutive seeds, such as [100, 101], got {value!r}')
    return tuple(found)

  def regime(self, key: str, value: Any) -> Regime:
    said = dict(self.mapping(key, value, Regime._fields))
    if 'returns' not in said:
      raise self.wrong(f'{key}.returns', 'is missing; `null` is for a regime without evaluation')
    returns = said.pop('returns')
    vmap = said.pop('vmap', True)
    match returns:
      case None:
        scale = None
      case [float() | int() as low, float() | int() as high] if low < high:
        scale = float(low), float(high)
      case _:
        raise self.wrong(f'{key}.returns', f'must be [low, high], got {returns!r}')
    if not isinstance(vmap, bool):
      raise self.wrong(f'{key}.vmap', f'must be true or false, got {vmap!r}')
    choice = self.choice(key, said)
    if not choice.gin_files:
      raise self.wrong(f'{key}.gin_files', 'is empty')
    return Regime(choice.gin_files, choice.bindings, scale, vmap)

  def method(self, key: str, value: Any) -> Method:
    said = dict(self.mapping(key, value, Method._fields))
    kind, strength = said.pop('kind', ''), said.pop('strength', '')
    values = self.sequence(f'{key}.values', said.pop('values', []))
    together = self.texts(f'{key}.together', said.pop('together', []))
    left_out = dict(self.mapping(f'{key}.excluded', said.pop('excluded', {})))
    words = {'kind': kind, 'strength': strength}
    words |= {f'excluded.{regime}': why for regime, why in left_out.items()}
    for name, text in words.items():
      if not isinstance(text, str):
        raise self.wrong(f'{key}.{name}', f'must be text, got {text!r}')
    if bool(strength) != bool(values):
      raise self.wrong(key, 'needs both `strength` and `values`, or neither')
    for one in values:
      self.number(f'{key}.values', one)
    if len(set(values)) < len(values):
      raise self.wrong(f'{key}.values', 'names one twice')
    if together and (said or strength or left_out):
      raise self.wrong(key, 'has `together`, which allows only `kind` besides')
    choice = self.choice(key, said)
    return Method(
      kind, choice.gin_files, choice.bindings, strength, tuple(values), together, left_out
    )

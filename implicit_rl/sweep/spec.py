"""Reads and checks a sweep's YAML file, and lists its runs."""

from __future__ import annotations

import difflib
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from implicit_rl.compat import config_files

_NAME = re.compile(r'[\w.+%=-]+')  # Of games and choices, parts of a run's directory.


class Choice(NamedTuple):
  """One value of an overlay.

  Attributes:
    gin_files: read after the sweep's own and those of earlier overlays.
    bindings: gin lines; they override those of the sweep and of earlier overlays.
    measured: entries that replace the sweep's `measured` for this choice.
  """

  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  measured: Mapping[str, float]


class Resources(NamedTuple):
  """Resources of one run.

  Attributes:
    cpus: cores; with 1 the run uses one thread.
    gpus: number of GPUs; may be a fraction.
    memory_gb: of main memory; 0 reserves none.
  """

  cpus: float = 1
  gpus: float = 0
  memory_gb: float = 0


class Spec(NamedTuple):
  """A sweep's file.

  Attributes:
    path: of the file.
    gin_files: of every run, read first.
    bindings: gin lines of every run; `{game}` and `{seed}` are replaced.
    games: one run for each; empty for experiments without games.
    seeds: of the runs.
    overlays: by the overlay's name, its choices by name; each run has one choice of each.
    vmapped: overlays whose choices train as one vmapped program, in one process.
    resources: of one run.
    retries: how often a run is restarted after its process or machine died.
    slurm: parameters of submitit for the SLURM array, such as `partition`.
    measured: `updates_per_second`, `steps_per_second` (acting in an evaluation) and
      `megabytes_per_run`, and in words the `device` and `command` they were measured with.
  """

  path: pathlib.Path
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  games: tuple[str, ...]
  seeds: tuple[int, ...]
  overlays: Mapping[str, Mapping[str, Choice]]
  vmapped: tuple[str, ...]
  resources: Resources
  retries: int
  slurm: Mapping[str, Any]
  measured: Mapping[str, Any]


class Planned(NamedTuple):
  """One run of a sweep, before it has a directory.

  Attributes:
    name: its directory below the sweep's; unique.
    variant: its name in tables: the choices of the overlays.
    game: empty without games.
    seed: of the run.
    gin_files: in order.
    bindings: in order.
    measured: the sweep's, with the replacements of its choices.
    group: a text that runs of one program share; empty for a run that trains alone.
  """

  name: str
  variant: str
  game: str
  seed: int
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  measured: Mapping[str, Any]
  group: str = ''


def expand(spec: Spec) -> tuple[Planned, ...]:
  """Returns the runs in the file's order: the first overlay varies slowest, the seeds fastest."""
  planned = []
  axes = [tuple(choices.items()) for choices in spec.overlays.values()]
  for chosen in itertools.product(*axes):
    names = [name for name, _ in chosen]
    choices = [choice for _, choice in chosen]
    gin_files = [*spec.gin_files, *(path for one in choices for path in one.gin_files)]
    bindings = [*spec.bindings, *(line for one in choices for line in one.bindings)]
    measured = dict(spec.measured)
    for one in choices:
      measured |= one.measured
    apart = [
      name for axis, name in zip(spec.overlays, names, strict=True) if axis not in spec.vmapped
    ]
    for game, seed in itertools.product(spec.games or ('',), spec.seeds):
      place = [*([game] if game else []), f'seed_{seed}']
      planned.append(
        Planned(
          name='/'.join([*names, *place]),
          variant=', '.join(names) or spec.path.stem,
          game=game,
          seed=seed,
          gin_files=tuple(_filled(path, game, seed) for path in gin_files),
          bindings=tuple(_filled(line, game, seed) for line in bindings),
          measured=measured,
          group='/'.join([*apart, *place]) if spec.vmapped else '',
        )
      )
  return tuple(planned)


def groups(planned: Sequence[Planned]) -> list[tuple[Planned, ...]]:
  """Returns the runs by process, in their order: alone, or with those of the same group."""
  found: dict[str, list[Planned]] = {}
  for run in planned:
    found.setdefault(run.group or run.name, []).append(run)
  return [tuple(runs) for runs in found.values()]


def _filled(text: str, game: str, seed: int) -> str:
  return text.replace('{game}', game).replace('{seed}', str(seed))


# --- reading --------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
  """YAML that refuses repeated keys, of which it would silently use the last."""

  def construct_mapping(self, node, deep=False):
    seen = set()
    for key_node, _ in node.value:
      key = self.construct_object(key_node, deep=True)
      if isinstance(key, str | int | float) and key in seen:
        raise yaml.constructor.ConstructorError(
          None, None, f'{key} is given twice', key_node.start_mark
        )
      seen.add(key if isinstance(key, str | int | float) else id(key_node))
    return super().construct_mapping(node, deep)


def read(path: str | os.PathLike) -> Spec:
  """Reads and checks a sweep's file.

  Args:
    path: found as in `config_files.find`.

  Raises:
    FileNotFoundError: if it does not exist.
    ValueError: for an invalid entry; the error names the file and the key.
  """
  return parse(*load(path))


def load(path: str | os.PathLike) -> tuple[Any, pathlib.Path]:
  """Returns the unchecked content of a YAML file, and its path.

  Raises:
    FileNotFoundError: if it does not exist; the error names the nearest one.
    ValueError: if it is not YAML; the error names the file and the line.
  """
  path = pathlib.Path(config_files.find(os.fspath(path), '--spec: '))
  try:
    return yaml.load(path.read_text(encoding='utf-8'), _Loader), path
  except yaml.YAMLError as error:
    mark = getattr(error, 'problem_mark', None)
    where = f' line {mark.line + 1}:' if mark else ''
    raise ValueError(f'{path}:{where} {getattr(error, "problem", None) or error}') from error


def parse(said: Any, path: pathlib.Path) -> Spec:
  """Checks the content of a file; see `read`."""
  file = Checked(path)
  file.mapping('', said, Spec._fields[1:])
  overlays, vmapped = {}, []
  for axis, given in file.mapping('overlays', said.get('overlays', {})).items():
    key = f'overlays.{axis}'
    choices = dict(file.mapping(key, given))
    if file.boolean(f'{key}.vmap', choices.pop('vmap', False)):
      vmapped.append(axis)
    if not choices:
      raise file.wrong(key, 'needs at least one choice, such as `none: {}`')
    overlays[axis] = {
      file.name(key, name): file.choice(f'{key}.{name}', choice) for name, choice in choices.items()
    }
  resources = file.mapping('resources', said.get('resources', {}), Resources._fields)
  for name, value in resources.items():
    file.number(f'resources.{name}', value)
  seeds = said.get('seeds', [0])
  if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
    seeds = list(range(seeds))
  spec = Spec(
    path=path,
    gin_files=file.gin_files('gin_files', said.get('gin_files', [])),
    bindings=file.texts('bindings', said.get('bindings', [])),
    games=tuple(file.name('games', game) for game in file.sequence('games', said.get('games', []))),
    seeds=tuple(
      int(file.number('seeds', seed, whole=True)) for seed in file.sequence('seeds', seeds)
    ),
    overlays=overlays,
    vmapped=tuple(vmapped),
    resources=Resources(**resources),
    retries=int(file.number('retries', said.get('retries', 3), whole=True)),
    slurm=file.mapping('slurm', said.get('slurm', {})),
    measured=file.measured('measured', said.get('measured', {}), words=True),
  )
  for key, values in (('games', spec.games), ('seeds', spec.seeds)):
    if len(set(values)) < len(values):
      raise file.wrong(key, 'names one twice')
  if not spec.seeds:
    raise file.wrong('seeds', 'is empty')
  return spec


_MEASURED = ('updates_per_second', 'steps_per_second', 'megabytes_per_run')


class Checked:
  """Checks values of one file; every error names the file and the key.

  Args:
    path: of the file.
    kind: the kind of file, for errors.
  """

  def __init__(self, path: pathlib.Path, kind: str = 'a sweep'):
    self._path, self._kind = path, kind

  def wrong(self, key: str, what: str) -> ValueError:
    """Returns the error that names the file and the key."""
    return ValueError(f'{self._path}: {key} {what}.' if key else f'{self._path}: {what}.')

  def mapping(self, key: str, value: Any, known: Sequence[str] = ()) -> Mapping[str, Any]:
    """Returns names with values; only names in `known` are allowed; None means none."""
    if value is None:  # A key with nothing after it.
      return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
      raise self.wrong(key, f'must be names with values, got {value!r}')
    for name in value:
      if known and name not in known:
        whole = f'{key}.{name}' if key else name
        near = difflib.get_close_matches(name, known, 1)
        hint = f'did you mean {near[0]}?' if near else f'known are {", ".join(known)}'
        raise self.wrong(whole, f'is not a key of {self._kind}; {hint}')
    return value

  def sequence(self, key: str, value: Any) -> list[Any]:
    """Returns a list."""
    if not isinstance(value, list):
      raise self.wrong(key, f'must be a list, got {value!r}')
    return value

  def texts(self, key: str, value: Any) -> tuple[str, ...]:
    """Returns a list of text."""
    for text in self.sequence(key, value):
      if not isinstance(text, str):
        raise self.wrong(key, f'must hold text; put quotes around {text!r}')
    return tuple(value)

  def boolean(self, key: str, value: Any) -> bool:
    """Returns true or false."""
    if not isinstance(value, bool):
      raise self.wrong(key, f'must be true or false, got {value!r}')
    return value

  def name(self, key: str, value: Any) -> str:
    """Returns a name that can be a directory."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or not value.strip('.'):
      raise self.wrong(key, f'holds {value!r}, which cannot be a directory: use letters, digits, _')
    return value

  def number(self, key: str, value: Any, whole: bool = False) -> float:
    """Returns a number of at least 0."""
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
      what = 'whole numbers' if whole else 'numbers'
      raise self.wrong(key, f'must be {what}, at least 0, got {value!r}')
    return value

  def gin_files(self, key: str, value: Any) -> tuple[str, ...]:
    """Returns existing gin files."""
    for name in self.texts(key, value):
      if '{' not in name:
        try:
          config_files.find(name, f'{self._path}: {key} names ')
        except OSError as error:
          raise ValueError(str(error)) from error
    return tuple(value)

  def measured(self, key: str, value: Any, words: bool = False) -> Mapping[str, Any]:
    """Returns measured speeds."""
    known = (*_MEASURED, 'device', 'command') if words else _MEASURED
    for name, number in self.mapping(key, value, known).items():
      if name in _MEASURED and not self.number(f'{key}.{name}', number):
        raise self.wrong(f'{key}.{name}', 'must be above 0')
    return value or {}

  def choice(self, key: str, value: Any) -> Choice:
    """Returns the choice of an overlay."""
    said = self.mapping(key, value, Choice._fields)
    return Choice(
      gin_files=self.gin_files(f'{key}.gin_files', said.get('gin_files', [])),
      bindings=self.texts(f'{key}.bindings', said.get('bindings', [])),
      measured=self.measured(f'{key}.measured', said.get('measured', {})),
    )

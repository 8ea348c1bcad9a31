"""Reads the files of runs: one tidy table of their metrics, their settings, their spectra."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from implicit_rl.analysis import log_pickles, variants
from implicit_rl.logs import jsonl

# The columns that identify a row of the table; every other column is a metric.
KEYS = ('variant', 'suite', 'game', 'seed', 'run', 'iteration')
_SUITES = {'AtariEnvironment': 'atari', 'MinAtarEnvironment': 'minatar'}


class Run(NamedTuple):
  """One run.

  Attributes:
    path: its --base_dir.
    rows: a row per iteration, from metrics.jsonl, or without that file from Dopamine's newest log.
    settings: gin's bindings, by name; macros are resolved. Empty without a record.
    start: run.json's entry for the newest start; empty if there is none.
  """

  path: pathlib.Path
  rows: list[dict[str, Any]]
  settings: dict[str, str]
  start: dict[str, Any]

  @property
  def suite(self) -> str:
    """The family of its game: atari, minatar, …; empty if unknown."""
    constructor = self.settings.get('Experiment.environment', '').strip('@()').split('.')[-1]
    return _SUITES.get(constructor, constructor.removesuffix('Environment').lower())

  @property
  def game(self) -> str:
    """Its game, in gin's spelling."""
    named = self.start.get('environment') or self.settings.get('GAME', '')
    for name, value in self.settings.items():
      if not named and name.endswith(('.game', '.game_name')):
        named = value
    return named.strip('\'"')

  @property
  def commit(self) -> str:
    """The short commit of the run, with '+' if the checkout had changes; may be empty."""
    revision = str(self.start.get('git_revision') or '')
    return revision[:7] + '+' * revision.endswith('+')

  @property
  def seed(self) -> int:
    """Its --seed; for a run without a record, the number at the end of its directory's name."""
    if 'seed' in self.start:
      return int(self.start['seed'])
    number = re.search(r'(\d+)$', self.path.name)
    return int(number[1]) if number else 0


def read_settings(path: str | PathLike) -> dict[str, str]:
  """Returns the bindings of an operative_config.gin, by name; `%NAME` is replaced by its value."""
  settings: dict[str, str] = {}
  name = ''
  for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines():
    bound = re.match(r'([\w./]+) = (.*)', line)
    if bound:
      name = bound[1]
      settings[name] = bound[2].rstrip('\\').strip()
    elif line.startswith(' ') and name:
      settings[name] += f' {line.strip()}' if settings[name] else line.strip()
  for key, value in settings.items():
    if value.startswith('%'):
      settings[key] = settings.get(value[1:], value)
  return settings


def is_run(directory: pathlib.Path) -> bool:
  """Whether a directory is the --base_dir of a run that has logged an iteration."""
  return (directory / 'metrics.jsonl').exists() or log_pickles.newest(directory) is not None


def find(path: str | PathLike) -> list[pathlib.Path]:
  """Returns the runs at or below a directory, in order; directories inside runs are not searched.

  Raises:
    FileNotFoundError: if there is no run.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise FileNotFoundError(
      f'{root} does not exist: give the --base_dir of a run, or a parent directory.'
    )
  found, waiting = [], [root]
  while waiting:
    directory = waiting.pop()
    if is_run(directory):
      found.append(directory)
    else:
      waiting += (child for child in directory.iterdir() if child.is_dir())
  if not found:
    raise FileNotFoundError(f'{root} has no metrics.jsonl: it is not the --base_dir of a run.')
  return sorted(found, key=_natural)


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
  return [(int(part or -1), '') if part.isdigit() else (-1, part) for part in _pieces(path)]


def _pieces(path: pathlib.Path) -> list[str]:
  return re.split(r'(\d+)', str(path))


def read(base_dir: str | PathLike) -> Run:
  """One run.

  Raises:
    FileNotFoundError: if there is no log.
    ValueError: if the log has no row.
  """
  path = pathlib.Path(base_dir)
  log = path / 'metrics.jsonl'
  pickled = log_pickles.newest(path)
  if log.exists():
    rows = jsonl.read(log)
  elif pickled:
    log, rows = pickled, log_pickles.rows(pickled)
  else:
    raise FileNotFoundError(f'{log} is missing: {path} is not the --base_dir of a run.')
  if not rows:
    raise ValueError(f'{log} has no row: the run has not finished its first iteration.')
  config, record = path / 'operative_config.gin', path / 'run.json'
  settings = read_settings(config) if config.exists() else {}
  try:
    starts = json.loads(record.read_text())['starts'] if record.exists() else []
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{record} is damaged ({error}): remove it to read the run without it.'
    ) from error
  return Run(path, rows, settings, starts[-1] if starts else {})


def read_all(sources: variants.Sources) -> dict[str, list[Run]]:
  """Returns the runs of each variant by name; missing names are derived from the settings.

  Args:
    sources: by the variant's name, or only the paths: directories of runs or parent directories.
  """
  if isinstance(sources, Mapping):
    return {
      name: [read(run) for path in paths for run in find(path)] for name, paths in sources.items()
    }
  runs = [read(run) for path in sources for run in find(path)]
  unique = list({run.path.resolve(): run for run in runs}.values())
  named: dict[str, list[Run]] = {}
  for name, run in zip(
    variants.names([run.settings for run in unique], [run.path for run in unique]),
    unique,
    strict=True,
  ):
    named.setdefault(name, []).append(run)
  return named


def frame(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
  """Returns the tidy table: a row per run and iteration; KEYS, then metrics, NaN if absent."""
  parts = []
  for variant, members in runs.items():
    for run in members:
      part = _table(run.rows)
      part = part.drop(columns=[name for name in KEYS[:-1] if name in part])
      metrics = [name for name in part if name not in KEYS]
      # Before they are joined, since a column of nulls is not numeric yet.
      numbers = part[metrics].apply(pd.to_numeric, errors='coerce').astype(np.float64)
      named = (variant, run.suite, run.game, run.seed, str(run.path))
      keys = pd.DataFrame(dict(zip(KEYS[:-1], named, strict=True)), index=part.index)
      parts.append(pd.concat([keys, part[[KEYS[-1]]], numbers], axis=1))
  table = pd.concat(parts, ignore_index=True)
  return table[[*KEYS, *(name for name in table if name not in KEYS)]]


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
  """Returns rows of metrics.jsonl as a table; a list, such as the alarms, becomes its length."""
  return pd.DataFrame(
    [{k: len(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
  )


def read_rows(path: str | PathLike) -> pd.DataFrame:
  """Returns a saved tidy table: .csv, or .jsonl with a row per line.

  It needs `iteration` or `updates`, and metrics; absent KEYS are empty. Rows of one variant, game
  and seed are one run.

  Raises:
    ValueError: for another kind of file, or one without rows or without an axis.
  """
  path = pathlib.Path(path)
  if path.suffix == '.csv':
    table = pd.read_csv(path, keep_default_na=False, na_values=['', 'nan', 'NaN', 'None', 'null'])
  elif path.suffix == '.jsonl':
    table = _table(jsonl.read(path))
  else:
    raise ValueError(
      f'{path}: rows are read from .csv and .jsonl, not from {path.suffix or "that"}.'
    )
  if not len(table):
    raise ValueError(f'{path} has no row.')
  if 'iteration' not in table:
    if 'updates' not in table:
      raise ValueError(f'{path} has neither iteration nor updates; it has {", ".join(table)}.')
    table['iteration'] = table['updates']
  for key in ('variant', 'suite', 'game'):
    table[key] = table[key].fillna('').astype(str) if key in table else ''
  if 'seed' not in table:
    table['seed'] = 0
  if 'run' not in table:
    parts = [table[key].astype(str) for key in ('variant', 'game', 'seed')]
    table['run'] = parts[0].str.cat(parts[1:], sep='/')
  metrics = [name for name in table if name not in KEYS]
  numbers = table[metrics].apply(pd.to_numeric, errors='coerce').astype(np.float64)
  words = [name for name in metrics if numbers[name].isna().all() and table[name].notna().any()]
  return pd.concat([table[list(KEYS)], numbers.drop(columns=words)], axis=1)


def load(sources: variants.Sources) -> pd.DataFrame:
  """Returns the tidy table of directories of runs, or of files of saved rows.

  Args:
    sources: by the variant's name, or just the paths.
  """
  given = sources.items() if isinstance(sources, Mapping) else [('', sources)]
  tables, directories = [], {}
  for name, paths in given:
    files = [path for path in paths if pathlib.Path(path).is_file()]
    for path in files:
      table = read_rows(path)
      tables.append(table.assign(variant=name) if name else table)
    directories[name] = [path for path in paths if path not in files]
  directories = {name: paths for name, paths in directories.items() if paths}
  if directories:
    named = directories if isinstance(sources, Mapping) else directories['']
    tables.append(frame(read_all(named)))
  if not tables:
    raise ValueError('Give at least one --base_dir of a run.')
  return pd.concat(tables, ignore_index=True)


def spectra(base_dir: str | PathLike) -> pd.DataFrame:
  """Returns a run's singular values: a row per iteration [T], a column per index [m], descending.

  The table's index is `updates`.

  Raises:
    FileNotFoundError: if the run has no spectra.jsonl.
  """
  path = pathlib.Path(base_dir) / 'spectra.jsonl'
  if not path.exists():
    raise FileNotFoundError(f'{path} is missing: {base_dir} logged no singular values.')
  rows = jsonl.read(path)
  values = pd.DataFrame([row['singular_values'] for row in rows], dtype=np.float64)
  values.index = pd.Index([row['updates'] for row in rows], name='updates')
  return values

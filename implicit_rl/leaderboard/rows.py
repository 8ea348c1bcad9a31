"""The rows of the leaderboard: one for each finished regime, remedy and seed, saved as CSV."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import numpy as np
import pandas as pd

from implicit_rl.analysis import runs, style
from implicit_rl.compat import config_files
from implicit_rl.leaderboard.spec import Cell, Spec
from implicit_rl.logs.running_means import NonFiniteError
from implicit_rl.running import configurables, parallel_runs
from implicit_rl.sweep import jobs

ROWS, EXCLUDED, TUNING = 'rows.csv', 'excluded.csv', 'tuning.csv'
KEY = ('regime', 'remedy', 'seed')  # Key of a row; tuning rows add the setting.
TUNING_KEY = ('regime', 'remedy', 'setting', 'seed')
LAST = 3  # number of evaluations in the final return

# Measures of the last iteration, by their names in metrics.jsonl.
MEASURES = (
  'srank',
  'effective_rank',
  'centred_effective_rank',
  'pca_rank',
  'dormant_units',
  'plasticity_error_ratio',
  'q_mean',
  'q_data_gap',
  'td_error',
)
# Measures that are also saved for the first iteration, as `first_srank` and so on.
FROM_FIRST = ('srank', 'effective_rank', 'centred_effective_rank', 'pca_rank')
COLUMNS = (
  *TUNING_KEY,
  'updates',
  'final_return',
  'best_return',
  *MEASURES,
  *(f'first_{name}' for name in FROM_FIRST),
  'cpu_seconds',
  'commit',
)


class Book:
  """Two tables in a directory: rows of finished cells, and cells that cannot exist.

  Each change rewrites a table and moves it into place, under a lock. A killed process leaves the
  old table or the new one, and simultaneous writers lose nothing.

  Args:
    folder: of the tables; created if absent.
    rows: file name of the rows, ROWS or TUNING.
    cells: their order is that of the rows; rows of other cells are kept at the end.
  """

  def __init__(self, folder: pathlib.Path, rows: str, cells: Sequence[Cell]):
    folder.mkdir(parents=True, exist_ok=True)
    self._rows, self._excluded = folder / rows, folder / EXCLUDED
    self._key = list(TUNING_KEY if rows == TUNING else KEY)
    all_seeds = [(cell, seed) for cell in cells for seed in cell.seeds]
    self._places = {
      (cell.regime, cell.remedy, cell.setting, seed): n for n, (cell, seed) in enumerate(all_seeds)
    }

  def add(self, spec: Spec, cell: Cell, job: parallel_runs.Job) -> None:
    """Adds a cell's rows if it is finished, or its error if it was refused; else does nothing."""
    why = _never_read(spec, cell, job) if job.finished else refusal(job)
    if why and self._key == list(TUNING_KEY):  # A tried value without a return.
      key = {'regime': cell.regime, 'remedy': cell.remedy, 'setting': cell.setting}
      self._write([key | {'seed': seed} for seed in cell.seeds])
    elif why:
      self.exclude({(cell.regime, cell.remedy): why})
    elif job.finished:
      self._write(_rows(cell, job))

  def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
    with _locked(self._rows.parent):
      table = _merged(read(self._rows), rows, self._key)
      names = table[list(TUNING_KEY)].itertuples(index=False, name=None)
      places = [self._places.get(key, len(self._places)) for key in names]
      table = table.assign(place=places).sort_values('place', kind='stable')
      _write(table.drop(columns='place'), self._rows)
      excluded = read(self._excluded)
      if len(excluded):  # A cell that could not exist before may exist now.
        here = {(row['regime'], row['remedy']) for row in rows}
        pairs = zip(excluded['regime'], excluded['remedy'], strict=True)
        _write(excluded[[pair not in here for pair in pairs]], self._excluded)

  def exclude(self, cells: Mapping[tuple[str, str], str]) -> None:
    """Adds cells that cannot exist: why, by regime and remedy."""
    if not cells:
      return
    rows = [{'regime': r, 'remedy': m, 'why': why} for (r, m), why in cells.items()]
    with _locked(self._rows.parent):
      table = _merged(read(self._excluded), rows, ['regime', 'remedy'])
      _write(table.sort_values(['regime', 'remedy']), self._excluded)


def read(path: pathlib.Path) -> pd.DataFrame:
  """Returns a table; an empty one if the file does not exist."""
  columns = ('regime', 'remedy', 'why') if path.name == EXCLUDED else COLUMNS
  if not path.exists():
    return pd.DataFrame(columns=list(columns))
  words = dict.fromkeys(('regime', 'remedy', 'setting', 'commit', 'why'), str)
  absent = {name: [''] for name in columns if name not in words}
  return pd.read_csv(path, dtype=words, keep_default_na=False, na_values=absent)


def refusal(job: parallel_runs.Job) -> str | None:
  """Returns why a cell cannot exist: the error that refused the run, or a non-finite number."""
  ends = jobs.ends(job)
  kind = ends[-1].get('kind') if ends else None
  refused = kind == NonFiniteError.__name__ or (kind == 'ValueError' and not job.done)
  return ends[-1]['error'] if refused else None


def _merged(table: pd.DataFrame, rows: Sequence[Mapping[str, Any]], key: list[str]) -> pd.DataFrame:
  """Adds rows; a row replaces another with the same key."""
  new = pd.DataFrame(rows, columns=table.columns)
  both = pd.concat([table, new]) if len(table) else new
  return both.drop_duplicates(key, keep='last')


def _write(table: pd.DataFrame, path: pathlib.Path) -> None:
  aside = path.with_suffix('.partial')
  style.write_csv(table, aside)
  with open(aside) as file:
    os.fsync(file.fileno())
  os.replace(aside, path)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  directory = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(directory, fcntl.LOCK_EX)  # Released when the process ends.
    yield
  finally:
    os.close(directory)


# --- one cell -------------------------------------------------------------------------------------


def _rows(cell: Cell, job: parallel_runs.Job) -> list[dict[str, Any]]:
  """Returns the rows of a finished cell."""
  return [
    {'regime': cell.regime, 'remedy': cell.remedy, 'setting': cell.setting, 'seed': seed}
    | _measured(runs.read(path))
    | {'cpu_seconds': _cost(job, len(cell.seeds))}
    for seed, path in zip(cell.seeds, _directories(cell, job), strict=True)
  ]


def _directories(cell: Cell, job: parallel_runs.Job) -> list[pathlib.Path]:
  """Returns the directory of each seed's run."""
  if (job.base_dir / 'metrics.jsonl').exists():
    return [job.base_dir]
  return [job.base_dir / f'seed_{seed}' for seed in cell.seeds]


def _measured(run: runs.Run) -> dict[str, Any]:
  number = lambda row, name: np.nan if row.get(name) is None else row[name]
  returns = np.array([number(row, 'eval_return') for row in run.rows], np.float64)
  returns = returns[np.isfinite(returns)]
  first, last = run.rows[0], run.rows[-1]
  return {
    'updates': last['updates'],
    'final_return': returns[-LAST:].mean() if returns.size else np.nan,
    'best_return': returns.max() if returns.size else np.nan,
    **{name: number(last, name) for name in MEASURES},
    **{f'first_{name}': number(first, name) for name in FROM_FIRST},
    'commit': run.commit,
  }


def _cost(job: parallel_runs.Job, seeds: int) -> float:
  """Returns the CPU seconds of one seed; NaN if a start was killed."""
  ends = jobs.ends(job)
  return (
    sum(end['cpu_seconds'] for end in ends) / seeds if len(ends) == jobs.starts(job) else np.nan
  )


def _never_read(spec: Spec, cell: Cell, job: parallel_runs.Job) -> str | None:
  """Returns why a cell's method did nothing, if the run never read its bindings."""
  read = {_last_two(name) for name in runs.read(_directories(cell, job)[0]).settings}
  for part in spec.methods[cell.remedy].together or (cell.remedy,):
    bound = _bound(spec, part)
    if bound and not bound & read:
      return f'The run reads nothing that {part} binds, such as {min(bound)}.'
  return None


def _bound(spec: Spec, name: str) -> set[str]:
  """Returns the bindings of a method, as CLASS.parameter."""
  method = spec.methods[name]
  configurables.load()
  gin.clear_config()
  config_files.parse(method.gin_files)
  lines = gin.config_str(max_line_length=10**6).splitlines()
  gin.clear_config()
  lines += [*method.bindings, *([f'{method.strength} = 0'] if method.strength else [])]
  names = [line.split(' = ', 1)[0] for line in lines if ' = ' in line and line[0] not in '# ']
  return {_last_two(name) for name in names if '.' in name}


def _last_two(name: str) -> str:
  return '.'.join(name.split('.')[-2:])

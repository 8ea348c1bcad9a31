"""Rows, tables and figures of the offline MinAtar experiments, from finished runs or from CSV."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from implicit_rl import rank
from implicit_rl.analysis import bars, curves, runs, scores, style, tables
from implicit_rl.running import parallel_runs

SETTING = ('fraction', 'learning_rate', 'width', 'target_period')
MEASURED = (
  'updates srank eval_return td_error q_mean q_max sigma_max sigma_min dead_units feature_norm '
  'stable_rank effective_rank numerical_rank loss eval_return_std eval_episodes updates_per_second'
).split()
# The measures of `centred.csv`.
RANKS = (
  'updates',
  *rank.WORDS,
  'stable_rank',
  'centred_stable_rank',
  'q_mean',
  'q_max',
  'td_error',
  'eval_return',
  'alarms',
)
NAMES = {
  'dqn': 'DQN',
  'cql': 'CQL',
  'rainbow': 'Rainbow',
  'fqe': 'FQE',
  'monte_carlo': 'Monte Carlo',
}
PENALTY = ' + penalty'
LAST = 3  # evaluations that the second score averages


def collect(
  pairs: Iterable[tuple[Mapping[str, Any], parallel_runs.Job]],
  measured: Sequence[str] = MEASURED,
) -> pd.DataFrame:
  """The tidy table of the runs that are finished, with their settings and the commit that ran.

  Args:
    pairs: a run as plain data and what was run for it.
    measured: the measures to keep.
  """
  parts = []
  for setting, job in pairs:
    if job.done < job.iterations:
      continue
    variant = NAMES[setting['agent']] + PENALTY * setting['penalty']
    run = runs.read(job.base_dir)
    part = runs.frame({variant: [run]})[[*runs.KEYS, *measured]]
    part['run'] = '/'.join(job.base_dir.parts[-4:])
    part = part.assign(**{name: setting[name] for name in SETTING})
    parts.append(part.assign(revision=run.commit))
  return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def matrix(group: pd.DataFrame, metric: str) -> np.ndarray:
  """A metric of runs that differ by their seed: [seeds, T]."""
  return group.pivot(index='seed', columns='updates', values=metric).to_numpy()


_COLUMNS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], int]] = {
  'srank first': ('srank', lambda values: values[:, 0], 0),
  'least': ('srank', lambda values: values.min(1), 0),
  'last': ('srank', lambda values: values[:, -1], 0),
  'return best': ('eval_return', lambda values: values.max(1), 1),
  f'mean of last {LAST}': ('eval_return', lambda values: values[:, -LAST:].mean(1), 1),
  'TD error first': ('td_error', lambda values: values[:, 0], 2),
  'TD error last': ('td_error', lambda values: values[:, -1], 2),
  'mean Q last': ('q_mean', lambda values: values[:, -1], 1),
  'σ_max last': ('sigma_max', lambda values: values[:, -1], 0),
  'dead units last': ('dead_units', lambda values: values[:, -1], 2),
}


def _row(group: pd.DataFrame) -> dict[str, str]:
  """How a group of seeds went, as text: mean ± sample standard deviation."""
  return {
    name: tables.mean_and_spread(take(matrix(group, metric)), digits)
    for name, (metric, take, digits) in _COLUMNS.items()
  }


def search_table(search: pd.DataFrame) -> str:
  """What each setting of the search did; one seed."""
  rows = []
  for (game, *setting), group in search.groupby(['game', *SETTING], sort=False):
    words = dict(zip(SETTING, (f'{value:g}' for value in setting), strict=True))
    rows.append({'game': game} | words | {'updates': f'{group["updates"].max():,.0f}'})
    rows[-1] |= _row(group)
  return tables.markdown(pd.DataFrame(rows).rename(columns={'learning_rate': 'rate'}))


def grid_table(grid: pd.DataFrame) -> str:
  """What each agent did in each game on each fraction, with and without the penalty."""
  rows = []
  for (fraction, game, variant), group in grid.groupby(['fraction', 'game', 'variant'], sort=False):
    seeds = group['seed'].nunique()
    rows.append({'data': f'{fraction:.0%}', 'game': game, 'agent': variant, 'seeds': seeds})
    rows[-1] |= _row(group)
  return tables.markdown(pd.DataFrame(rows))


def rank_table(rows: pd.DataFrame, metrics: Sequence[str]) -> str:
  """First → last of each rank for every agent without the penalty: mean over seeds."""
  lines = []
  plain = rows[~rows['variant'].str.endswith(PENALTY)]
  for (fraction, game, variant), group in plain.groupby(
    ['fraction', 'game', 'variant'], sort=False
  ):
    line = {'data': f'{fraction:.0%}', 'game': game, 'agent': variant}
    line['seeds'] = group['seed'].nunique()
    for metric in metrics:
      values = matrix(group, metric)
      begin, end = (tables.mean_and_spread(values[:, at], 0) for at in (0, -1))
      line[rank.WORDS[metric]] = f'{begin} → {end}'
    lines.append(line)
  return tables.markdown(pd.DataFrame(lines))


def grid_ranks(grid: pd.DataFrame) -> str:
  """The raw ranks of the grid, of which PCA and centred ones were not logged."""
  return rank_table(grid, ('srank', 'effective_rank'))


def centred_ranks(centred: pd.DataFrame) -> str:
  """Raw and centred ranks of the runs that log both."""
  return rank_table(centred, list(rank.WORDS))


def gain_table(grid: pd.DataFrame) -> str:
  """With the penalty minus without, seed by seed; the best return's change in per cent."""
  rows = []
  for (fraction, game), part in grid.groupby(['fraction', 'game'], sort=False):
    for base, variant in _pairs(part):
      halves = [part[part['variant'] == name] for name in (base, variant)]
      row = {'data': f'{fraction:.0%}', 'game': game, 'agent': base}
      for name in ('last', 'return best', f'mean of last {LAST}', 'TD error last'):
        metric, take, digits = _COLUMNS[name]
        without, with_ = (take(matrix(half, metric)) for half in halves)
        label = 'srank last' if name == 'last' else name
        row[label] = tables.mean_and_spread(with_ - without, digits)
        if name == 'return best':
          row['best, %'] = f'{100 * (with_.mean() / without.mean() - 1):+.0f}'
      rows.append(row)
  return tables.markdown(pd.DataFrame(rows)) if rows else ''


def _pairs(part: pd.DataFrame) -> list[tuple[str, str]]:
  """(without, with) of the agents that have both halves of the same seeds."""
  seeds = {name: set(group['seed']) for name, group in part.groupby('variant', sort=False)}
  return [(n, n + PENALTY) for n in seeds if seeds[n] == seeds.get(n + PENALTY)]


def all_tables(search: pd.DataFrame, grid: pd.DataFrame, centred: pd.DataFrame) -> list[str]:
  """The tables as they stand in docs/minatar_offline.md; without runs there is none."""
  found = [search_table(search)] if len(search) else []
  found += [grid_table(grid), gain_table(grid), grid_ranks(grid)] if len(grid) else []
  return found + ([centred_ranks(centred)] if len(centred) else [])


def load(folder: pathlib.Path) -> list[pd.DataFrame]:
  """The kept rows of search, grid and centred; an empty table where nothing is kept."""
  paths = [folder / f'{name}.csv' for name in ('search', 'grid', 'centred')]
  return [runs.read_rows(path) if path.exists() else pd.DataFrame() for path in paths]


def draw(search: pd.DataFrame, grid: pd.DataFrame, folder: pathlib.Path) -> list[pathlib.Path]:
  """Draws every figure that has something to show; returns the files."""
  both, files = ('srank', 'eval_return'), []
  if len(search):
    named = search.assign(variant=[_search_name(row) for row in search.to_dict('records')])
    title = 'DQN, one seed: where does srank fall?'
    files += _curves(named, both, folder / 'search', title, 'none')
  if grid.empty:
    return files
  plain = grid[~grid['variant'].str.endswith(PENALTY)]
  control = plain[plain['variant'].isin(('DQN', 'CQL'))]
  control = control.assign(
    variant=[f'{v}, {f:.0%}' for v, f in zip(control['variant'], control['fraction'], strict=True)]
  )
  title = 'DQN and CQL on parts of a replay'
  files += _curves(control, (*both, 'td_error'), folder / 'dqn_cql', title)
  five = grid[grid['fraction'] == 0.05]
  known = five['variant'].str.removesuffix(PENALTY)
  values = plain[(plain['fraction'] == 0.05) & plain['variant'].isin(('DQN', 'FQE', 'Monte Carlo'))]
  if 'FQE' in set(values['variant']):
    title = 'With and without bootstrapping, 5% of a replay'
    files += _curves(values, ('srank', 'effective_rank'), folder / 'bootstrapping', title)
  for name, agents in (('control', ('DQN', 'CQL')), ('other', ('Rainbow', 'FQE', 'Monte Carlo'))):
    title = 'Without and with the penalty, 5% of a replay'
    files += _curves(five[known.isin(agents)], both, folder / f'penalty_{name}', title)
  compared = [pair for pair in _pairs(five) if pair[0] in ('DQN', 'CQL')]
  if compared:
    found = scores.per_run(five, LAST).replace({'game': {'SpaceInvaders': 'Space\nInvaders'}})
    title = 'The penalty’s change of the mean return, 5% of a replay'
    figure, numbers = bars.figure(found, compared, last=LAST, title=title)
    files += style.save(figure, folder / 'penalty_gain.png', numbers)
  return files


def _search_name(row: Mapping[str, Any]) -> str:
  name = f'rate {row["learning_rate"]:g}, {row["fraction"]:.0%} of the data'
  return name + f', width {row["width"]:g}' * (row['width'] != 128)


def _curves(
  table: pd.DataFrame,
  metrics: Sequence[str],
  path: pathlib.Path,
  title: str,
  band: str = 'std',
) -> list[pathlib.Path]:
  if table.empty:
    return []
  note = f' (mean over seeds {curves.BANDS[band]})' if curves.BANDS[band] else ''
  figure, numbers = curves.figure(table, metrics, band=band, title=title + note)
  return style.save(figure, path.with_suffix('.png'), numbers)

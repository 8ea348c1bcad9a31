"""Scores of a run: the paper's (its best evaluation), and the last-k score (its last ones)."""

from __future__ import annotations

import pathlib

import numpy as np
import pandas as pd

ATARI_FILE = pathlib.Path(__file__).parent / 'atari_scores.csv'
SCORES = ('best', 'last')
NORMALISATIONS = ('none', 'human', 'dqn')


def titles(last: int) -> dict[str, str]:
  """Labels of the two scores in figures."""
  return {'best': 'best evaluation (the paper’s score)', 'last': f'mean of last {last} evaluations'}


def per_run(table: pd.DataFrame, last: int = 5, metric: str = 'eval_return') -> pd.DataFrame:
  """Returns a row per run: `best`, its largest evaluation, and `last`, the mean of its last ones.

  The best of many noisy evaluations overestimates a run, more so with more evaluations. The last
  ones describe its end.

  Args:
    table: the tidy table.
    last: number of evaluations in the last-k score; all, if a run has fewer.
    metric: name of the evaluation's metric.

  Raises:
    ValueError: if no run was evaluated, or `last` is below 1.
  """
  if last < 1:
    raise ValueError(f'--last must be at least 1, got {last}.')
  if metric not in table or table[metric].isna().all():
    raise ValueError(f'no run logged {metric}: was it evaluated (OfflineRunner.evaluation_steps)?')
  evaluated = table.dropna(subset=[metric]).sort_values(['run', 'iteration'], kind='stable')
  rows = []
  for run, group in evaluated.groupby('run', sort=False):
    first = group.iloc[0]
    rows.append(
      {key: first[key] for key in ('variant', 'suite', 'game', 'seed')}
      | {
        'run': run,
        'evaluations': len(group),
        'best': group[metric].max(),
        'last': group[metric].tail(last).mean(),
      }
    )
  order = {name: i for i, name in enumerate(table['variant'].unique())}
  return pd.DataFrame(rows).sort_values(
    ['variant', 'game', 'seed'],
    key=lambda column: column.map(order) if column.name == 'variant' else column,
    ignore_index=True,
  )


def references() -> pd.DataFrame:
  """Returns random, human and DQN scores of the 60 Atari games; the file has their sources."""
  return pd.read_csv(ATARI_FILE, comment='#').set_index('game')


def normalise(scores: pd.DataFrame, by: str) -> pd.DataFrame:
  """Scales `best` and `last` so that 0 is random play and 1 is a human or DQN.

  Args:
    scores: from `per_run`; every game must be an Atari game.
    by: human or dqn; none does not scale.

  Raises:
    ValueError: for a game without that reference, or whose reference is no better than random play.
  """
  if by == 'none':
    return scores
  if by not in NORMALISATIONS:
    raise ValueError(f'--normalise must be one of {", ".join(NORMALISATIONS)}, got {by!r}.')
  known = references()
  for suite, game in sorted(set(zip(scores['suite'], scores['game'], strict=True))):
    if suite not in ('atari', '') or game not in known.index or np.isnan(known.loc[game, by]):
      raise ValueError(
        f'--normalise={by}: there is no {by} score of {game or "a run without a game"}'
        f'{f" ({suite})" if suite else ""} in {ATARI_FILE.name}; leave the game out or take none.'
      )
    if known.loc[game, by] <= known.loc[game, 'random']:
      raise ValueError(
        f'--normalise={by}: in {game} {by} is no better than random play, so there is no scale; '
        'leave the game out or take none.'
      )
  low = scores['game'].map(known['random'])
  scale = scores['game'].map(known[by]) - low
  return scores.assign(
    **{kind: (scores[kind] - low) / scale for kind in SCORES},
  )


def floors(scores: pd.DataFrame) -> pd.Series:
  """Returns the score of random play in each row's game: from the file for Atari, otherwise 0."""
  atari = scores['suite'] == 'atari'
  return scores['game'].map(references()['random']).where(atari, 0.0).fillna(0.0)


def matrix(scores: pd.DataFrame, kind: str) -> dict[str, np.ndarray]:
  """Returns scores of each variant for rliable: [runs, games] float64, games in the same order.

  Raises:
    ValueError: if a variant lacks a game, or has more runs of one game than of another.
  """
  games = sorted(scores['game'].unique())
  found = {}
  for variant, group in scores.groupby('variant', sort=False):
    columns = [group.loc[group['game'] == game, kind].to_numpy(np.float64) for game in games]
    sizes = {game: len(column) for game, column in zip(games, columns, strict=True)}
    if len(set(sizes.values())) > 1:
      told = ', '.join(f'{game} {size}' for game, size in sizes.items())
      raise ValueError(f'{variant} must have as many runs of each game; it has: {told}.')
    found[str(variant)] = np.stack(columns, axis=1)
  return found


def by_game(scores: pd.DataFrame) -> pd.DataFrame:
  """Returns a row per variant and game: runs, mean and deviation (n − 1) of both scores."""
  rows = []
  for (variant, game), group in scores.groupby(['variant', 'game'], sort=False):
    row = {'variant': variant, 'game': game, 'runs': len(group)}
    for kind in SCORES:
      row[f'{kind}_mean'] = group[kind].mean()
      row[f'{kind}_std'] = group[kind].std(ddof=1) if len(group) > 1 else np.nan
    rows.append(row)
  return pd.DataFrame(rows)

"""One metric against another: a point per iteration, and the rank correlation within each run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure

from implicit_rl.analysis import style


def correlations(table: pd.DataFrame, x: str = 'srank', y: str = 'eval_return') -> pd.DataFrame:
  """Returns Spearman's rank correlation of two metrics over the iterations of each run.

  Args:
    table: the tidy table.
    x: a column.
    y: another one.

  Returns:
    A row per run: variant, game, seed, run, iterations (with numbers of both), correlation. It is
    NaN for fewer than three iterations, or if one of the two is constant.

  Raises:
    ValueError: if a column is not in the table.
  """
  for name in (x, y):
    if name not in table:
      raise ValueError(f'no run logged {name!r}; logged were {", ".join(table.columns[5:])}.')
  rows = []
  for run, group in table.groupby('run', sort=False):
    both = group[[x, y]].dropna()
    varies = len(both) >= 3 and (both.nunique() > 1).all()
    found = scipy.stats.spearmanr(both[x], both[y]).statistic if varies else float('nan')
    keys = {key: group[key].iloc[0] for key in ('variant', 'game', 'seed')}
    rows.append(keys | {'run': run, 'iterations': len(both), 'correlation': float(found)})
  return pd.DataFrame(rows)


def figure(
  table: pd.DataFrame, x: str = 'srank', y: str = 'eval_return', title: str = ''
) -> tuple[Figure, pd.DataFrame]:
  """Draws the points, a panel per game, a marker per variant; mean correlations above it.

  Returns:
    The figure, and `correlations`.
  """
  data = correlations(table, x, y)
  games, variants = list(table['game'].unique()), list(table['variant'].unique())
  columns = min(len(games), 4)

  def paint(axes: np.ndarray) -> None:
    for axis in axes.flat[len(games) :]:
      axis.set_axis_off()
    for axis, game in zip(axes.flat, games, strict=False):
      means = []
      for i, variant in enumerate(variants):
        part = table[(table['variant'] == variant) & (table['game'] == game)]
        if part.empty:
          continue
        found = data[(data['variant'] == variant) & (data['game'] == game)]['correlation'].dropna()
        means.append(f'{found.mean():+.2f}' if len(found) else 'none')
        look = {'color': style.COLOURS[i % len(style.COLOURS)], 'alpha': 0.55, 'label': variant}
        marker = style.MARKERS[i % len(style.MARKERS)]
        axis.plot(part[x], part[y], marker, markersize=5.5, markeredgewidth=0, **look)
      axis.set_title(f'{game}\nmean ρ {", ".join(means)}'.strip())
      axis.set_xlabel(style.label(x))
      axis.set_ylabel(style.label(y))
      style.shorten(axis.xaxis)

  made = style.draw(
    paint,
    rows=math.ceil(len(games) / columns),
    columns=columns,
    size=(5.6, 4.6) if len(games) == 1 else (4.8, 4.2),
    title=title or 'Spearman’s ρ within a run, in the legend’s order',
  )
  return made, data

"""Learning curves: a panel per metric and game, a line per variant, a band for its seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_rl.analysis import style

BANDS = {
  'range': 'least to most',
  'std': '± 1 standard deviation',
  'none': '',
}


def gather(table: pd.DataFrame, metric: str, x: str, band: str = 'range') -> pd.DataFrame:
  """Returns mean and band of a metric over the runs of each variant and game.

  Args:
    table: the tidy table.
    metric: a column.
    x: the column on the horizontal axis.
    band: a key of BANDS.

  Returns:
    Columns variant, game, x, mean, low, high, runs. Rows have all runs of the variant, so that no
    line jumps where a run ends.

  Raises:
    ValueError: if a column is not in the table, or a variant's runs share no value of x.
  """
  for name in (metric, x):
    if name not in table:
      raise ValueError(f'no run logged {name!r}; logged were {", ".join(table.columns[5:])}.')
  if band not in BANDS:
    raise ValueError(f'--band must be one of {", ".join(BANDS)}, got {band!r}.')
  parts = []
  for (variant, game), group in table.dropna(subset=[x]).groupby(['variant', 'game'], sort=False):
    values = group.pivot_table(metric, x, 'run', dropna=False, sort=True)
    logged = group.groupby(x)['run'].nunique() == group['run'].nunique()
    values = values.loc[logged.index[logged]]
    if values.empty:
      raise ValueError(
        f'These runs of {variant} were logged at different {x}: {", ".join(group["run"].unique())}.'
      )
    mean = values.mean(axis=1, skipna=False)
    if band == 'std':
      spread = values.std(axis=1, ddof=1).fillna(0) if values.shape[1] > 1 else 0 * mean
      low, high = mean - spread, mean + spread
    else:
      low, high = (values.min(axis=1), values.max(axis=1)) if band == 'range' else (mean, mean)
    parts.append(
      pd.DataFrame(
        {
          'variant': variant,
          'game': game,
          'metric': metric,
          x: values.index,
          'mean': mean.to_numpy(),
          'low': low.to_numpy(),
          'high': high.to_numpy(),
          'runs': values.shape[1],
        }
      )
    )
  if not parts:
    raise ValueError(f'no run logged {x!r}.')
  return pd.concat(parts, ignore_index=True)


def figure(
  table: pd.DataFrame,
  metrics: Sequence[str] = ('srank', 'eval_return'),
  *,
  x: str = 'updates',
  band: str = 'range',
  title: str = '',
  log: Sequence[str] = (),
) -> tuple[Figure, pd.DataFrame]:
  """Draws each metric against x: mean over the runs and their band, one column of panels per game.

  Args:
    table: the tidy table.
    metrics: columns of it; each has a row of panels. With one game they are beside each other, four
      of them in two rows.
    x: the name of the horizontal axis.
    band: a key of BANDS.
    title: above the panels.
    log: metrics whose axis is logarithmic.

  Returns:
    The figure, and the numbers in it.
  """
  data = pd.concat([gather(table, metric, x, band) for metric in metrics], ignore_index=True)
  games = list(data['game'].unique())
  variants = list(data['variant'].unique())
  single = len(games) == 1
  if single:
    columns = 2 if len(metrics) == 4 else len(metrics)
  else:
    columns = min(len(games), 5 if len(games) == 5 else 4)
  blocks = 1 if single else len(metrics)  # of rows, one per metric
  deep = math.ceil(len(games) / columns)

  def paint(axes: np.ndarray) -> None:
    grid = axes.reshape(1, -1).T if single else axes.reshape(blocks, -1)  # [metric, game]
    for metric, row in zip(metrics, grid, strict=True):
      for spare in row[len(games) :]:
        spare.set_axis_off()
      for j, (axis, game) in enumerate(zip(row, games, strict=False)):
        part = data[(data['metric'] == metric) & (data['game'] == game)]
        _panel(axis, part, variants, x)
        if not single:
          axis.set_title(game)
        if single or j % columns == 0:
          axis.set_ylabel(style.label(metric))
        if metric in log:
          axis.set_yscale('log')
        elif metric in style.FROM_ZERO:
          _from_zero(axis, part)

  note = f' (band: {BANDS[band]})' if BANDS[band] and data['runs'].max() > 1 else ''
  made = style.draw(
    paint,
    rows=math.ceil(len(metrics) / columns) if single else blocks * deep,
    columns=columns,
    size=(5.6, 4.6) if single else (4.2, 3.6),
    title=title or f'Mean over runs{note}',
  )
  return made, data


def _from_zero(axis: Axes, data: pd.DataFrame) -> None:
  low = min(0.0, float(np.nanmin(data['low'], initial=0)))
  high = max(0.0, float(np.nanmax(data['high'], initial=0)))
  room = 0.05 * (high - low or 1.0)
  axis.set_ylim(low - room * (low < 0), high + room)


def _panel(axis: Axes, data: pd.DataFrame, variants: Sequence[str], x: str) -> None:
  for i, variant in enumerate(variants):
    part = data[data['variant'] == variant]
    if part.empty:
      continue
    look = style.look(i)
    count = int(part['runs'].iloc[0])
    name = f'{variant} ({count} run{"s" * (count > 1)})'.strip()
    marker = 'o' if len(part) == 1 else ''
    axis.plot(part[x], part['mean'], label=name, marker=marker, **look)
    axis.fill_between(part[x], part['low'], part['high'], color=look['color'], alpha=0.18, lw=0)
  axis.set_xlabel(style.label(x))
  axis.set_xlim(left=0)
  style.shorten(axis.xaxis)

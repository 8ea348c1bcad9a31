"""Figures of rliable's numbers: intervals of aggregates and improvement, performance profiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_rl.analysis import reliable, scores, style

_BETTER = {'optimality gap': 'lower is better'}


def aggregates(
  matrices: Mapping[str, Mapping[str, np.ndarray]],
  scale: str,
  *,
  last: int = 5,
  title: str = '',
  reps: int = 2000,
) -> tuple[Figure, pd.DataFrame]:
  """Draws each aggregate with its interval: a column per aggregate, a row per kind of score.

  Args:
    matrices: for `best` and `last`, `scores.matrix`.
    scale: label of the horizontal axis, such as 'human-normalised score'.
    last: evaluations in the last-k score; shown in the labels.
    title: above the panels.
    reps: bootstrap samples.
  """
  data = pd.concat(
    [reliable.aggregates(found, reps=reps).assign(score=kind) for kind, found in matrices.items()],
    ignore_index=True,
  )
  kinds = scores.titles(last)
  variants = list(data['variant'].unique())

  def paint(axes: np.ndarray) -> None:
    for row, kind in zip(axes, matrices, strict=True):
      for axis, name in zip(row, reliable.AGGREGATES, strict=True):
        part = data[(data['score'] == kind) & (data['aggregate'] == name)]
        _intervals(axis, part, variants)
        axis.set_title(f'{name} ({_BETTER.get(name, "higher is better")})')
        axis.set_xlabel(scale)
        axis.set_yticklabels(variants if axis is row[0] else [])
      row[0].set_ylabel(kinds[kind])

  made = style.draw(
    paint,
    rows=len(matrices),
    columns=len(reliable.AGGREGATES),
    size=(4.4, max(2.2, 0.5 * len(variants) + 1.6)),
    title=title or 'Aggregates over games and runs, 95% stratified bootstrap intervals',
    legend=False,
  )
  return made, data


def _intervals(axis: Axes, data: pd.DataFrame, order: list[str]) -> None:
  for i, variant in enumerate(order):
    row = data[data['variant'] == variant].iloc[0]
    colour, marker = style.COLOURS[i % len(style.COLOURS)], style.MARKERS[i % len(style.MARKERS)]
    axis.barh(i, row['high'] - row['low'], left=row['low'], height=0.55, color=colour, alpha=0.35)
    axis.plot(row['value'], i, marker, color=colour, markersize=9)
  axis.use_sticky_edges = False
  axis.margins(x=0.08)
  axis.set_yticks(range(len(order)))
  axis.set_ylim(len(order) - 0.4, -0.6)
  axis.grid(axis='y', visible=False)


def improvement(
  matrices: Mapping[str, Mapping[str, np.ndarray]],
  compared: list[tuple[str, str]],
  *,
  last: int = 5,
  title: str = '',
  reps: int = 2000,
) -> tuple[Figure, pd.DataFrame]:
  """Draws each pair's probability of improvement; left the paper's score, right the last-k one."""
  data = pd.concat(
    [
      reliable.improvement(found, compared, reps=reps).assign(score=kind)
      for kind, found in matrices.items()
    ],
    ignore_index=True,
  )
  data['pair'] = data['variant'] + '\nover ' + data['base']
  kinds, names = scores.titles(last), list(data['pair'].unique())

  def paint(axes: np.ndarray) -> None:
    for axis, kind in zip(axes[0], matrices, strict=True):
      part = data[data['score'] == kind].assign(variant=data['pair'])
      _intervals(axis, part, names)
      axis.axvline(0.5, color='black', ls='--', lw=1.2)
      axis.set_xlim(-0.02, 1.02)
      axis.set_title(kinds[kind])
      axis.set_xlabel('P(a run of the one scores higher)')
      axis.set_yticklabels(names if axis is axes[0, 0] else [])

  made = style.draw(
    paint,
    columns=len(matrices),
    size=(5.4, max(2.6, 0.8 * len(names) + 1.6)),
    title=title or 'Probability of improvement, 95% stratified bootstrap intervals',
    legend=False,
  )
  return made, data.drop(columns='pair')


def profiles(
  matrices: Mapping[str, Mapping[str, np.ndarray]],
  scale: str,
  *,
  last: int = 5,
  title: str = '',
  reps: int = 2000,
) -> tuple[Figure, pd.DataFrame]:
  """Draws performance profiles with their bands; left the paper's score, right the last-k score."""
  every = np.concatenate([m.ravel() for found in matrices.values() for m in found.values()])
  low, high = min(0.0, float(every.min())), float(every.max())
  thresholds = np.linspace(low, high + 0.05 * (high - low or 1.0), 81)
  data = pd.concat(
    [
      reliable.profiles(found, thresholds, reps=reps).assign(score=kind)
      for kind, found in matrices.items()
    ],
    ignore_index=True,
  )
  kinds = scores.titles(last)

  def paint(axes: np.ndarray) -> None:
    for axis, (kind, found) in zip(axes[0], matrices.items(), strict=True):
      for i, variant in enumerate(found):
        part = data[(data['score'] == kind) & (data['variant'] == variant)]
        look = style.look(i)
        axis.plot(part['threshold'], part['value'], label=variant, **look)
        band = part['threshold'], part['low'], part['high']
        axis.fill_between(*band, color=look['color'], alpha=0.18, lw=0)
      axis.set_title(kinds[kind])
      axis.set_xlabel(f'{scale} τ')
      axis.set_ylabel('share of runs above τ')
      axis.set_ylim(0, 1.02)

  made = style.draw(
    paint,
    columns=len(matrices),
    title=title or 'Performance profiles, 95% stratified bootstrap bands',
  )
  return made, data

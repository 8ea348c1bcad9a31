"""Percentage improvement per game with its median, as in the paper's Figures 7, A.15 and A.18."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_rl.analysis import scores, style

_MARKS = (0, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000, 1_000_000)
_BETTER, _WORSE = style.COLOURS[0], style.COLOURS[1]


def pairs(variants: Sequence[str]) -> list[tuple[str, str]]:
  """Returns (base, variant) for each variant whose name extends another's: `DQN`, `DQN + lp …`.

  Raises:
    ValueError: if there is none.
  """
  found = []
  for variant in variants:
    bases = [name for name in variants if variant.startswith(f'{name} + ')]
    if bases:
      found.append((max(bases, key=len), variant))
  if not found:
    raise ValueError(
      f'No variant of {", ".join(variants)} extends another one: choose the pairs with '
      '--pair=BASE:VARIANT.'
    )
  return found


def improvement(per_run: pd.DataFrame, base: str, variant: str) -> pd.DataFrame:
  """Returns the improvement of `variant` over `base`, in percent of that of `base` over random.

  It is 100·(variant − base) / |base − random| with means over runs. The paper does not say how it
  computes the percentage for negative scores. Random play counts as 0 outside Atari.

  Args:
    per_run: from `scores.per_run`, not normalised.
    base: a variant.
    variant: another one.

  Returns:
    A row per game that both have: the game, and for best and last the two means and the percentage.

  Raises:
    ValueError: for an unknown variant, or no game in common.
  """
  known = list(per_run['variant'].unique())
  for name in (base, variant):
    if name not in known:
      raise ValueError(f'unknown variant {name!r}; there are {", ".join(known)}.')
  means = (
    per_run.assign(floor=scores.floors(per_run))
    .groupby(['variant', 'game'])[['best', 'last', 'floor']]
    .mean()
  )
  old, new = means.loc[base], means.loc[variant]
  games = old.index.intersection(new.index)
  if games.empty:
    raise ValueError(f'{base} and {variant} have no game in common.')
  data = pd.DataFrame({'base': base, 'variant': variant, 'game': games})
  for kind in scores.SCORES:
    before, after = old.loc[games, kind].to_numpy(), new.loc[games, kind].to_numpy()
    above = np.abs(before - old.loc[games, 'floor'].to_numpy())
    data[f'{kind}_base'], data[f'{kind}_variant'] = before, after
    with np.errstate(divide='ignore', invalid='ignore'):
      data[f'{kind}_percent'] = 100 * (after - before) / above
  return data


def figure(
  per_run: pd.DataFrame,
  compared: Sequence[tuple[str, str]],
  *,
  last: int = 5,
  title: str = '',
) -> tuple[Figure, pd.DataFrame]:
  """Draws each pair's improvement by game, in ascending order; left the paper's score, right ours.

  Args:
    per_run: from `scores.per_run`, not normalised.
    compared: (base, variant) pairs; each has a row of panels.
    last: as passed to `per_run`; shown in the title.
    title: above the panels.

  Returns:
    The figure, and the numbers in it.
  """
  data = pd.concat([improvement(per_run, *pair) for pair in compared], ignore_index=True)
  games = data.groupby(['base', 'variant']).size().max()
  titles = scores.titles(last)

  def paint(axes: np.ndarray) -> None:
    for row, (base, variant) in zip(axes, compared, strict=True):
      part = data[(data['base'] == base) & (data['variant'] == variant)]
      for axis, kind in zip(row, scores.SCORES, strict=True):
        _panel(axis, part[['game', f'{kind}_percent']].to_numpy(), f'{variant} against {base}')
        axis.set_title(f'{titles[kind]}\n{axis.get_title()}')

  made = style.draw(
    paint,
    rows=len(compared),
    columns=2,
    size=(max(5.2, 0.42 * games + 2), 4.8),
    title=title or 'Improvement per game, in % of the base’s score above random play',
    legend=False,
  )
  return made, data


def _panel(axis: Axes, bars: np.ndarray, name: str) -> None:
  values = bars[:, 1].astype(np.float64)
  order = np.argsort(np.where(np.isnan(values), -np.inf, values), kind='stable')
  games, values = bars[order, 0], values[order]
  finite = values[np.isfinite(values)]
  reach = float(np.abs(finite).max(initial=1.0))
  shown = np.where(np.isfinite(values), values, np.sign(np.nan_to_num(values, nan=0.0)) * reach)
  at = np.arange(len(games))
  axis.bar(at, shown, color=np.where(shown >= 0, _BETTER, _WORSE), width=0.75)
  # Hatching repeats the colour's meaning.
  for patch, value in zip(axis.patches, shown, strict=True):
    patch.set(hatch='' if value >= 0 else '//', edgecolor='white', linewidth=0)
  axis.set_xlim(-0.5 - max(0, 2 - len(games) / 2), len(games) - 0.5 + max(0, 2 - len(games) / 2))
  axis.axhline(0, color='black', lw=1)
  median = float(np.median(values)) if not np.isnan(values).any() else float('nan')
  if np.isfinite(median):
    axis.axhline(median, color='black', ls='--', lw=1.8)
  better = int((values > 0).sum())
  axis.set_title(f'{name}\nbetter in {better}/{len(games)}; median (dashed) {median:+.1f}%')
  axis.set_xticks(
    at, games, rotation=60 if len(games) > 4 else 0, ha='right' if len(games) > 4 else 'center'
  )
  axis.set_ylabel('improvement (%)')
  axis.grid(axis='x', visible=False)
  if reach > 200:
    axis.set_yscale('symlog', linthresh=100)
    axis.set_ylabel('improvement (%; log > 100)')
    marks = [sign * size for size in _MARKS for sign in (-1, 1)]
    low, high = min(0.0, shown.min()), max(0.0, shown.max())
    axis.set_yticks(sorted({mark for mark in marks if low <= mark <= high}))
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
    axis.set_ylim(low * 1.1, high * 1.1)

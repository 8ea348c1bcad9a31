"""Singular values over training: all in a heat map, and selected ones as lines."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_rl.analysis import style


def selected(values: int) -> list[int]:
  """Returns the indices of singular values to draw as lines: 1, 2, 4, 8, … and the last."""
  powers = [2**i - 1 for i in range(values.bit_length()) if 2**i <= values]
  return sorted({*powers, values - 1})


def figure(
  spectra: Mapping[str, pd.DataFrame], title: str = '', floor: float = 1e-6
) -> tuple[Figure, pd.DataFrame]:
  """Draws σᵢ / σ₁ over training, with a row of panels per run: heat map left, lines right.

  Args:
    spectra: from `runs.spectra`, by the panel's title.
    title: above all.
    floor: smaller ratios are drawn as this; a float32 SVD resolves nothing below about 1e-7·σ₁.

  Returns:
    The figure, and its numbers: run, updates, index (from 1), sigma, ratio.
  """
  parts = []
  for name, values in spectra.items():
    long = values.rename_axis(columns='index').stack().rename('sigma').reset_index()
    long['index'] += 1
    largest = long.groupby('updates')['sigma'].transform('max')
    long['ratio'] = np.where(largest > 0, long['sigma'] / largest.where(largest > 0, 1), 0.0)
    parts.append(long.assign(run=name)[['run', 'updates', 'index', 'sigma', 'ratio']])
  data = pd.concat(parts, ignore_index=True)
  scale = matplotlib.colors.LogNorm(floor, 1)

  def paint(axes: np.ndarray) -> None:
    for row, name in zip(axes, spectra, strict=True):
      part = data[data['run'] == name]
      grid = part.pivot(index='index', columns='updates', values='ratio')
      _heat(row[0], grid, scale, floor)
      _lines(row[1], grid, floor)
      row[0].set_title(name)
      row[1].set_title(name)

  made = style.draw(
    paint,
    rows=len(spectra),
    columns=2,
    size=(6.0, 4.4),
    title=title or 'Singular values of the features over training, relative to the largest',
  )
  return made, data


def _heat(axis, grid: pd.DataFrame, scale: matplotlib.colors.LogNorm, floor: float) -> None:
  updates = grid.columns.to_numpy(np.float64)
  edges = _edges(updates)
  image = axis.pcolormesh(
    edges,
    np.arange(len(grid) + 1) + 0.5,
    grid.clip(lower=floor).to_numpy(),
    norm=scale,
    cmap='cividis',  # Uniform in lightness, also for colour-blind readers.
    rasterized=True,
  )
  axis.grid(visible=False)
  axis.invert_yaxis()
  axis.set_xlabel(style.label('updates'))
  axis.set_ylabel('index i, from the largest')
  style.shorten(axis.xaxis)
  axis.figure.colorbar(image, ax=axis, label='σᵢ / σ₁', extend='min')


def _edges(centres: np.ndarray) -> np.ndarray:
  if len(centres) == 1:
    return np.array([0.5, 1.5]) * centres[0]
  middle = (centres[1:] + centres[:-1]) / 2
  return np.array([2 * centres[0] - middle[0], *middle, 2 * centres[-1] - middle[-1]])


def _lines(axis, grid: pd.DataFrame, floor: float) -> None:
  chosen = [index for index in selected(len(grid)) if index]
  shades = matplotlib.colormaps['cividis'](np.linspace(0.85, 0.0, len(chosen)))
  for position, (index, shade) in enumerate(zip(chosen, shades, strict=True)):
    axis.plot(
      grid.columns,
      grid.iloc[index].clip(lower=floor),
      color=shade,
      linestyle=style.LINES[position % len(style.LINES)],
      marker='o' if grid.shape[1] == 1 else '',
      label=f'i = {index + 1}',
    )
  axis.set_yscale('log')
  axis.set_ylim(floor / 1.5, 1.5)
  axis.set_xlim(left=0)
  axis.set_xlabel(style.label('updates'))
  axis.set_ylabel('σᵢ / σ₁')
  style.shorten(axis.xaxis)

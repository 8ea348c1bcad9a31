"""A common style of all figures, and their files and those of tables: PNG, SVG, CSV, LaTeX."""

from __future__ import annotations

import io
import pathlib
import textwrap
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

# Okabe and Ito's palette, which colour-blind readers can distinguish; lines and markers repeat it.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
LINES: tuple[Any, ...] = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
SETTINGS: dict[Any, Any] = {
  'font.size': 13,
  'axes.titlesize': 13,
  'legend.fontsize': 11.5,
  'lines.linewidth': 2.2,
  'axes.grid': True,
  'grid.alpha': 0.3,
  'axes.axisbelow': True,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'svg.fonttype': 'none',  # Text is stored as text.
  'svg.hashsalt': 'implicit_rl',  # Equal numbers give equal files.
}
LABELS = {
  'updates': 'gradient updates',
  'environment_steps': 'environment steps',
  'iteration': 'iteration',
  'srank': 'srank (effective rank, δ = 0.01)',
  'eval_return': 'return of an evaluation episode',
  'train_return': 'return of a training episode',
  'td_error': 'TD error (root mean square)',
  'q_mean': 'mean Q',
  'q_max': 'largest Q',
  'sigma_max': 'largest singular value σ₁',
  'sigma_min': 'smallest singular value',
  'stable_rank': 'stable rank Σσ² / σ₁²',
  'effective_rank': 'entropy rank',
  'pca_rank': 'PCA rank (99% of Σσ²)',
  'centred_srank': 'srank of centred features',
  'centred_effective_rank': 'entropy rank of centred features',
  'centred_pca_rank': 'PCA rank of centred features',
  'numerical_rank': 'numerical rank',
  'condition_number': 'condition number σ₁ / σ_m',
  'feature_norm': 'mean norm of a feature vector',
  'dead_units': 'share of dead units',
  'loss': 'loss on the fixed transitions',
  'updates_per_second': 'gradient updates per second',
}
# Axes that start at 0, so that a change is visible relative to the value.
FROM_ZERO = ('srank', 'eval_return', 'dead_units', 'numerical_rank')


def label(metric: str) -> str:
  """Returns the axis label of a column of the table, with its unit."""
  return LABELS.get(metric, metric)


def look(index: int) -> dict[str, Any]:
  """Returns colour and line style of the variant at `index`; no two of the first 35 share both."""
  return {'color': COLOURS[index % len(COLOURS)], 'linestyle': LINES[index % len(LINES)]}


def thousands(value: float, _: int | None = None) -> str:
  """Returns 60000 as 60k, 2500000 as 2.5M, 0.0001 as 1e-4, for short tick labels."""
  for size, unit in ((1e6, 'M'), (1e3, 'k')):
    if abs(value) >= size:
      return f'{value / size:g}{unit}'
  if 0 < abs(value) < 1e-3:
    return f'{value:.1e}'.replace('.0e', 'e').replace('e-0', 'e-')
  return f'{value:g}'


def shorten(axis: Any) -> None:
  """Labels an axis' ticks with k and M."""
  axis.set_major_formatter(matplotlib.ticker.FuncFormatter(thousands))


def draw(
  paint: Callable[[np.ndarray], Any],
  *,
  rows: int = 1,
  columns: int = 1,
  size: tuple[float, float] = (5.4, 4.2),
  title: str = '',
  legend: bool = True,
) -> Figure:
  """Returns a figure whose axes `paint` fills.

  Args:
    paint: called with the axes [rows, columns].
    rows: of panels.
    columns: of panels.
    size: of one panel, in inches.
    title: above all.
    legend: whether to put one legend for all panels below them, in the order of first use.
  """
  with mpl.rc_context(SETTINGS):
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    paint(axes)
    if title:
      # About 8 letters per inch at this size.
      lines = textwrap.wrap(title, max(20, int(8 * figure.get_figwidth())))
      figure.suptitle('\n'.join(lines), fontsize=15)
    if legend:
      below(figure, list(axes.flat))
    figure.draw_without_rendering()
  return figure


def caption(figure: Figure, text: str) -> None:
  """Adds a caption below all panels, above the legend, in small type."""
  lines = textwrap.wrap(text, max(20, int(11 * figure.get_figwidth())))
  figure.legends[0].set_title('\n'.join(lines), prop=FontProperties(size=11))
  figure.draw_without_rendering()


def below(figure: Figure, axes: Sequence[Axes]) -> None:
  """Adds one legend for all axes below them."""
  entries: dict[str, Any] = {}
  for axis in axes:
    for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
      entries.setdefault(name, handle)
  if entries:
    widest = max(map(len, entries))
    width = figure.get_figwidth()
    columns = max(1, min(len(entries), int(width * 10 / (widest + 5))))
    figure.legend(entries.values(), entries, loc='outside lower center', ncols=columns)


def save(figure: Figure, output: str | PathLike, data: pd.DataFrame) -> list[pathlib.Path]:
  """Writes a figure and the numbers in it.

  Args:
    figure: from `draw`.
    output: a file, whose extension chooses the format; without one: .png, .svg and .csv.
    data: the drawn numbers, for the CSV.

  Returns:
    The files.

  Raises:
    ValueError: for an extension other than png, svg, pdf or csv.
  """
  paths = files(output, ('.png', '.svg', '.csv'), ('.png', '.svg', '.pdf', '.csv'))
  for path in paths:
    if path.suffix == '.csv':
      write_csv(data, path)
      continue
    metadata = {'Date' if path.suffix == '.svg' else 'CreationDate': None}
    with mpl.rc_context(SETTINGS):
      if path.suffix == '.png':
        _save_png(figure, path)
      else:
        figure.savefig(path, metadata=metadata)
  return paths


def _save_png(figure: Figure, path: pathlib.Path) -> None:
  """Reduces to 256 colours, which look the same and take a third of the space."""
  buffer = io.BytesIO()
  figure.savefig(buffer, dpi=150)
  image = Image.open(buffer).convert('RGB').quantize(256, dither=Image.Dither.NONE)
  image.save(path, optimize=True)


def files(
  output: str | PathLike, default: Sequence[str], known: Sequence[str]
) -> list[pathlib.Path]:
  """Returns the files for `output`; creates their directory.

  Raises:
    ValueError: for an unknown extension.
  """
  output = pathlib.Path(output)
  ending = output.suffix if output.suffix[1:].isalpha() else ''
  if ending and ending not in known:
    raise ValueError(f'--output: {output} ends in none of {", ".join(known)}.')
  output.parent.mkdir(parents=True, exist_ok=True)
  return [output] if ending else [output.with_name(output.name + kind) for kind in default]


def write_csv(data: pd.DataFrame, path: str | PathLike) -> None:
  """Writes a table with floats to 7 significant digits and no index."""
  data.to_csv(path, index=False, float_format='%.7g', lineterminator='\n')

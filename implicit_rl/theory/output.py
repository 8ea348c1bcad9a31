"""Writes results of the theory experiments: CSV tables, and figures as PNG and SVG in one style."""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's palette: distinct for every common kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
  '#0072B2',
  '#E69F00',
  '#009E73',
  '#CC79A7',
  '#56B4E9',
  '#D55E00',
)
BLACK, GREY = '#000000', '#888888'
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
  """Writes rows (all with the keys of the first), floats to 6 significant digits."""
  cell = lambda v: f'{v:.6g}' if isinstance(v, (float, np.floating)) else v
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


@contextlib.contextmanager
def figure(path: Path, panels: int, title: str, rows: int = 1, height: float = 4.2) -> Iterator:
  """Yields the axes (a flat array) of a new figure, then saves it as path.png and path.svg.

  Uses Matplotlib's Agg canvas without pyplot, so without global state or a display.
  """
  import cycler  # a part of Matplotlib
  import matplotlib  # imported here, so that the formulas work without a plotting library
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  style: dict[Any, Any] = {
    'font.size': 13,
    'axes.titlesize': 13,
    'legend.fontsize': 11,
    'lines.linewidth': 2,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.prop_cycle': cycler.cycler(color=CYCLE),
    'svg.hashsalt': 'implicit_rl',  # equal figures give equal files
  }
  with matplotlib.rc_context(style):
    fig = Figure(figsize=(5.2 * panels, height * rows), layout='constrained')
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, panels, squeeze=False).ravel()
    yield axes
    fig.suptitle(title, fontsize=15)
    fig.savefig(path.with_suffix('.png'), dpi=110)
    fig.savefig(path.with_suffix('.svg'), metadata={'Date': None})


def band(axis, x, runs: np.ndarray, label: str, color: str, style: str = '-') -> None:
  """Draws the mean of runs [seeds, x] and a band of one standard deviation."""
  mean, spread = np.mean(runs, axis=0), np.std(runs, axis=0)
  axis.plot(x, mean, style, color=color, label=label)
  axis.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)

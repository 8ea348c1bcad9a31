"""Figures of runs: a panel per metric, a line per variant, a band for its seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

matplotlib.use('Agg')

from matplotlib import pyplot as plt
from matplotlib import ticker

from implicit_rl.analysis import runs

# Okabe and Ito's palette: told apart by colour-blind readers; line styles repeat the distinction.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_STYLES = ('-', '--', '-.', ':')
LABELS = {
  'srank': 'srank (effective rank, δ = 0.01)',
  'eval_return': 'return of an evaluation episode',
  'td_error': 'TD error (root mean square)',
  'q_mean': 'mean Q',
  'sigma_max': 'largest singular value σ_max',
}


def learning_curves(
  variants: Mapping[str, Sequence[str | os.PathLike]],
  path: str | os.PathLike,
  metrics: Sequence[str] = ('srank', 'eval_return'),
  title: str = '',
) -> None:
  """Draws each metric against gradient updates: mean of the runs, band from least to most.

  Args:
    variants: the base_dirs of each variant's runs, by the name that the legend shows.
    path: the file to write; its ending chooses the format.
    metrics: keys of metrics.jsonl, one panel each.
    title: above the panels.
  """
  figure, axes = plt.subplots(
    1, len(metrics), figsize=(5.6 * len(metrics), 4.4), layout='constrained', squeeze=False
  )
  for axis, metric in zip(axes[0], metrics, strict=True):
    lowest = []
    for i, (name, base_dirs) in enumerate(variants.items()):
      curve = runs.load(base_dirs, metric)
      colour, style = _COLOURS[i % len(_COLOURS)], _STYLES[i % len(_STYLES)]
      label = f'{name} ({len(base_dirs)} runs)'
      axis.plot(curve.updates, curve.values.mean(0), style, color=colour, lw=2.2, label=label)
      low, high = curve.values.min(0), curve.values.max(0)
      lowest.append(np.nanmin(low, initial=0))
      axis.fill_between(curve.updates, low, high, color=colour, alpha=0.18, lw=0)
    axis.set_xlim(left=0)
    axis.set_xlabel('gradient updates')
    axis.set_ylabel(LABELS.get(metric, metric))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(_thousands))
    axis.grid(alpha=0.3)
    if metric in ('srank', 'eval_return'):
      axis.set_ylim(bottom=min(lowest))  # A change is seen against the whole.
  axes[0, 0].legend()
  figure.suptitle(title)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def _thousands(value: float, _: int | None = None) -> str:
  return f'{value / 1000:g}k' if np.abs(value) >= 1000 else f'{value:g}'

"""Draws the gridworld figures and writes their numbers: PNG, SVG and CSV, from finished runs."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from implicit_rl.gridworld import runs
from implicit_rl.gridworld.experiments import Figure

LABELS = {
  'srank': 'srank, training data',
  'reference_srank': 'srank, all free cells',
  'eval_return': 'return (0 random, 1 optimal)',
  'q_mean': 'mean Q, all free (s, a)',
  'q_error': 'mean |Q - exact|',
  'q_fit_error': 'error of fitting Q* from Φ',
  'eigen_srank': 'srank by eigenvalues, square Φ',
  'eigen_batch_srank': 'srank by singular values, same Φ',
  'sigma_max': 'largest singular value, training data',
  'updates': 'gradient steps',
  'iteration': 'fitting iterations',
}
# Okabe and Ito's colours, which colour-blind readers can distinguish, each with its own line style.
STYLES = (('#0072B2', '-'), ('#D55E00', '-'), ('#E69F00', '-.'), ('#009E73', ':'))
SUPERVISED = (('#000000', '--'), ('#888888', (0, (1, 1))))
FIRST = 2000  # gradient steps; below, the horizontal axis is linear
# Columns of a figure's table besides the drawn measures.
ALWAYS = (
  'srank reference_srank eval_return q_mean q_solution_mean td_error reference_dead_units '
  'sigma_max sigma_min'
).split()
Runs = Mapping[str, Sequence[runs.Rows]]


def collect(directory: pathlib.Path, figure: Figure, seeds: Sequence[int]) -> Runs:
  """Reads a figure's runs: by variant, one per seed."""
  return {
    name: [runs.load(directory, config, seed) for seed in seeds]
    for name, config in figure.variants.items()
  }


def write_csv(path: pathlib.Path, figure: Figure, found: Runs, seeds: Sequence[int]) -> None:
  """Writes one line for each variant, seed and logged iteration: the drawn measures and ALWAYS."""
  names = list(dict.fromkeys(['iteration', 'updates', *figure.panels, *ALWAYS]))
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['variant', 'seed', *names])
    for variant, results in found.items():
      for seed, rows in zip(seeds, results, strict=True):
        for values in zip(*(rows[name] for name in names), strict=True):
          numbers = (
            f'{v:.4g}' if n not in ('iteration', 'updates') else v
            for n, v in zip(names, values, strict=True)
          )
          writer.writerow([variant, seed, *numbers])


def write_spectra_csv(path: pathlib.Path, found: Runs, seeds: Sequence[int]) -> None:
  """Writes singular values on the reference set, first and last logged iteration."""
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['variant', 'seed', 'iteration', 'index', 'sigma'])
    for variant, results in found.items():
      for seed, rows in zip(seeds, results, strict=True):
        for row in (0, -1):
          for index, value in enumerate(rows['reference_spectrum'][row], start=1):
            writer.writerow([variant, seed, rows['iteration'][row], index, f'{value:.4g}'])


def summary(found: Runs) -> list[dict[str, str]]:
  """Returns a line for each variant: start, peak and end of the ranks, return, mean Q."""
  lines = []
  for variant, results in found.items():
    line = {'variant': variant}
    for name in ('srank', 'reference_srank'):
      values = np.stack([rows[name] for rows in results]).astype(np.float64)
      known = values[:, ~np.isnan(values).any(axis=0)]
      if known.shape[1]:
        for part, column in (('start', known[:, 0]), ('peak', known.max(1)), ('end', known[:, -1])):
          line[f'{name}_{part}'] = f'{column.mean():.1f} ± {column.std():.1f}'
    for name in ('eval_return', 'q_mean', 'q_solution_mean', 'q_fit_error', 'reference_dead_units'):
      column = np.array([rows[name][-1] for rows in results], np.float64)
      line[name] = f'{column.mean():.3g} ± {column.std():.2g}'
    broken = sum(bool(np.isnan(rows['reference_srank']).any()) for rows in results)
    line['seeds_not_finite'] = f'{broken}/{len(results)}'
    lines.append(line)
  return lines


def write_summary(path: pathlib.Path, summaries: Mapping[str, list[dict[str, str]]]) -> None:
  """Writes the lines of all figures as one CSV."""
  lines = [{'figure': name, **line} for name, part in summaries.items() for line in part]
  fields = list(dict.fromkeys(key for line in lines for key in line))
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, fields, restval='')
    writer.writeheader()
    writer.writerows(lines)


def save(canvas: Canvas, stem: pathlib.Path) -> None:
  """Writes STEM.png (128 colours) and STEM.svg (text as text); equal numbers give equal files."""
  FigureCanvasAgg(canvas)
  buffer = io.BytesIO()
  canvas.savefig(buffer, dpi=120)
  canvas.set_layout_engine('none')  # Both files share the layout, which takes most of the time.
  image = Image.open(buffer).convert('RGB').quantize(128, dither=Image.Dither.NONE)
  image.save(stem.with_suffix('.png'), optimize=True)
  plain: Any = {'svg.fonttype': 'none', 'font.sans-serif': ['DejaVu Sans']}
  with mpl.rc_context({'svg.hashsalt': stem.name, **plain}):
    canvas.savefig(stem.with_suffix('.svg'), metadata={'Date': None})


def draw(stem: pathlib.Path, figure: Figure, found: Runs) -> None:
  """Draws the mean over seeds, with one standard deviation as a band and one panel per measure.

  Gradient steps run on a logarithmic axis (linear below FIRST), since T = 10 takes a twentieth of
  the steps of T = 200. Mean Q has a line for each seed, since diverging values have no useful mean.
  """
  canvas = Canvas(figsize=(3.6 * len(figure.panels), 3.9), layout='constrained')
  axes = canvas.subplots(1, len(figure.panels), squeeze=False)[0]
  for axis, measure in zip(axes, figure.panels, strict=True):
    bootstrapped, supervised = iter(STYLES), iter(SUPERVISED)
    for variant, results in found.items():
      colour, line = next(supervised if 'supervised' in variant else bootstrapped)
      across = results[0][figure.axis]
      values = np.stack([rows[measure] for rows in results]).astype(np.float64)
      if measure == 'q_mean':
        lines = axis.plot(across, values.T, color=colour, linestyle=line, linewidth=1.0, alpha=0.8)
        lines[0].set_label(variant)
        continue
      mean, spread = values.mean(axis=0), values.std(axis=0)  # NaN if any seed is.
      axis.plot(across, mean, color=colour, linestyle=line, label=variant, linewidth=1.8)
      axis.fill_between(across, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0)
    _finish(axis, figure, measure, found)
  shown = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
  unique = {label: handle for handle, label in shown[::-1]}  # The first panel's, in its order.
  names = [name for name in (*found, 'exact mean Q*') if name in unique]
  canvas.legend(
    [unique[name] for name in names],
    names,
    loc='outside lower center',
    ncols=min(len(names), len(axes) + 1),
    fontsize=11,
    handlelength=2.6,
  )
  seeds = len(next(iter(found.values())))
  canvas.suptitle(f'{figure.title}. {seeds} seeds: mean ± standard deviation', fontsize=12)
  save(canvas, stem)


def _finish(axis: Axes, figure: Figure, measure: str, found: Runs) -> None:
  """Sets a panel's axes, title and reference line."""
  if measure == 'q_mean':
    results = [rows for part in found.values() for rows in part]
    exact = np.mean([rows['q_solution_mean'][0] for rows in results])
    axis.axhline(exact, color='0.4', linewidth=1.2, linestyle=(0, (4, 2)), label='exact mean Q*')
    if max(np.nanmax(np.abs(rows['q_mean'])) for rows in results) > 10 * abs(exact):
      axis.set_yscale('symlog', linthresh=100)
      axis.set_ylim(bottom=min(0.0, *(1.5 * np.nanmin(rows['q_mean']) for rows in results)))
  if 'srank' in measure:
    axis.set_ylim(bottom=0)
  axis.set_xlabel(LABELS[figure.axis], fontsize=11)
  axis.set_title(LABELS[measure] + (', each seed' if measure == 'q_mean' else ''), fontsize=11)
  axis.tick_params(labelsize=10)
  axis.grid(alpha=0.3)
  if figure.axis == 'updates':
    axis.set_xscale('symlog', linthresh=FIRST)
    axis.set_xticks([0, FIRST, 10_000, 100_000])
    axis.set_xlim(0, max(rows['updates'][-1] for part in found.values() for rows in part))
  axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
  axis.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=''))

"""Draws the gridworld figures and writes their numbers: PNG, SVG and CSV, from finished runs."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

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
Runs = Mapping[str, Sequence[runs.Rows]]


def collect(directory: pathlib.Path, figure: Figure, seeds: Sequence[int]) -> Runs:
  """Reads a figure's runs: by variant, one a seed."""
  return {
    name: [runs.load(directory, config, seed) for seed in seeds]
    for name, config in figure.variants.items()
  }


def write_csv(path: pathlib.Path, found: Runs, seeds: Sequence[int]) -> None:
  """Writes one line for each variant, seed and logged iteration, with every scalar measure."""
  first = next(iter(found.values()))[0]
  scalars = sorted(name for name, value in first.items() if value.ndim == 1)
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['variant', 'seed', *scalars])
    for variant, results in found.items():
      for seed, rows in zip(seeds, results, strict=True):
        for values in zip(*(rows[name] for name in scalars), strict=True):
          writer.writerow([variant, seed, *(f'{value:.6g}' for value in values)])


def write_spectra_csv(path: pathlib.Path, found: Runs, seeds: Sequence[int]) -> None:
  """Writes singular values on the reference set, first and last logged iteration."""
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['variant', 'seed', 'iteration', 'index', 'sigma'])
    for variant, results in found.items():
      for seed, rows in zip(seeds, results, strict=True):
        for row in (0, -1):
          for index, value in enumerate(rows['reference_spectrum'][row], start=1):
            writer.writerow([variant, seed, rows['iteration'][row], index, f'{value:.6g}'])


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
  """Writes STEM.png and STEM.svg; the same numbers give the same SVG."""
  FigureCanvasAgg(canvas)
  canvas.savefig(stem.with_suffix('.png'), dpi=120)
  with mpl.rc_context({'svg.hashsalt': stem.name}):
    canvas.savefig(stem.with_suffix('.svg'), metadata={'Date': None})


def draw(stem: pathlib.Path, figure: Figure, found: Runs) -> None:
  """Draws the mean over seeds, one standard deviation as a band, one panel a measure."""
  canvas = Canvas(figsize=(4.2 * len(figure.panels), 3.8), layout='constrained')
  axes = canvas.subplots(1, len(figure.panels), squeeze=False)[0]
  for axis, measure in zip(axes, figure.panels, strict=True):
    for index, (variant, results) in enumerate(found.items()):
      across = results[0][figure.axis]
      values = np.stack([rows[measure] for rows in results]).astype(np.float64)
      mean, spread = values.mean(axis=0), values.std(axis=0)  # NaN where any seed is.
      style = '--' if 'supervised' in variant else '-'
      axis.plot(across, mean, style, color=f'C{index}', label=variant, linewidth=1.5)
      axis.fill_between(across, mean - spread, mean + spread, color=f'C{index}', alpha=0.2, lw=0)
    if measure == 'q_mean':
      exact = np.mean([rows['q_solution_mean'][0] for r in found.values() for rows in r])
      axis.axhline(exact, color='black', linewidth=0.8, linestyle=':', label='exact')
    axis.set_xlabel(LABELS[figure.axis])
    axis.set_title(LABELS[measure], fontsize=10)
    axis.grid(alpha=0.3)
  handles, labels = axes[-1].get_legend_handles_labels()
  canvas.legend(handles, labels, loc='outside lower center', ncols=len(labels), fontsize=9)
  canvas.suptitle(f'{figure.title} ({len(next(iter(found.values())))} seeds, mean ± std)')
  save(canvas, stem)

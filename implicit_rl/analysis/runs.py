"""Reads the metrics of runs and condenses them: one curve per metric, one row per variant."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from implicit_rl import metrics_log


class Curve(NamedTuple):
  """One metric of several runs that differ by their seed alone.

  Attributes:
    updates: [T] gradient updates.
    values: [runs, T] float64; NaN where a run logged null.
  """

  updates: np.ndarray
  values: np.ndarray


def load(base_dirs: Sequence[str | os.PathLike], metric: str) -> Curve:
  """Reads a metric of runs logged at the same updates; longer runs are cut to the shortest.

  Args:
    base_dirs: directories with a `metrics.jsonl`, one per seed.
    metric: a key of its rows.

  Raises:
    FileNotFoundError: if a run has no metrics.
    ValueError: if no row is there, the metric is unknown, or the runs' updates differ.
  """
  runs = []
  for base_dir in base_dirs:
    path = pathlib.Path(base_dir) / 'metrics.jsonl'
    if not path.exists():
      raise FileNotFoundError(f'{path} is missing: {base_dir} is not the --base_dir of a run.')
    rows = metrics_log.read(path)
    if not rows:
      raise ValueError(f'{path} has no row: the run has not finished an iteration.')
    if metric not in rows[0]:
      raise ValueError(f'{path} has no {metric!r}; it has {", ".join(rows[0])}.')
    runs.append(rows)
  length = min(map(len, runs))
  updates = np.array([[row['updates'] for row in rows[:length]] for rows in runs])
  if (updates != updates[0]).any():
    raise ValueError(
      f'These runs were logged at different updates: {", ".join(map(str, base_dirs))}.'
    )
  values = [[row[metric] for row in rows[:length]] for rows in runs]
  return Curve(updates[0], np.array(values, np.float64))


def summary_table(variants: Mapping[str, Sequence[str | os.PathLike]]) -> str:
  """A Markdown table: return at the end and at its best, srank first, at its peak and last.

  Each entry is the mean over the runs ± their sample standard deviation.

  Args:
    variants: the base_dirs of each variant's runs, by the variant's name.
  """
  lines = [
    '| variant | runs | final return | best return | srank first | srank peak | srank last |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, base_dirs in variants.items():
    returns = load(base_dirs, 'eval_return').values
    sranks = load(base_dirs, 'srank').values
    columns = (returns[:, -1], returns.max(1), sranks[:, 0], sranks.max(1), sranks[:, -1])
    cells = [f'{name}', f'{len(base_dirs)}', *map(_mean_and_spread, columns)]
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def _mean_and_spread(values: np.ndarray) -> str:
  spread = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
  return f'{values.mean():.1f}{spread}'

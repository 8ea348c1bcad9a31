"""Figures of runs by variant: what code that has just trained them calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from implicit_rl.analysis import curves, runs, style


def learning_curves(
  variants: Mapping[str, Sequence[str | os.PathLike]],
  path: str | os.PathLike,
  metrics: Sequence[str] = ('srank', 'eval_return'),
  title: str = '',
) -> None:
  """Draws each metric against gradient updates: mean of the runs, band from least to most.

  Args:
    variants: the base_dirs of each variant's runs, by the name that the legend shows.
    path: the file to write; its ending chooses the format, none writes PNG, SVG and CSV.
    metrics: keys of metrics.jsonl, one panel each.
    title: above the panels.
  """
  figure, numbers = curves.figure(runs.load(variants), metrics, title=title)
  style.save(figure, path, numbers)

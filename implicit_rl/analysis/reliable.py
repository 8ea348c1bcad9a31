"""rliable's aggregates with stratified bootstrap intervals (Agarwal et al., 2021)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from rliable import library
from rliable import metrics as rliable_metrics

AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {
  'IQM': rliable_metrics.aggregate_iqm,
  'median': rliable_metrics.aggregate_median,
  'mean': rliable_metrics.aggregate_mean,
  'optimality gap': rliable_metrics.aggregate_optimality_gap,
}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
  """Seeds NumPy's global generator, which rliable uses regardless of `random_state`."""
  before = np.random.get_state()  # noqa: NPY002
  np.random.seed(seed)  # noqa: NPY002
  try:
    yield
  finally:
    np.random.set_state(before)  # noqa: NPY002


def aggregates(
  matrices: Mapping[str, np.ndarray], *, reps: int = 2000, seed: int = 0
) -> pd.DataFrame:
  """Returns IQM, median, mean and optimality gap of each variant with 95% intervals.

  Args:
    matrices: from `scores.matrix`: [runs, games] by variant, normalised.
    reps: bootstrap samples.
    seed: of the bootstrap.

  Returns:
    A row per variant and aggregate: variant, aggregate, value, low, high.
  """
  together = lambda scores: np.array([aggregate(scores) for aggregate in AGGREGATES.values()])
  with _seeded(seed):
    values, intervals = library.get_interval_estimates(dict(matrices), together, reps=reps)
  return pd.DataFrame(
    [
      {
        'variant': variant,
        'aggregate': name,
        'value': values[variant][i],
        'low': intervals[variant][0, i],
        'high': intervals[variant][1, i],
      }
      for variant in matrices
      for i, name in enumerate(AGGREGATES)
    ]
  )


def improvement(
  matrices: Mapping[str, np.ndarray],
  compared: list[tuple[str, str]],
  *,
  reps: int = 2000,
  seed: int = 0,
) -> pd.DataFrame:
  """Returns the probability that a run of `variant` beats one of `base`, with 95% intervals.

  Args:
    matrices: as in `aggregates`; scores need no normalisation, since only their order is used.
    compared: (base, variant) pairs.
    reps: bootstrap samples.
    seed: of the bootstrap.

  Returns:
    A row per pair: base, variant, value, low, high.

  Raises:
    ValueError: for an unknown variant.
  """
  for name in {name for pair in compared for name in pair} - set(matrices):
    raise ValueError(f'unknown variant {name!r}; there are {", ".join(matrices)}.')
  pairs = {f'{variant},{base}': (matrices[variant], matrices[base]) for base, variant in compared}
  with _seeded(seed):
    values, intervals = library.get_interval_estimates(
      pairs, rliable_metrics.probability_of_improvement, reps=reps
    )
  return pd.DataFrame(
    [
      {
        'base': base,
        'variant': variant,
        'value': float(values[name]),
        'low': float(intervals[name][0].item()),
        'high': float(intervals[name][1].item()),
      }
      for name, (base, variant) in zip(pairs, compared, strict=True)
    ]
  )


def profiles(
  matrices: Mapping[str, np.ndarray],
  thresholds: np.ndarray,
  *,
  reps: int = 2000,
  seed: int = 0,
) -> pd.DataFrame:
  """Returns performance profiles: the share of runs above each threshold, with 95% intervals.

  Args:
    matrices: as in `aggregates`.
    thresholds: [T].
    reps: bootstrap samples.
    seed: of the bootstrap.

  Returns:
    A row per variant and threshold: variant, threshold, value, low, high.
  """
  with _seeded(seed):
    values, intervals = library.create_performance_profile(dict(matrices), thresholds, reps=reps)
  return pd.concat(
    [
      pd.DataFrame(
        {
          'variant': variant,
          'threshold': thresholds,
          'value': values[variant],
          'low': intervals[variant][0],
          'high': intervals[variant][1],
        }
      )
      for variant in matrices
    ],
    ignore_index=True,
  )

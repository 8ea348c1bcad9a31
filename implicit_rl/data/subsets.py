"""Subsets of a dataset, which include the different meanings of "5%" in published code.

Each subset is a pure function of the episodes' lengths and checkpoints. It returns, for each row of
the dataset in the order it was logged, whether a transition may start there. Such a transition is
always complete: the frames before and after it are stored even if their rows are not chosen.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import numpy as np


class Episodes(NamedTuple):
  """The episodes of a dataset, in the order they were logged.

  Attributes:
    length: [E] int64, rows of each.
    checkpoint: [E] int64, the stage of the logging agent's training that each belongs to.
    row_checkpoint: [N] integers, the checkpoint of each row, if an episode may belong to two;
      otherwise None.
  """

  length: np.ndarray
  checkpoint: np.ndarray
  row_checkpoint: np.ndarray | None = None


Subset = Callable[[Episodes, float, int], np.ndarray]


@gin.configurable
def random_episodes(episodes: Episodes, fraction: float, seed: int = 0) -> np.ndarray:
  """Chooses whole episodes in random order until they hold `fraction` of the rows. The default.

  It is the default because the paper subsamples at random and counts transitions (5% of 50 million
  is 2.5 million), as this does. Whole episodes also keep every stack, n-step return and Monte Carlo
  return complete, and take exactly their share of memory. Random single transitions need four
  frames each, so 5% of the transitions would need almost a quarter of the frames.

  Args:
    episodes: the whole dataset.
    fraction: in (0, 1].
    seed: which random episodes.

  Returns:
    [N] bool; the count comes as near to the fraction as whole episodes allow, and at least one.
  """
  check_fraction(fraction)
  order = np.random.default_rng(seed).permutation(len(episodes.length))
  held = np.cumsum(episodes.length[order])
  target = fraction * held[-1]
  count = int(np.searchsorted(held, target)) + 1
  if count > 1 and target - held[count - 2] < held[min(count, len(held)) - 1] - target:
    count -= 1
  chosen = np.zeros(len(order), bool)
  chosen[order[:count]] = True
  return np.repeat(chosen, episodes.length)


@gin.configurable
def random_transitions(episodes: Episodes, fraction: float, seed: int = 0) -> np.ndarray:
  """Chooses single transitions uniformly without replacement from the whole dataset.

  Args:
    episodes: the whole dataset.
    fraction: in (0, 1].
    seed: which random transitions.

  Returns:
    [N] bool, exactly round(fraction·N) of them True.
  """
  check_fraction(fraction)
  total = int(episodes.length.sum())
  chosen = np.zeros(total, bool)
  count = max(1, round(fraction * total))
  rng = np.random.default_rng(seed)
  chosen[rng.choice(total, size=count, replace=False, shuffle=False)] = True
  return chosen


@gin.configurable
def prefix_episodes_per_checkpoint(
  episodes: Episodes, fraction: float, seed: int = 0
) -> np.ndarray:
  """Chooses the first episodes of each checkpoint, as Dopamine's reader of this dataset does.

  Args:
    episodes: the whole dataset.
    fraction: in (0, 1], of each checkpoint's episodes, rounded down but at least one.
    seed: not used; nothing here is random.

  Returns:
    [N] bool.
  """
  del seed
  check_fraction(fraction)
  place, count = _within_checkpoint(episodes.checkpoint)
  return np.repeat(place < np.maximum(1, np.floor(fraction * count + 1e-9)), episodes.length)


@gin.configurable
def prefix_rows_per_checkpoint(
  episodes: Episodes, fraction: float, seed: int = 0, rows: int | None = None
) -> np.ndarray:
  """Chooses the first rows of each checkpoint, regardless of episodes.

  Dopamine's fixed replay and several public results use the first 50,000 of each million.

  Args:
    episodes: the whole dataset.
    fraction: in (0, 1], of each checkpoint's rows; not used if `rows` is given.
    seed: not used; nothing here is random.
    rows: how many rows of each checkpoint.

  Returns:
    [N] bool.
  """
  del seed
  if rows is None:
    check_fraction(fraction)
  elif rows < 1:
    raise ValueError(f'prefix_rows_per_checkpoint.rows must be at least 1, got {rows}.')
  checkpoint = episodes.row_checkpoint
  if checkpoint is None:
    checkpoint = np.repeat(episodes.checkpoint, episodes.length)
  place, count = _within_checkpoint(checkpoint)
  return place < (np.maximum(1, np.round(fraction * count)) if rows is None else rows)


@gin.configurable
def first_n(episodes: Episodes, fraction: float, seed: int = 0, n: int | None = None) -> np.ndarray:
  """Chooses the first n rows of the whole dataset: the earliest experience.

  Args:
    episodes: the whole dataset.
    fraction: in (0, 1], of all rows; not used if `n` is given.
    seed: not used; nothing here is random.
    n: how many rows.

  Returns:
    [N] bool.
  """
  del seed
  total = int(episodes.length.sum())
  if n is None:
    check_fraction(fraction)
    n = max(1, round(fraction * total))
  elif n < 1:
    raise ValueError(f'first_n.n must be at least 1, got {n}.')
  return np.arange(total) < n


SUBSETS: dict[str, Subset] = {
  'random_episodes': random_episodes,
  'random_transitions': random_transitions,
  'prefix_episodes_per_checkpoint': prefix_episodes_per_checkpoint,
  'prefix_rows_per_checkpoint': prefix_rows_per_checkpoint,
  'first_n': first_n,
}


def by_name(subset: str | Subset) -> tuple[str, Subset]:
  """Returns a subset's name and function.

  Args:
    subset: one of `SUBSETS`, or your own function with the same arguments.

  Raises:
    ValueError: if the name is unknown.
  """
  if callable(subset):
    return getattr(subset, '__name__', type(subset).__name__), subset
  if subset not in SUBSETS:
    near = difflib.get_close_matches(str(subset), SUBSETS, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'Unknown subset {subset!r}.{hint} Known: {", ".join(SUBSETS)}.')
  return subset, SUBSETS[subset]


def check(subset: str | Subset, fraction: float) -> None:
  """Raises ValueError if `choose` could not use these; a function may ignore the fraction."""
  by_name(subset)
  if not callable(subset):
    check_fraction(fraction)


class Chosen(NamedTuple):
  """The rows that a subset chooses from a dataset.

  Attributes:
    rows: [N] bool, whether a transition may start there.
    description: name and arguments of the subset, and its number of rows; as JSON values.
  """

  rows: np.ndarray
  description: dict[str, Any]


def choose(
  subset: str | Subset,
  episodes: Episodes,
  fraction: float,
  seed: int,
  counted: np.ndarray | None = None,
) -> Chosen:
  """Applies a subset to a dataset.

  Args:
    subset: one of `SUBSETS`, or your own function with the same arguments.
    episodes: the whole dataset.
    fraction: in (0, 1].
    seed: which random subset.
    counted: [N] bool, which of the stored rows are rows of the dataset; None if all are.

  Raises:
    ValueError: if the subset is unknown, empty, or not one bool for each row of the dataset.
  """
  name, function = by_name(subset)
  total = int(episodes.length.sum())
  chosen = np.asarray(function(episodes, fraction, seed))
  if chosen.shape != (total,) or chosen.dtype != bool:
    raise ValueError(f'Subset {name} must return [{total}] bool, one per row.')
  if not chosen.any():
    raise ValueError(f'Subset {name} is empty: it takes none of the {total} rows.')
  rows = chosen
  if counted is not None:
    rows = np.zeros(len(counted), bool)
    rows[counted] = chosen
  description = {
    'subset': name,
    'fraction': fraction,
    'subset_seed': seed,
    'dataset_rows': total,
    'dataset_episodes': len(episodes.length),
    'selected_rows': int(chosen.sum()),
    'realised_fraction': float(chosen.mean()),
    'selection_sha256': hashlib.sha256(np.packbits(rows).tobytes()).hexdigest()[:32],
  }
  return Chosen(rows, description)


def check_fraction(fraction: float) -> None:
  """Raises ValueError unless 0 < fraction <= 1."""
  if not 0 < fraction <= 1:
    raise ValueError(f'fraction must lie in (0, 1], got {fraction}: 0.05 means 5%.')


def _within_checkpoint(checkpoint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each element's position in its checkpoint, and its checkpoint's size: [M], [M]."""
  _, which = np.unique(checkpoint, return_inverse=True)
  size = np.bincount(which)
  order = np.argsort(which, kind='stable')
  place = np.empty(len(which), np.int64)
  place[order] = np.arange(len(which)) - np.repeat(np.cumsum(size) - size, size)
  return place, size[which]

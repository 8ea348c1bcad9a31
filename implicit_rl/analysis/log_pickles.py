"""Dopamine's log pickles (`logs/log_N`), read so that a file from a stranger can't run code."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from implicit_rl.logs import pickles


def load(path: str | pathlib.Path) -> Any:
  """What a pickle holds, if that is containers, numbers, strings and arrays of them.

  Args:
    path: the file; written by any Python, NumPy and pickle protocol.

  Raises:
    ValueError: if the file is no pickle, or names anything else; nothing in it has run then.
  """
  with open(path, 'rb') as file:
    try:
      return pickles.load(file)
    except ValueError as error:
      raise ValueError(f'{path} is not a log that Dopamine wrote: {error}.') from error


def newest(base_dir: str | pathlib.Path) -> pathlib.Path | None:
  """The log of the last iteration in `base_dir`, which holds all before it; None if none is."""
  logs = pathlib.Path(base_dir).glob('logs/log_*')
  numbered = [(int(path.name[4:]), path) for path in logs if path.name[4:].isdigit()]
  return max(numbered)[1] if numbered else None


def rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """One row per iteration of a log, with the names of metrics.jsonl where it has them.

  `eval_return` and `train_return` are the means over the iteration's episodes,
  `environment_steps` the training steps up to its end; every other number keeps its own name.
  """
  log = load(path)
  prefix = 'iteration_'
  if not isinstance(log, dict) or not all(str(key).startswith(prefix) for key in log):
    raise ValueError(f'{path} is not a log that Dopamine wrote: it holds no iterations.')
  found, steps = [], 0.0
  for key in sorted(log, key=lambda name: int(name[len(prefix) :])):
    values = {name: np.asarray(value, np.float64) for name, value in log[key].items()}
    row: dict[str, Any] = {'iteration': int(key[len(prefix) :])}
    for phase in ('train', 'eval'):
      episodes = values.pop(f'{phase}_episode_returns', np.zeros(0))
      lengths = values.pop(f'{phase}_episode_lengths', np.zeros(0))
      if episodes.size:
        row[f'{phase}_return'] = float(episodes.mean())
        row[f'{phase}_episodes'] = int(episodes.size)
      if phase == 'train' and lengths.size:
        steps += float(lengths.sum())
        row['environment_steps'] = steps
    row |= {name: float(value.mean()) for name, value in values.items() if value.size}
    found.append(row)
  return found

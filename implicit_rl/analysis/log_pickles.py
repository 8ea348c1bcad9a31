"""Reads Dopamine's log pickles (`logs/log_N`) in a way that an untrusted file can't run code."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from implicit_rl.logs import pickles


def load(path: str | pathlib.Path) -> Any:
  """Returns the content of a pickle of containers, numbers, strings and arrays of them.

  Args:
    path: the file, from any version of Python, NumPy and the pickle protocol.

  Raises:
    ValueError: if the file is not a pickle, or names anything else. Nothing in it has run then.
  """
  with open(path, 'rb') as file:
    try:
      return pickles.load(file)
    except ValueError as error:
      raise ValueError(f'{path} is not a log that Dopamine wrote: {error}.') from error


def newest(base_dir: str | pathlib.Path) -> pathlib.Path | None:
  """Returns the log of the last iteration in `base_dir`, which has all earlier ones, or None."""
  logs = pathlib.Path(base_dir).glob('logs/log_*')
  numbered = [(int(path.name[4:]), path) for path in logs if path.name[4:].isdigit()]
  return max(numbered)[1] if numbered else None


def rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns one row per iteration of a log, with the names of metrics.jsonl where they exist.

  `eval_return` and `train_return` are the means over the iteration's episodes,
  `environment_steps` the training steps up to its end; other numbers keep their names.
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

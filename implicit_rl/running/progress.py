"""What a person at the console reads while a run goes on: a line per iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def line(row: Mapping[str, Any], num_iterations: int, seconds: float) -> str:
  """How an iteration went, and how long the rest will take if it goes on like that.

  Args:
    row: the iteration's row of metrics.jsonl.
    num_iterations: iterations in the whole run.
    seconds: that the iteration took, evaluation included.
  """
  done = row['iteration'] + 1
  evaluated = row['eval_return']
  parts = [
    f'iteration {done}/{num_iterations}',
    f'updates {row["updates"]:,}',
    f'return {"-" if evaluated is None else f"{evaluated:.2f}"}',
    f'srank {row["srank"]:.0f}',
    f'TD error {row["td_error"]:.3g}',
    f'Q {row["q_mean"]:.3g}',
    f'{row["updates_per_second"]:.0f} updates/s',
  ]
  if done < num_iterations:
    parts.append(f'{duration((num_iterations - done) * seconds)} left')
  return '  '.join(parts)


def duration(seconds: float) -> str:
  """A span of time in the units that a person would say it in."""
  if seconds < 60:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  return f'{minutes} min' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02} min'

"""Prints a line per iteration while a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from implicit_rl.logs.progress_bars import duration


def line(
  row: Mapping[str, Any], num_iterations: int, seconds: float, first_update_after: int = 0
) -> str:
  """Returns an iteration's results and the estimated time left.

  Args:
    row: the iteration's row of metrics.jsonl.
    num_iterations: iterations in the whole run.
    seconds: duration of the iteration, including evaluation.
    first_update_after: environment steps before the first update; before them the line says that
      there was no update yet.
  """
  done = row['iteration'] + 1
  evaluated = row['eval_return']
  waiting, steps = '', row.get('environment_steps', 0)
  if not row['updates'] and 0 < steps <= first_update_after:
    waiting = f' (none before step {first_update_after:,}, min_replay_history; now at {steps:,})'
  parts = [
    f'iteration {done}/{num_iterations}',
    f'updates {row["updates"]:,}{waiting}',
    f'return {"-" if evaluated is None else f"{evaluated:.2f}"}',
    f'srank {row["srank"]:.0f}',
    f'TD error {row["td_error"]:.3g}',
    f'Q {row["q_mean"]:.3g}',
    f'{row["updates_per_second"]:.0f} updates/s',
  ]
  if done < num_iterations:
    parts.append(f'{duration((num_iterations - done) * seconds)} left')
  return '  '.join(parts)

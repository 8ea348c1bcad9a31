"""Estimates the costs of a sweep, device-hours and disk, from measured speeds."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from implicit_rl.analysis import runs
from implicit_rl.sweep.jobs import Length
from implicit_rl.sweep.spec import Planned


class Cost(NamedTuple):
  """Costs of all runs of a variant, or of a sweep.

  Attributes:
    runs: their number.
    updates: gradient updates.
    hours: of the device, with runs in sequence.
    gigabytes: on disk, without the training data.
  """

  runs: int
  updates: int
  hours: float
  gigabytes: float


def cost(
  planned: Sequence[Planned], lengths: Sequence[Length], measured: Mapping[str, Any] | None = None
) -> dict[str, Cost]:
  """Returns the cost of each variant, in the order of the runs.

  Args:
    planned: the runs.
    lengths: of the runs.
    measured: speeds that replace the sweep's own, such as from `measured_in`.

  Raises:
    ValueError: if a needed speed was not measured.
  """
  total: dict[str, Cost] = {}
  for run, length in zip(planned, lengths, strict=True):
    speed = {**run.measured, **(measured or {})}
    # Acting in training is as fast as acting in an evaluation.
    acted = length.evaluation_steps + length.steps
    for name, amount in (('updates_per_second', length.updates), ('steps_per_second', acted)):
      if amount and name not in speed:
        raise ValueError(
          f'measured.{name} is missing: measure it with one iteration of a run and give its '
          'directory as --measured_from, or write it down in the file.'
        )
    seconds = 0.0
    if length.updates:
      seconds += length.updates / speed['updates_per_second']
    if acted:
      seconds += acted / speed['steps_per_second']
    before = total.get(run.variant, Cost(0, 0, 0.0, 0.0))
    total[run.variant] = Cost(
      before.runs + 1,
      before.updates + length.updates,
      before.hours + seconds / 3600,
      before.gigabytes + speed.get('megabytes_per_run', 0) / 1000,
    )
  return total


def measured_in(base_dir: pathlib.Path) -> dict[str, Any]:
  """Returns speeds, size and device of a run: medians over its iterations after the first.

  Raises:
    FileNotFoundError: if it is not a run.
    ValueError: if it has logged no iteration.
  """
  run = runs.read(base_dir)
  rows = run.rows[1:] or run.rows  # The first one compiles.
  found: dict[str, Any] = {
    'updates_per_second': float(np.median([row['updates_per_second'] for row in rows])),
    'megabytes_per_run': sum(p.stat().st_size for p in base_dir.rglob('*') if p.is_file()) / 1e6,
    'device': ', '.join(run.start.get('devices', ())),
    'command': f'the run in {base_dir}',
  }
  steps = [v for name, v in run.settings.items() if name.endswith('Runner.evaluation_steps')]
  if steps and int(steps[0]):
    seconds = float(np.median([row['eval_seconds'] for row in rows]))
    found['steps_per_second'] = int(steps[0]) / seconds
  return found


def table(costs: Mapping[str, Cost], measured: Mapping[str, Any]) -> str:
  """Returns the costs as a Markdown table, with the device and command of the measurement."""
  total = Cost(*map(sum, zip(*costs.values(), strict=True)))
  lines = ['| variant | runs | updates | device-hours | GB on disk |', '|---|---|---|---|---|']
  for name, one in [*costs.items(), *([('all', total)] if len(costs) > 1 else [])]:
    lines.append(
      f'| {name} | {one.runs} | {one.updates:,} | {one.hours:,.1f} | {one.gigabytes:,.1f} |'
    )
  device = measured.get('device', 'an unnamed device')
  command = measured.get('command')
  lines.append(f'\nDevice-hours of {device}' + (f'; measured with: {command}' if command else ''))
  return '\n'.join(lines)

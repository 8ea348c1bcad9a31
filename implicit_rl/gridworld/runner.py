"""Runs one gridworld experiment from gin, so that `run_experiment.py` can launch it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import gin

from implicit_rl.diagnostics import alarms as alarms_of
from implicit_rl.gridworld import fitted_q, problem
from implicit_rl.gridworld.config import FittedQConfig
from implicit_rl.logs import jsonl


@gin.configurable
class GridworldTask:
  """Replaces the environment of other experiments; the seed determines the world.

  Args:
    seed: everything random in the run derives from it.
  """

  name = 'Gridworld'

  def __init__(self, seed: int = 0):
    self.seed = seed


@gin.configurable
class FittedQRunner:
  """Runs `FittedQConfig` and writes BASE_DIR/metrics.jsonl.

  The whole run is one compiled call of a few seconds. Its rows are written together at the end, and
  an interrupted run starts over.

  Args:
    base_dir: directory of the run.
    create_agent: unused; the network is part of `FittedQConfig`.
    create_environment: returns the `GridworldTask`.
  """

  def __init__(
    self,
    base_dir: str,
    create_agent: Callable[..., Any],
    create_environment: Callable[[], GridworldTask],
  ):
    del create_agent
    self._path = pathlib.Path(base_dir) / 'metrics.jsonl'
    self._task = create_environment()
    self._config = FittedQConfig()
    self._alarms = alarms_of.Alarms()

  def describe(self) -> dict[str, Any]:
    """Returns the parts that the run's record describes."""
    return {'environment': self._task.name, 'config': dataclasses.asdict(self._config)}

  def run_experiment(self) -> None:
    """Runs and writes one row for each logged fitting iteration."""
    began = time.monotonic()
    rows = fitted_q.run(self._config, self._task.seed)
    speed = float(rows['updates'][-1]) / (time.monotonic() - began)  # includes compilation
    part = self._path.with_suffix('.part')
    part.unlink(missing_ok=True)
    world = problem.solved(self._config, self._task.seed).world
    bounds, ringing = problem.value_bounds(self._config, world), dict[str, str]()
    for index in range(len(rows['iteration'])):
      row = {name: value[index] for name, value in rows.items()}
      alarms = self._alarms.check(row, bounds, self._config.discount)
      for told in alarms_of.onsets(alarms, ringing):
        print(f'Fitting iteration {row["iteration"]}: {told}')
      ringing = alarms
      jsonl.append(part, {**row, 'alarms': list(alarms), 'updates_per_second': speed})
    os.replace(part, self._path)
    print(
      f'{self._path}: return {rows["eval_return"][-1]:.2f}, srank {rows["srank"][-1]:.0f}, '
      f'{speed:.0f} updates/s'
    )

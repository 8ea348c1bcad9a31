"""Offline SAC and CQL on 20% of an online SAC's whole replay, with and without the penalty.

    python experiments/mujoco_offline.py    (all three steps; goes on where it stopped)
    python experiments/mujoco_offline.py report --results=docs/results/mujoco_offline

The steps, in order: `replays` does those runs of `mujoco_online.py` whose replay is needed, `run`
trains on them, `report` collects the rows of the runs that have begun, or takes what is kept in
--results where there is no run, and draws them. Run it from the repository's root. Each run is what
`run_experiment.py` does with the shipped gin files.

The scale is what an hour of one core holds, after the online runs: 5,000 updates, where the paper's
figures show 3.2 million, on 20% of 100,000 steps, where the paper takes those of a million. CQL has
2 actions of each of three kinds where its authors take 10. On a core at 2.45 GHz an update of SAC
takes 10 ms, the penalty adds 11 (an eigenproblem of 256 × 256 for each critic) and CQL 24 (6
actions in each of 256 states, forward and backward in both critics; with 30 actions five times as
much): 110 ms for the four variants together.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import mujoco_online
import run_flags
from absl import app, flags

from implicit_rl.analysis import curves, style, tables
from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

ITERATION = 1_000  # gradient updates between two measurements
EVALUATION = 5_000  # environment steps at the least; ten episodes or a multiple
SAMPLES = 2  # of each of CQL's three kinds of actions
_NAMES = {'sac': 'SAC', 'cql': 'CQL'}


class Run(NamedTuple):
  """One run, as plain data."""

  task: str
  agent: str = 'sac'
  penalty: bool = False
  seed: int = 0
  updates: int = 5_000

  @property
  def variant(self) -> str:
    """What it is called in figures and tables."""
    return _NAMES[self.agent] + (' + penalty' if self.penalty else '')

  @property
  def directory(self) -> str:
    """Where it lies, below the output."""
    return f'{self.agent}{"_lp" if self.penalty else ""}/{self.task}/seed_{self.seed}'


# In blocks, so that what is there after an early stop is whole.
RUNS = tuple(
  Run(task, agent, penalty, seed)
  for task in ('Hopper', 'HalfCheetah')
  for agent in ('sac', 'cql')
  for seed in range(3)
  for penalty in (False, True)
)


def job(
  run: Run, output: pathlib.Path, replays: pathlib.Path, more_bindings: Sequence[str] = ()
) -> parallel_runs.Job:
  """What to run for `run`, below `output`, on the data in `replays`; `more_bindings` win."""
  gin_files = [f'gin_configs/mujoco/offline_{run.agent}.gin']
  gin_files += ['gin_configs/penalties/lp.gin'] * run.penalty
  iterations = run.updates // ITERATION
  data = mujoco_online.replay(mujoco_online.Run(run.task), replays)
  bindings = (
    f'GAME = {run.task!r}',
    f'VectorReplay.path = {str(data.absolute())!r}',
    f'OfflineRunner.num_iterations = {iterations}',
    f'OfflineRunner.training_steps = {ITERATION}',
    f'OfflineRunner.evaluation_steps = {EVALUATION}',
    'OfflineRunner.keep_checkpoints = 1',
    *([f'ContinuousCQLAgent.num_samples = {SAMPLES}'] * (run.agent == 'cql')),
    *more_bindings,
  )
  return parallel_runs.Job(output / run.directory, tuple(gin_files), bindings, run.seed, iterations)


_METRICS = ('eval_return', 'srank', 'q_mean')


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows to CSV, unless no run is there; draws them and prints the table."""
  planned = [(run.variant, job(run, output, output)) for run in RUNS]
  table = mujoco_online.collect(planned, results / 'runs.csv')
  for agent, name in _NAMES.items():
    chosen = table['variant'].str.startswith(name)
    if chosen.any():
      title = f'Offline {name} on 20% of an online SAC’s replay'
      figure, numbers = curves.figure(table[chosen], _METRICS, x='updates', title=title)
      style.save(figure, results / f'{agent}.png', numbers)
  print(tables.markdown(mujoco_online.last_rows(table)))


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or all."""
  steps = ('replays', 'run', 'report')
  unknown = set(argv[1:]) - set(steps)
  if unknown:
    raise SystemExit(f'mujoco_offline: no step {", ".join(unknown)}; there are {", ".join(steps)}')
  output, replays = map(run_flags.folder, (FLAGS.output, FLAGS.replays))
  chosen = argv[1:] or steps
  planned = [run for run in RUNS if not FLAGS.tasks or run.task in FLAGS.tasks]
  needed = [run for run in mujoco_online.LEARNS if run.task in {run.task for run in planned}]
  jobs = [mujoco_online.job(run, replays) for run in needed] * ('replays' in chosen)
  settings = {'processes': FLAGS.processes, 'compilation_cache': output / 'compiled'}
  try:
    if jobs:
      parallel_runs.run_all(run_flags.chosen(jobs), **settings)
    if 'run' in chosen:
      jobs = [job(run, output, replays) for run in planned]
      parallel_runs.run_all(run_flags.chosen(jobs), **settings)
  except (OSError, ValueError) as error:
    raise SystemExit(f'mujoco_offline: {error}') from error
  if 'report' in chosen:
    report(output, pathlib.Path(FLAGS.results or output / 'report'))


if __name__ == '__main__':
  run_flags.define('mujoco_offline')
  flags.DEFINE_string('replays', 'runs/mujoco_online', "Directory of mujoco_online.py's runs.")
  flags.DEFINE_list('tasks', [], 'Only these tasks; by default all.')
  app.run(main)

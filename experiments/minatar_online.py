"""Online agents on MinAtar: DQN on all five games, n updates per step, Rainbow beside DQN.

    python experiments/minatar_online.py    (runs, then draws; goes on where it stopped)
    python experiments/minatar_online.py report --results=docs/results/minatar_online

`run` does what is left of the runs, `report` collects the finished ones' rows, or takes those that
are kept in --results where there is no run, and draws them. Run it from the repository's root. Each
run is what `run_experiment.py` does with the shipped gin files.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import minatar_online_report
from absl import app, flags

from implicit_rl import local_runs
from implicit_rl.theory.output import write_csv

FLAGS = flags.FLAGS

GAMES = ('Breakout', 'Asterix', 'SpaceInvaders', 'Freeway', 'Seaquest')
ITERATION = 25_000  # environment steps between two measurements
EVALUATION = 10_000  # environment steps at the least; 32 episodes or a multiple


class Run(NamedTuple):
  """One run, as plain data."""

  game: str
  agent: str = 'dqn'
  updates_per_step: float = 0.25  # n
  seed: int = 0
  steps: int = 500_000  # environment steps

  @property
  def name(self) -> str:
    """The run's directory."""
    return f'{self.agent}-n_{self.updates_per_step:g}/{self.game}/seed_{self.seed}'


SEEDS = (0, 1)
# In blocks, so that what is there after an early stop is whole.
DQN = tuple(Run(game, seed=seed) for game in GAMES for seed in SEEDS)
RAINBOW = tuple(Run(game, 'rainbow', seed=seed) for game in GAMES[:3] for seed in SEEDS)
MORE_UPDATES = tuple(
  Run(game, 'dqn', n, seed, steps)
  for n, steps in ((1, 500_000), (4, 150_000))
  for game in GAMES[:2]
  for seed in SEEDS
)
RUNS = (*DQN, *RAINBOW, *MORE_UPDATES)


def job(run: Run, output: pathlib.Path, more_bindings: Sequence[str] = ()) -> local_runs.Job:
  """What to run for `run`, below `output`; `more_bindings` win."""
  iterations = run.steps // ITERATION
  bindings = (
    f'GAME = {run.game!r}',
    f'OnlineRunner.updates_per_step = {run.updates_per_step}',
    f'OnlineRunner.num_iterations = {iterations}',
    f'OnlineRunner.training_steps = {ITERATION}',
    f'OnlineRunner.evaluation_steps = {EVALUATION}',
    'OnlineRunner.keep_checkpoints = 1',
    *more_bindings,
  )
  return local_runs.Job(
    output / run.name,
    (f'gin_configs/minatar/online_{run.agent}.gin',),
    bindings,
    run.seed,
    iterations,
  )


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows of the finished runs to CSV, unless none is there; draws and prints them."""
  results.mkdir(parents=True, exist_ok=True)
  rows = [row for r in RUNS for row in minatar_online_report.rows_of(r._asdict(), job(r, output))]
  if rows:
    write_csv(results / 'runs.csv', rows)
  rows = minatar_online_report.read(results / 'runs.csv')
  minatar_online_report.draw(rows, results)
  print(minatar_online_report.tables(rows))


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or both."""
  unknown = set(argv[1:]) - {'run', 'report'}
  if unknown:
    raise SystemExit(f'minatar_online: no step {", ".join(unknown)}; there are run and report.')
  output, chosen = pathlib.Path(FLAGS.output), argv[1:] or ('run', 'report')
  if 'run' in chosen:
    try:
      local_runs.run_all(
        [job(run, output) for run in RUNS],
        processes=FLAGS.processes,
        compilation_cache=output / 'compiled',
      )
    except (OSError, ValueError) as error:
      raise SystemExit(f'minatar_online: {error}') from error
  if 'report' in chosen:
    report(output, pathlib.Path(FLAGS.results or output / 'report'))


if __name__ == '__main__':
  flags.DEFINE_string('output', 'runs/minatar_online', 'Directory for the runs.')
  flags.DEFINE_string('results', None, 'Where report reads and writes; OUTPUT/report by default.')
  flags.DEFINE_integer('processes', None, 'Runs at once; by default one a core.', lower_bound=1)
  app.run(main)

"""Online agents on MinAtar: DQN on all five games, n updates per step, Rainbow beside DQN.

    python experiments/minatar_online.py    (runs, then draws; goes on where it stopped)
    python experiments/minatar_online.py report --results=docs/results/minatar_online
    python experiments/minatar_online.py --quick    (shows in minutes that everything works)

`run` does what is left of the runs, `report` collects the rows of those that have begun, or takes
what is kept in --results where there is no run, and draws them. Run it from the repository's root.
Each run is what `run_experiment.py` does with the shipped gin files.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import run_flags
from absl import app, flags

from implicit_rl.analysis import curves, runs, style, tables
from implicit_rl.running import parallel_runs

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
  def variant(self) -> str:
    """What it is called in figures and tables."""
    return f'{"Rainbow" if self.agent == "rainbow" else "DQN"}, n = {self.updates_per_step:g}'

  @property
  def directory(self) -> str:
    """Where it lies, below the output."""
    return f'{self.agent}-n_{self.updates_per_step:g}/{self.game}/seed_{self.seed}'


SEEDS = (0, 1)
# In blocks, so that what is there after an early stop is whole.
DQN = tuple(Run(game, seed=seed) for game in GAMES for seed in SEEDS)
RAINBOW = tuple(Run(game, 'rainbow', seed=seed) for game in GAMES[:3] for seed in SEEDS)
MORE_UPDATES = tuple(
  Run(game, 'dqn', n, seed, steps)
  for n, steps in ((1, 250_000), (4, 50_000))
  for game in GAMES[:2]
  for seed in SEEDS
)
RUNS = (*DQN, *RAINBOW, *MORE_UPDATES)


def job(run: Run, output: pathlib.Path, more_bindings: Sequence[str] = ()) -> parallel_runs.Job:
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
  return parallel_runs.Job(
    output / run.directory,
    (f'gin_configs/minatar/online_{run.agent}.gin',),
    bindings,
    run.seed,
    iterations,
  )


# Columns of the committed table; spectra and the rest stay with the runs.
_KEPT = (
  'variant game seed iteration environment_steps updates eval_return eval_return_std train_return '
  'srank sigma_max sigma_min td_error q_mean dead_units steps_per_second'
).split()
_METRICS = ('eval_return', 'srank', 'td_error')


def collect(output: pathlib.Path) -> pd.DataFrame | None:
  """The rows of all runs that have finished an iteration, with the commit that ran, or None."""
  parts = []
  for run in RUNS:
    if job(run, output).done:
      loaded = runs.read(output / run.directory)
      rows = runs.frame({run.variant: [loaded]})[_KEPT]
      parts.append(rows.assign(revision=loaded.commit))
  return pd.concat(parts, ignore_index=True) if parts else None


def last_rows(table: pd.DataFrame) -> pd.DataFrame:
  """A row per game and variant at the step that all its seeds reached: mean ± deviation."""
  rows = []
  for (game, variant), group in table.groupby(['game', 'variant'], sort=False):
    step = group.groupby('seed')['environment_steps'].max().min()
    at = group[group['environment_steps'] == step]
    best = group[group['environment_steps'] <= step].groupby('seed')['eval_return'].max()
    cells = {name: at[name].to_numpy() for name in ('eval_return', 'train_return', *_METRICS[1:])}
    rows.append(
      {'game': game, 'agent': variant, 'seeds': len(at), 'steps': f'{step:,.0f}'}
      | {'best return': tables.mean_and_spread(best.to_numpy())}
      | {name: tables.mean_and_spread(values) for name, values in cells.items()}
    )
  return pd.DataFrame(rows)


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows to CSV, unless no run is there; draws them and prints the table."""
  results.mkdir(parents=True, exist_ok=True)
  path = results / 'runs.csv'
  collected = collect(output)
  if collected is not None:
    style.write_csv(collected, path)
  table = runs.load([path])
  more = table['game'].isin(GAMES[:2]) & table['variant'].str.startswith('DQN')
  parts = {
    'dqn': table['variant'] == 'DQN, n = 0.25',
    'rainbow': table['game'].isin(GAMES[:3]) & table['variant'].str.endswith('n = 0.25'),
    'updates_per_step': more,
  }
  titles = {
    'dqn': 'Online DQN on MinAtar, n = 0.25',
    'rainbow': 'Online Rainbow and DQN on MinAtar, n = 0.25',
    'updates_per_step': 'Online DQN with n updates per environment step',
  }
  for name, chosen in parts.items():
    if table[chosen]['variant'].nunique() > (name != 'dqn'):  # A comparison needs two.
      figure, numbers = curves.figure(
        table[chosen], _METRICS, x='environment_steps', title=titles[name]
      )
      style.save(figure, results / f'{name}.png', numbers)
  print(tables.markdown(last_rows(table)))


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or both."""
  unknown = set(argv[1:]) - {'run', 'report'}
  if unknown:
    raise SystemExit(f'minatar_online: no step {", ".join(unknown)}; there are run and report.')
  output, chosen = run_flags.folder(FLAGS.output), argv[1:] or ('run', 'report')
  if 'run' in chosen:
    try:
      parallel_runs.run_all(
        run_flags.chosen([job(run, output) for run in RUNS if run.game in FLAGS.games]),
        processes=FLAGS.processes,
        compilation_cache=output / 'compiled',
      )
    except (OSError, ValueError) as error:
      raise SystemExit(f'minatar_online: {error}') from error
  if 'report' in chosen:
    report(output, pathlib.Path(FLAGS.results or output / 'report'))


if __name__ == '__main__':
  run_flags.define('minatar_online')
  flags.DEFINE_list('games', list(GAMES), 'Only these games.')
  app.run(main)

"""Offline agents on MinAtar replays: where rank falls, and what the penalty does there.

    python experiments/minatar_offline.py    (these four steps; goes on where it stopped)
    python experiments/minatar_offline.py report --results=docs/results/minatar_offline

The steps, in order: `replays` trains an online DQN on each game and writes its whole replay;
`search` varies one setting at a time for plain DQN; `grid` runs every agent with and without the
penalty in the one setting chosen from the search; `report` collects the finished runs' rows, or
takes those that are kept in --results where there is no run, and draws them. `centred`, only if
named, runs DQN, FQE and Monte Carlo on 5% alone and writes their ranks of centred features too.
Run it from the repository's root. Each run is what `run_experiment.py` does with the shipped gin
files.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import minatar_offline_report as minatar_report
import run_flags
from absl import app, flags

from implicit_rl.analysis import style
from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

GAMES = ('Breakout', 'Asterix', 'SpaceInvaders')
ITERATION = 5_000  # gradient updates between two measurements
EVALUATION = 2_000  # environment steps at the least; 32 episodes or a multiple


class Run(NamedTuple):
  """One run, as plain data. The defaults are the grid's setting, chosen from the search."""

  game: str
  agent: str = 'dqn'
  penalty: bool = False
  seed: int = 0
  fraction: float = 0.05  # of the replay's steps
  learning_rate: float = 1e-3
  width: int = 128  # hidden units, the columns of Φ
  target_period: int = 1_000  # gradient updates
  updates: int = 50_000

  @property
  def name(self) -> str:
    """The run's directory."""
    setting = (
      f'fraction_{self.fraction:g}-rate_{self.learning_rate:g}-width_{self.width}'
      f'-target_{self.target_period}-updates_{self.updates}'
    )
    agent = f'{self.agent}_lp' if self.penalty else self.agent
    return f'{setting}/{self.game}/{agent}/seed_{self.seed}'


# One seed that the grid does not use, no penalty: the setting is fixed before any comparison. Each
# line departs in what it names from 5% of the replay, rate 1e-3, width 128, target period 1,000.
_SEARCH_SEED = 100
_SEARCH_START = Run('Breakout', seed=_SEARCH_SEED, fraction=0.05, learning_rate=1e-3)
_VARIED: tuple[tuple[str, dict[str, Any]], ...] = (
  ('Breakout', {'updates': 200_000}),  # Longer; its beginning is the start of the search.
  ('Breakout', {'learning_rate': 3e-3}),
  ('Breakout', {'fraction': 0.01}),
  ('Asterix', {}),
  ('Asterix', {'learning_rate': 3e-3}),
  ('Asterix', {'fraction': 0.01}),
  ('Breakout', {'learning_rate': 2.5e-4}),
  ('Breakout', {'width': 256}),
  ('Breakout', {'learning_rate': 1e-2}),
  ('Breakout', {'learning_rate': 3e-3, 'fraction': 0.01}),
  ('Breakout', {'target_period': 100}),
)
SEARCH = tuple(_SEARCH_START._replace(game=game, **varied) for game, varied in _VARIED)

# In blocks, so that what is there after an early stop is whole.
_BLOCKS = (
  (0.05, ('dqn',)),
  (0.05, ('cql',)),
  (0.05, ('fqe', 'monte_carlo')),
  (0.05, ('rainbow',)),
  (0.2, ('dqn', 'cql')),
)
GRID = tuple(
  Run(game, agent, penalty, seed, fraction)
  for fraction, agents in _BLOCKS
  for seed in range(3)
  for game in GAMES
  for agent in agents
  for penalty in (False, True)
)

# Bootstrapping or not: the runs of the grid whose ranks are kept by every measure.
CENTRED = tuple(
  run
  for seed in range(3)
  for run in GRID
  if run.seed == seed and run.agent in ('dqn', 'fqe', 'monte_carlo')
  if run.fraction == 0.05 and not run.penalty
)


def job(run: Run, output: pathlib.Path, more_bindings: Sequence[str] = ()) -> parallel_runs.Job:
  """What to run for `run`, below `output`; `more_bindings` win."""
  gin_files = [f'gin_configs/minatar/offline_{run.agent}.gin']
  gin_files += ['gin_configs/penalties/lp.gin'] * run.penalty
  iterations = run.updates // ITERATION
  bindings = (
    f'GAME = {run.game!r}',
    f'TFDSReplay.data_dir = {str(output / "replays")!r}',
    f'TFDSReplay.cache_dir = {str(output / "replays" / "cache")!r}',
    f'TFDSReplay.fraction = {run.fraction}',
    f'optax.adam.learning_rate = {run.learning_rate}',
    f'MinAtarCNN.hidden_units = {run.width}',
    f'Learner.target_update_period = {run.target_period}',
    f'OfflineRunner.num_iterations = {iterations}',
    f'OfflineRunner.training_steps = {ITERATION}',
    f'OfflineRunner.evaluation_steps = {EVALUATION}',
    'OfflineRunner.keep_checkpoints = 1',
    *more_bindings,
  )
  return parallel_runs.Job(
    output / 'runs' / run.name, tuple(gin_files), bindings, run.seed, iterations
  )


def make_replays(output: pathlib.Path) -> None:
  """Trains an online DQN on each game and writes its whole replay, unless it is there."""
  script = str(pathlib.Path(__file__).parent / 'embedded_minatar.py')
  folder = output / 'replays'
  folder.mkdir(parents=True, exist_ok=True)
  for game in FLAGS.games:
    replay = folder / f'{game}.npz'
    common = [f'--game={game}', f'--replay={replay}']
    if not replay.exists():
      train = [*common, *['--steps=8000'] * FLAGS.quick]
      subprocess.run([sys.executable, script, 'train', *train], check=True)
    if not (folder / 'minatar_checkpoints_ordered' / f'{game}_run_1').exists():
      write = [*common, '--fraction=1', f'--output={folder}']
      subprocess.run([sys.executable, script, 'write', *write], check=True)


def keep_ranks(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the ranks of the finished runs of `CENTRED`, raw and centred, to CSV."""
  pairs = ((run._asdict(), job(run, output)) for run in CENTRED)
  rows = minatar_report.collect(pairs, minatar_report.RANKS)
  results.mkdir(parents=True, exist_ok=True)
  style.write_csv(rows, results / 'centred.csv')


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows of the finished runs to CSV, unless none is there; draws and prints them."""
  for name, plan in (('search', SEARCH), ('grid', GRID)):
    rows = minatar_report.collect((run._asdict(), job(run, output)) for run in plan)
    if len(rows):
      results.mkdir(parents=True, exist_ok=True)
      style.write_csv(rows, results / f'{name}.csv')
  found = minatar_report.load(results)
  for path in minatar_report.draw(*found[:2], results):
    print(path)
  print('\n\n'.join(minatar_report.all_tables(*found)))


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or all."""
  steps = ('replays', 'search', 'grid', 'report')
  unknown = set(argv[1:]) - {*steps, 'centred'}
  if unknown:
    raise SystemExit(
      f'minatar_offline: no step {", ".join(unknown)}; there are {", ".join((*steps, "centred"))}'
    )
  output, chosen = run_flags.folder(FLAGS.output), argv[1:] or steps
  if 'replays' in chosen:
    make_replays(output)
  plan = [*SEARCH * ('search' in chosen), *GRID * ('grid' in chosen)]
  plan += CENTRED * ('centred' in chosen)
  plan = [run for run in plan if run.game in FLAGS.games]
  if plan:
    try:
      parallel_runs.run_all(
        run_flags.chosen([job(run, output) for run in plan]),
        processes=FLAGS.processes,
        compilation_cache=output / 'compiled',
      )
    except (OSError, ValueError) as error:
      raise SystemExit(f'minatar_offline: {error}') from error
  results = pathlib.Path(FLAGS.results or output / 'report')
  if 'centred' in chosen:
    keep_ranks(output, results)
  if 'report' in chosen:
    report(output, results)


if __name__ == '__main__':
  run_flags.define('minatar_offline')
  flags.DEFINE_list('games', list(GAMES), 'Only these games.')
  app.run(main)

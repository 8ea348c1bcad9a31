"""Online SAC on MuJoCo: what it reaches, and srank with n = 1 and n = 4 updates per step.

    python experiments/mujoco_online.py    (runs, then draws; goes on where it stopped)
    python experiments/mujoco_online.py report --results=docs/results/mujoco_online

`run` does what is left of the runs, `report` collects the rows of those that have begun, or takes
what is kept in --results where there is no run, and draws them. Run it from the repository's root.
Each run is what `run_experiment.py` does with the shipped gin files; those with n = 1 keep their
whole replay as a dataset, which `mujoco_offline.py` learns from. Curves of a peer's SAC that
`mujoco_peer.py` has left in the same output are drawn beside ours.

The budget is one core for half an hour a run: 100,000 environment steps with one update each, or
30,000 with four (an hour), where the paper's figures show a million. The long runs in Hopper, of
300,000 steps (half an hour on a faster core), lie in `long` below the output; a peer's belong there
too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd
import run_flags
from absl import app, flags

from implicit_rl.analysis import curves, runs, style, tables
from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

ITERATION = 5_000  # environment steps between two measurements
EVALUATION = 5_000  # environment steps at the least; ten episodes or a multiple


class Run(NamedTuple):
  """One run, as plain data."""

  task: str
  updates_per_step: int = 1  # n
  seed: int = 0
  steps: int = 100_000  # environment steps

  @property
  def variant(self) -> str:
    """What it is called in figures and tables."""
    return f'SAC, n = {self.updates_per_step}'

  @property
  def directory(self) -> str:
    """Where it lies, below the output."""
    return f'sac-n_{self.updates_per_step}/{self.task}/seed_{self.seed}'


# In blocks, so that what is there after an early stop is whole. Runs that compare n are shorter:
# four updates per step cost four times as much.
LEARNS = (Run('Hopper'), Run('HalfCheetah'))
RUNS = (
  *LEARNS,
  *(Run(task, n, 0, 30_000) for task in ('Ant', 'Hopper') for n in (1, 4)[task == 'Hopper' :]),
  *(Run(task, n, seed, 30_000) for seed in (1, 2) for task in ('Ant', 'Hopper') for n in (1, 4)),
)
# What SAC reaches with time, in the task whose returns swing most.
LONG = tuple(Run('Hopper', seed=seed, steps=300_000) for seed in range(2))


def job(run: Run, output: pathlib.Path, more_bindings: Sequence[str] = ()) -> parallel_runs.Job:
  """What to run for `run`, below `output`; `more_bindings` win."""
  iterations = run.steps // ITERATION
  bindings = (
    f'GAME = {run.task!r}',
    f'OnlineRunner.updates_per_step = {run.updates_per_step}',
    f'OnlineRunner.num_iterations = {iterations}',
    f'OnlineRunner.training_steps = {ITERATION}',
    f'OnlineRunner.evaluation_steps = {EVALUATION}',
    f'OnlineRunner.log_replay = {run in RUNS and run.updates_per_step == 1}',
    'OnlineRunner.keep_checkpoints = 1',
    f'OnlineReplay.capacity = {2 * run.steps}',  # Nothing is forgotten, as with a million.
    *more_bindings,
  )
  return parallel_runs.Job(
    output / run.directory, ('gin_configs/mujoco/online_sac.gin',), bindings, run.seed, iterations
  )


def replay(run: Run, output: pathlib.Path) -> pathlib.Path:
  """The folder of the dataset that the finished run has left."""
  return output / run.directory / 'replay' / 'mujoco' / f'{run.task}_run_1'


# Columns of the committed tables, where there are; spectra and the rest stay with the runs.
_KEPT = (
  'variant game seed iteration environment_steps updates eval_return eval_return_std train_return '
  'srank srank_1 srank_2 sigma_max sigma_min td_error q_mean dead_units steps_per_second '
  'updates_per_second'
).split()
_METRICS = ('eval_return', 'srank', 'td_error')


def collect(planned: Iterable[tuple[str, parallel_runs.Job]], path: pathlib.Path) -> pd.DataFrame:
  """The rows of all runs that have finished an iteration, with the commit that ran.

  Args:
    planned: variants and their runs.
    path: CSV that the rows are written to, or read from if no run has begun.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  parts = []
  for variant, planned_job in planned:
    if planned_job.done:
      loaded = runs.read(planned_job.base_dir)
      rows = runs.frame({variant: [loaded]})
      rows = rows[[name for name in _KEPT if name in rows]]
      parts.append(rows.assign(revision=loaded.commit))
  if parts:
    style.write_csv(pd.concat(parts, ignore_index=True), path)
  return runs.load([path])


def peer_rows(output: pathlib.Path, path: pathlib.Path) -> pd.DataFrame | None:
  """The rows of `mujoco_peer.py`, kept at `path` too, or read there where it has not run."""
  found = sorted(output.glob('peers/*/*/seed_*/curve.csv'))
  if found:
    style.write_csv(runs.load(found), path)
  return runs.load([path]) if path.exists() else None


def last_rows(table: pd.DataFrame) -> pd.DataFrame:
  """A row per task and variant at the iteration that all its seeds reached: mean ± deviation."""
  rows = []
  for (game, variant), group in table.groupby(['game', 'variant'], sort=False):
    last = group.groupby('seed')['iteration'].max().min()
    until = group[group['iteration'] <= last]
    at, first = (until[until['iteration'] == i] for i in (last, until['iteration'].min()))
    best = until.groupby('seed')['eval_return'].max()
    cells = {'best return': best, 'last return': at['eval_return'], 'first srank': first['srank']}
    cells |= {name: at[name] for name in ('srank', 'td_error', 'q_mean')}
    rows.append(
      {'task': game, 'agent': variant, 'seeds': len(at), 'updates': f'{at["updates"].mean():,.0f}'}
      | {
        name: '' if values.isna().all() else tables.mean_and_spread(values.to_numpy())
        for name, values in cells.items()
      }
    )
  return pd.DataFrame(rows)


def rows_of(table: pd.DataFrame, planned: Iterable[Run], steps: int) -> pd.DataFrame:
  """The rows of these runs, up to about `steps` environment steps."""
  wanted = {(run.task, run.variant, run.seed) for run in planned}
  names = zip(table['game'], table['variant'], table['seed'], strict=True)
  chosen = pd.Series([name in wanted for name in names], index=table.index)
  return table[chosen & (table['iteration'] < steps // ITERATION)]


def parts(
  table: pd.DataFrame, peers: pd.DataFrame | None, long: Sequence[pd.DataFrame | None] = ()
) -> dict[str, tuple[str, pd.DataFrame]]:
  """What is drawn and tabled, by the figure's name: its title and its rows, if there are any."""
  learns = rows_of(table, LEARNS, LEARNS[0].steps)
  if peers is not None:
    learns = pd.concat([learns, peers], ignore_index=True)
  compares = [run for run in RUNS if run.task in {r.task for r in RUNS if r.updates_per_step > 1}]
  compared = rows_of(table, compares, min(run.steps for run in compares))
  there = [rows for rows in long if rows is not None]
  long_rows = pd.concat(there, ignore_index=True) if there else table[:0]
  found = {
    'returns': ('Online SAC', learns),
    'long': ('Online SAC for 300,000 environment steps', long_rows),
    'updates_per_step': ('Online SAC with n updates per step', compared),
  }
  return {name: part for name, part in found.items() if len(part[1])}


def rows_with_peers(
  planned: Iterable[Run], output: pathlib.Path, results: pathlib.Path, prefix: str = ''
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
  """The rows of runs below `output`, and of peers' there, kept in `results`."""
  jobs = [(run.variant, job(run, output)) for run in planned]
  rows = collect(jobs, results / f'{prefix}runs.csv')
  return rows, peer_rows(output, results / f'{prefix}peers.csv')


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows to CSV, unless no run is there; draws them and prints the tables."""
  table, peers = rows_with_peers(RUNS, output, results)
  begun = (results / 'long_runs.csv').exists() or any(
    job(run, output / 'long').done for run in LONG
  )
  long = rows_with_peers(LONG, output / 'long', results, 'long_') if begun else ()
  for name, (title, rows) in parts(table, peers, long).items():
    # Each iteration ends with an episode, so that seeds do not share their numbers of steps.
    title += f', iterations of {ITERATION:,} environment steps'
    figure, numbers = curves.figure(rows, _METRICS, x='iteration', title=title)
    style.save(figure, results / f'{name}.png', numbers)
    print(f'{title}:\n\n{tables.markdown(last_rows(rows))}\n')


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or both."""
  unknown = set(argv[1:]) - {'run', 'report'}
  if unknown:
    raise SystemExit(f'mujoco_online: no step {", ".join(unknown)}; there are run and report.')
  output, chosen = run_flags.folder(FLAGS.output), argv[1:] or ('run', 'report')
  if 'run' in chosen:
    planned = [(run, output) for run in RUNS] + [(run, output / 'long') for run in LONG]
    try:
      parallel_runs.run_all(
        run_flags.chosen(
          [job(run, at) for run, at in planned if not FLAGS.tasks or run.task in FLAGS.tasks]
        ),
        processes=FLAGS.processes,
        compilation_cache=output / 'compiled',
      )
    except (OSError, ValueError) as error:
      raise SystemExit(f'mujoco_online: {error}') from error
  if 'report' in chosen:
    report(output, pathlib.Path(FLAGS.results or output / 'report'))


if __name__ == '__main__':
  run_flags.define('mujoco_online')
  flags.DEFINE_list('tasks', [], 'Only these tasks; by default all.')
  app.run(main)

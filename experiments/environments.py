"""DQN from the shipped gin files, online and then offline on its log, each played for 100 episodes.

    python experiments/environments.py --output=runs/environments
    python experiments/environments.py report --results=docs/results/environments

The first runs what is not there yet: it resumes where it was stopped. `report` plays the episodes
and writes the rows, or takes those kept in --results where there is no run, and prints the table.
Run it from the repository's root.

Fixed before the runs: the last parameters count, not the best; CartPole must reach a mean return of
475 over 100 episodes and Catch 1, in each of the seeds. The settings in gin_configs were chosen
on other seeds, 10 and above.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import run_flags
from absl import app, flags

from implicit_rl.analysis import runs, tables
from implicit_rl.logs import jsonl
from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

SEEDS = (0, 1, 2)
EPISODES = 100
FILES = {'CartPole': 'gymnasium/cartpole_', 'Catch': 'gymnax/catch_'}
LEAST = {'CartPole': 475.0, 'Catch': 1.0}  # mean return


class Run(NamedTuple):
  """One run, as plain data."""

  task: str
  phase: str  # 'online', or 'offline' on its log
  seed: int

  @property
  def gin_file(self) -> str:
    """The shipped file, alone."""
    return f'gin_configs/{FILES[self.task]}{self.phase}_dqn.gin'

  def directory(self, output: pathlib.Path) -> pathlib.Path:
    """Where it lies."""
    return output / self.task / self.phase / f'seed_{self.seed}'


RUNS = tuple(
  Run(task, phase, seed)
  for task in ('Catch', 'CartPole')
  for phase in ('online', 'offline')
  for seed in SEEDS
)


def job(run: Run, output: pathlib.Path, more_bindings: Sequence[str] = ()) -> parallel_runs.Job:
  """What to run for `run`, below `output`; an offline run needs the log of the online one."""
  import gin

  from implicit_rl.running import experiment  # TensorFlow, which a report needs not.

  bindings = [f'{run.phase.title()}Runner.keep_checkpoints = 1']
  if run.phase == 'offline':
    replay = run._replace(phase='online').directory(output) / 'replay'
    (log,) = replay.glob('*/*_run_1')
    bindings.append(f'VectorReplay.path = {str(log.absolute())!r}')
  bindings += more_bindings
  experiment.parse_gin([run.gin_file], bindings)
  count = gin.query_parameter(f'{run.phase.title()}Runner.num_iterations')
  return parallel_runs.Job(run.directory(output), (run.gin_file,), tuple(bindings), run.seed, count)


def row(run: Run, output: pathlib.Path) -> dict:
  """What a finished run came to, its last parameters played for `EPISODES` episodes."""
  from implicit_rl.reuse import evaluating
  from implicit_rl.running import loading

  base_dir = run.directory(output)
  last = jsonl.read(base_dir / 'metrics.jsonl')[-1]
  # Seeds of their own: these episodes are none of training's evaluations.
  played = evaluating.evaluate(loading.load_run(base_dir), EPISODES, seed=run.seed + 1000)
  summary = played.summary()
  return {
    **run._asdict(),
    'gin_file': run.gin_file,
    'updates': last['updates'],
    'environment_steps': last.get('environment_steps'),
    'episodes': summary['episodes'],
    'return_mean': summary['return_mean'],
    'return_min': summary['return_min'],
    'return_max': summary['return_max'],
    'srank': last['srank'],
    'least': LEAST[run.task],
    'reached': summary['return_mean'] >= LEAST[run.task],
    'commit': runs.read(base_dir).commit,
  }


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows to CSV, unless no run is there; prints the table."""
  path = results / 'runs.csv'
  there = [run for run in RUNS if (run.directory(output) / 'checkpoints').is_dir()]
  if there:
    results.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row(run, output) for run in there]).to_csv(path, index=False)
  print(table(pd.read_csv(path)))


def table(rows: pd.DataFrame) -> str:
  """One line for each task and phase, in Markdown."""
  lines = []
  for (task, phase), group in rows.groupby(['task', 'phase'], sort=False):
    lines.append(
      {
        'task': task,
        'phase': phase,
        'seeds': len(group),
        'mean return of 100 episodes, seed by seed': ', '.join(
          f'{value:g}' for value in group['return_mean'].round(2)
        ),
        'criterion': f'≥ {group["least"].iloc[0]:g}',
        'reached': f'{int(group["reached"].sum())} of {len(group)}',
        'srank': ', '.join(f'{value:g}' for value in group['srank']),
      }
    )
  return tables.markdown(pd.DataFrame(lines))


def main(argv: Sequence[str]) -> None:
  """Runs what is left, and reports."""
  output = run_flags.folder(FLAGS.output)
  if argv[1:] not in ([], ['report']):
    raise SystemExit(f'environments: unknown step {" ".join(argv[1:])}; there is report')
  seeds = SEEDS[:1] if FLAGS.quick else SEEDS
  planned = [run for run in RUNS if run.seed in seeds and run.task in (FLAGS.tasks or FILES)]
  try:
    for phase in ('online', 'offline') if not argv[1:] else ():
      jobs = [job(run, output) for run in planned if run.phase == phase]
      parallel_runs.run_all(run_flags.chosen(jobs), processes=FLAGS.processes)
  except (OSError, ValueError) as error:
    raise SystemExit(f'environments: {error}') from error
  report(output, pathlib.Path(FLAGS.results or output / 'report'))


if __name__ == '__main__':
  run_flags.define('environments', processes=1)
  flags.DEFINE_list('tasks', [], 'Only these tasks; by default all.')
  app.run(main)

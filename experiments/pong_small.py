"""Pong on a CPU, from acting to offline training: DQN and Rainbow, a log, four offline agents.

    python experiments/pong_small.py    (runs, then draws; goes on where it stopped)
    python experiments/pong_small.py report --results=docs/results/pong_small

The steps: `online` trains DQN and Rainbow with the shipped gin files on a small network and logs
DQN's whole replay as a dataset; `offline` trains DQN, Rainbow, CQL and FQE on that dataset;
`report` collects the finished runs' rows, or takes those kept in --results where there is no run,
and draws them. Run it from the repository's root. Each run is what `run_experiment.py` does. The
scale shows that the parts fit, not what the agents are worth: Pong is learnt in millions of steps.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import run_flags
from absl import app, flags

from implicit_rl.analysis import curves, runs, style, tables
from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

NAMES = {'dqn': 'DQN', 'rainbow': 'Rainbow', 'cql': 'CQL', 'fqe': 'FQE'}
ITERATIONS = 5  # of every run


class Scale(NamedTuple):
  """How much is done; as flags, what the command line takes."""

  steps: int = 50_000  # environment steps of an online run
  updates: int = 10_000  # gradient updates of an offline run
  evaluation_steps: int = 1  # environment steps of an evaluation at the least; whole games


class Run(NamedTuple):
  """One run, as plain data."""

  kind: str  # 'online' or 'offline'
  agent: str
  seed: int = 0

  @property
  def variant(self) -> str:
    """What it is called in figures and tables."""
    return f'{self.kind} {NAMES[self.agent]}'

  @property
  def name(self) -> str:
    """The run's directory."""
    return f'{self.kind}_{self.agent}/seed_{self.seed}'


LOGGED = Run('online', 'dqn')
ONLINE = (LOGGED, Run('online', 'rainbow'))
OFFLINE = tuple(Run('offline', agent) for agent in NAMES)
RUNS = (*ONLINE, *OFFLINE)
# What a run of this length needs other than the published settings, which are for 50M steps.
_SHORT = (
  'optax.adam.learning_rate = 0.00025',
  'optax.adam.eps = 0.00015',
  'Learner.target_update_period = 500',
)


def job(run: Run, folder: pathlib.Path, scale: Scale) -> parallel_runs.Job:
  """What to run for `run`, below `folder`."""
  steps, updates = scale.steps, scale.updates
  runner = f'{run.kind.capitalize()}Runner'
  if run.kind == 'online':
    length = steps // ITERATIONS
    own: tuple[str, ...] = (
      f'OnlineRunner.log_replay = {run == LOGGED}',
      f'OnlineReplay.capacity = {steps + 30_000}',  # The last game may be 27,000 steps long.
      f'Agent.min_replay_history = {steps // 8}',
      f'Agent.epsilon_decay_period = {steps // 2}',
      'Agent.epsilon_train = 0.02',
    )
  else:
    length = updates // ITERATIONS
    own = (
      f'TFDSReplay.data_dir = {str(folder / LOGGED.name / "replay")!r}',
      f'TFDSReplay.cache_dir = {str(folder / "cache")!r}',
      'TFDSReplay.fraction = 1.0',
    )
  bindings = (
    *_SHORT,
    *own,
    f'{runner}.num_iterations = {ITERATIONS}',
    f'{runner}.training_steps = {length}',
    f'{runner}.evaluation_steps = {scale.evaluation_steps}',
    f'{runner}.keep_checkpoints = 1',
  )
  gin_files = (f'gin_configs/atari/{run.kind}_{run.agent}.gin', 'gin_configs/networks/small.gin')
  return parallel_runs.Job(folder / run.name, gin_files, bindings, run.seed, ITERATIONS)


# Columns of the committed table; spectra and the rest stay with the runs.
_KEPT = (
  'variant game seed iteration environment_steps updates eval_return train_return srank sigma_max '
  'sigma_min td_error q_mean dead_units Q/Policy'
).split()


def report(jobs: Mapping[Run, parallel_runs.Job], results: pathlib.Path) -> None:
  """Writes the rows of the runs to CSV, unless there are none; draws them and prints the table."""
  results.mkdir(parents=True, exist_ok=True)
  path = results / 'runs.csv'
  begun = {run.variant: [job.base_dir] for run, job in jobs.items() if job.done}
  if begun:
    style.write_csv(runs.load(begun).reindex(columns=_KEPT), path)
  table = runs.load([path])
  for kind, x in (('online', 'environment_steps'), ('offline', 'updates')):
    chosen = table[table['variant'].str.startswith(kind)]
    if len(chosen):
      figure, numbers = curves.figure(
        chosen, ('eval_return', 'srank', 'td_error'), x=x, title=f'Pong on a CPU, {kind}'
      )
      style.save(figure, results / f'{kind}.png', numbers)
  print(tables.markdown(tables.summary(table)))


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or all."""
  steps = {'online': ONLINE, 'offline': OFFLINE}
  unknown = set(argv[1:]) - {*steps, 'report'}
  if unknown:
    raise SystemExit(
      f'pong_small: no step {", ".join(unknown)}; steps are online, offline, report.'
    )
  folder, chosen = run_flags.folder(FLAGS.output), argv[1:] or [*steps, 'report']
  scale = Scale(FLAGS.steps, FLAGS.updates, FLAGS.evaluation_steps)
  jobs = {run: job(run, folder, scale) for run in RUNS}
  for step, todo in steps.items():
    if step in chosen:
      try:
        parallel_runs.run_all(
          run_flags.chosen([jobs[run] for run in todo]),
          processes=FLAGS.processes,
          compilation_cache=folder / 'compiled',
        )
      except (OSError, ValueError) as error:
        raise SystemExit(f'pong_small: {error}') from error
  if 'report' in chosen:
    report(jobs, pathlib.Path(FLAGS.results or folder / 'report'))


if __name__ == '__main__':
  run_flags.define('pong_small')
  default = Scale()
  flags.DEFINE_integer('steps', default.steps, 'Environment steps of an online run.')
  flags.DEFINE_integer('updates', default.updates, 'Gradient updates of an offline run.')
  flags.DEFINE_integer(
    'evaluation_steps',
    default.evaluation_steps,
    'Environment steps of an evaluation at the least; games are played to their end.',
  )
  app.run(main)

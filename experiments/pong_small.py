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

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from implicit_rl import local_runs, metrics_log
from implicit_rl.theory import output

FLAGS = flags.FLAGS

NAMES = {'dqn': 'DQN', 'rainbow': 'Rainbow', 'cql': 'CQL', 'fqe': 'FQE'}
ITERATIONS = 5  # of every run
MEASURED = (
  'updates environment_steps srank eval_return eval_episodes train_return td_error q_mean '
  'sigma_max sigma_min dead_units Q/Policy'
).split()


class Run(NamedTuple):
  """One run, as plain data."""

  kind: str  # 'online' or 'offline'
  agent: str
  seed: int = 0

  @property
  def name(self) -> str:
    """The run's directory."""
    return f'{self.kind}_{self.agent}/seed_{self.seed}'


LOGGED = Run('online', 'dqn')
ONLINE = (LOGGED, Run('online', 'rainbow'))
OFFLINE = tuple(Run('offline', agent) for agent in NAMES)
# What a run of this length needs other than the published settings, which are for 50M steps.
_SHORT = (
  'optax.adam.learning_rate = 0.00025',
  'optax.adam.eps = 0.00015',
  'Learner.target_update_period = 500',
)


def job(run: Run, folder: pathlib.Path) -> local_runs.Job:
  """What to run for `run`, below `folder`."""
  steps, updates = FLAGS.steps, FLAGS.updates
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
    f'{runner}.evaluation_steps = {FLAGS.evaluation_steps}',
    f'{runner}.keep_checkpoints = 1',
  )
  gin_files = (f'gin_configs/atari/{run.kind}_{run.agent}.gin', 'gin_configs/networks/small.gin')
  return local_runs.Job(folder / run.name, gin_files, bindings, run.seed, ITERATIONS)


def rows_of(run: Run, done: local_runs.Job) -> list[dict[str, Any]]:
  """The rows of a run: what it is, what it measured, the commit; [] unless it is finished."""
  if done.done < done.iterations:
    return []
  start = json.loads((done.base_dir / 'run.json').read_text())['starts'][0]
  return [
    {
      **run._asdict(),
      **{name: '' if row.get(name) is None else row[name] for name in MEASURED},
      'revision': str(start['git_revision'])[:7],
    }
    for row in metrics_log.read(done.base_dir / 'metrics.jsonl')
  ]


def read(path: pathlib.Path) -> dict[Run, list[dict[str, float]]]:
  """The measured rows of each run in a CSV file; what is empty becomes NaN."""
  found: dict[Run, list[dict[str, float]]] = {}
  with path.open(newline='') as file:
    for row in csv.DictReader(file):
      run = Run(row['kind'], row['agent'], int(row['seed']))
      measured = {name: float(row[name] or 'nan') for name in MEASURED}
      found.setdefault(run, []).append(measured)
  return found


def draw(runs: dict[Run, list[dict[str, float]]], path: pathlib.Path) -> None:
  """Return and srank of the online runs on the left, of the offline runs on the right."""
  title = 'Pong on a CPU, small network, one seed'
  with output.figure(path, 2, title, rows=2, height=3.8) as axes:
    for column, (kind, unit, key) in enumerate(
      (
        ('online', 'environment steps', 'environment_steps'),
        ('offline', 'gradient updates', 'updates'),
      )
    ):
      for metric, axis in (('eval_return', axes[column]), ('srank', axes[column + 2])):
        for k, agent in enumerate(NAMES):
          for run, rows in runs.items():
            if (run.kind, run.agent) == (kind, agent):
              x, y = np.array([(row[key], row[metric]) for row in rows]).T
              style = ('-', '--', '-.', ':')[k]
              axis.plot(x / 1000, y, style, marker='o', color=output.CYCLE[k], label=NAMES[agent])
        axis.set_xlabel(f'{unit} (thousands)')
        axis.set_xlim(left=0)
      axes[column].set_title(kind)
      axes[column].legend()
    axes[0].set_ylabel('return of an episode')
    axes[2].set_ylabel('srank')


def table(runs: dict[Run, list[dict[str, float]]]) -> str:
  """A Markdown table: a line a run."""
  lines = [
    '| run | updates | return first | return best | return last | srank first | srank last | '
    'TD error last | mean Q last |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for run, rows in runs.items():
    returns, sranks = ([row[name] for row in rows] for name in ('eval_return', 'srank'))
    last = rows[-1]
    lines.append(
      f'| {run.kind} {NAMES[run.agent]} | {last["updates"]:,.0f} | {returns[0]:.1f} | '
      f'{max(returns):.1f} | {returns[-1]:.1f} | {sranks[0]:.0f} | {sranks[-1]:.0f} | '
      f'{last["td_error"]:.3g} | {last["q_mean"]:.3g} |'
    )
  return '\n'.join(lines)


def report(folder: pathlib.Path, results: pathlib.Path) -> None:
  """Writes the rows of the finished runs to CSV, unless none is there; draws and prints them."""
  results.mkdir(parents=True, exist_ok=True)
  rows = [row for run in (*ONLINE, *OFFLINE) for row in rows_of(run, job(run, folder))]
  if rows:
    output.write_csv(results / 'runs.csv', rows)
  runs = read(results / 'runs.csv')
  draw(runs, results / 'curves')
  print(table(runs))


def main(argv: Sequence[str]) -> None:
  """Does the steps that are named, or all."""
  steps = {'online': ONLINE, 'offline': OFFLINE}
  unknown = set(argv[1:]) - {*steps, 'report'}
  if unknown:
    raise SystemExit(
      f'pong_small: no step {", ".join(unknown)}; steps are online, offline, report.'
    )
  folder, chosen = pathlib.Path(FLAGS.output), argv[1:] or [*steps, 'report']
  for step, runs in steps.items():
    if step in chosen:
      try:
        local_runs.run_all(
          [job(run, folder) for run in runs],
          processes=FLAGS.processes,
          compilation_cache=folder / 'compiled',
        )
      except (OSError, ValueError) as error:
        raise SystemExit(f'pong_small: {error}') from error
  if 'report' in chosen:
    report(folder, pathlib.Path(FLAGS.results or folder / 'report'))


if __name__ == '__main__':
  flags.DEFINE_string('output', 'runs/pong_small', 'Directory for the runs and the log.')
  flags.DEFINE_string('results', None, 'Where report reads and writes; OUTPUT/report by default.')
  flags.DEFINE_integer('steps', 50_000, 'Environment steps of an online run.', lower_bound=1000)
  flags.DEFINE_integer('updates', 10_000, 'Gradient updates of an offline run.', lower_bound=10)
  flags.DEFINE_integer('evaluation_steps', 1, 'Environment steps at the least; whole games.')
  flags.DEFINE_integer('processes', None, 'Runs at once; by default one a core.', lower_bound=1)
  app.run(main)

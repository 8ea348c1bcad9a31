"""Flags that the experiments share, and `--quick`, which shows in minutes that one works."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

# Of each runner: what makes an iteration short. The number of iterations stays.
_BOTH = {'evaluation_steps': 1, 'max_steps_per_episode': 5, 'measure_size': 16}
_SHORT = {
  'OfflineRunner': {**_BOTH, 'training_steps': 2},  # gradient updates
  'OnlineRunner': {**_BOTH, 'training_steps': 32},  # environment steps
}
_AGENT = ('Agent.batch_size = 8',)
_ONLINE_AGENT = ('Agent.min_replay_history = 32',)  # environment steps; 8 games, 3-step returns


def define(name: str, processes: int | None = None) -> None:
  """Defines the flags of the experiment `name`."""
  flags.DEFINE_string('output', f'runs/{name}', 'Directory for the runs.')
  flags.DEFINE_string('results', None, 'Where report reads and writes; OUTPUT/report by default.')
  flags.DEFINE_integer(
    'processes', processes, 'Runs at once; by default one a core.', lower_bound=1
  )
  flags.DEFINE_bool(
    'quick',
    False,
    'Check that everything works: one seed of each setting, iterations of a few updates, in the '
    'folder `quick` of the output. The numbers mean nothing.',
  )


def folder(path: str) -> pathlib.Path:
  """Returns a directory of runs; with `--quick` another one, to mix no runs."""
  return pathlib.Path(path, 'quick') if FLAGS.quick else pathlib.Path(path)


def chosen(jobs: Sequence[parallel_runs.Job]) -> list[parallel_runs.Job]:
  """Returns the jobs; with `--quick` the first seed of each setting, shortened."""
  if not FLAGS.quick:
    return list(jobs)
  first = {(job.gin_files, job.bindings): job for job in reversed(jobs)}
  return [_short(job) for job in jobs if job in first.values()]


def _short(job: parallel_runs.Job) -> parallel_runs.Job:
  runner = next(name for name in _SHORT if any(name in line for line in job.bindings))
  more = [f'{runner}.{name} = {value}' for name, value in _SHORT[runner].items()]
  more += [*_AGENT, *_ONLINE_AGENT * (runner == 'OnlineRunner')]
  return job._replace(bindings=(*job.bindings, *more))

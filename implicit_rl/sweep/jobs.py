"""Turns planned runs into jobs: checks them with gin, finds their lengths, and does one of them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gin

from implicit_rl.compat import config_files, gin_names
from implicit_rl.logs import jsonl
from implicit_rl.running import parallel_runs, run_directory
from implicit_rl.sweep.spec import Planned, Spec


class Length(NamedTuple):
  """The length of a run.

  Attributes:
    iterations: number of rows of its metrics.jsonl; like the following, of all its seeds together.
    updates: gradient updates.
    evaluation_steps: minimum number of environment steps in its evaluations.
    steps: number of environment steps in its training; 0 offline.
  """

  iterations: int
  updates: int
  evaluation_steps: int
  steps: int


def make(
  spec: Spec, planned: Sequence[Planned], output: pathlib.Path, more_bindings: Sequence[str] = ()
) -> tuple[list[parallel_runs.Job], list[Length]]:
  """Returns the runs as jobs below `output`, each checked by gin, and their lengths.

  Args:
    spec: of the sweep.
    planned: its runs.
    output: directory of the sweep.
    more_bindings: override all others.

  Raises:
    ValueError: for invalid gin lines; the error names the file and the run.
  """
  made, lengths = [], []
  for run in planned:
    bindings = (*run.bindings, *more_bindings)
    try:
      length = _length(run.gin_files, bindings)
    except (OSError, ValueError) as error:
      raise ValueError(f'{spec.path}: {run.name}: {gin_names.one_line(error)}') from error
    finally:
      gin.clear_config()
    lengths.append(length)
    made.append(
      parallel_runs.Job(
        base_dir=output / run.name,
        gin_files=tuple(os.path.abspath(config_files.find(path)) for path in run.gin_files),
        bindings=bindings,
        seed=run.seed,
        iterations=length.iterations,
      )
    )
  return made, lengths


def _length(gin_files: Sequence[str], bindings: Sequence[str]) -> Length:
  from implicit_rl.running import experiment  # Takes seconds to load.

  experiment.parse_gin(gin_files, bindings)
  try:
    runner = gin_names.named(gin.query_parameter('Experiment.runner'))
  except ValueError:
    runner = experiment.OfflineRunner
  if runner.__name__ == 'FittedQRunner':
    from implicit_rl.gridworld.config import FittedQConfig

    config = FittedQConfig()
    rows = 1 + config.iterations // config.log_every
    return Length(rows, config.iterations * config.steps, 0, 0)
  names = ('num_iterations', 'training_steps', 'evaluation_steps')
  iterations, training, evaluation = (gin_names.bound(runner, name) for name in names)
  iterations *= gin_names.bound(runner, 'num_seeds', 1)
  steps = iterations * training
  per_step = gin_names.bound(runner, 'updates_per_step')
  if per_step is None:  # Offline.
    return Length(iterations, steps, iterations * evaluation, 0)
  return Length(iterations, int(steps * per_step), iterations * evaluation, steps)


# --- doing one ------------------------------------------------------------------------------------

STARTS, ENDS = 'starts.jsonl', 'ends.jsonl'
_PATIENCE = 60  # seconds


def starts(job: parallel_runs.Job) -> int:
  """Returns how often a run was started."""
  return len(_starts(job))


def restarts(job: parallel_runs.Job) -> int:
  """Returns how often a run was restarted automatically, after its worker, node or SLURM job died.

  A manual `--resume` does not count.
  """
  by_launch = [start.get('launch') for start in _starts(job)]
  return len(by_launch) - len(set(by_launch))


def _starts(job: parallel_runs.Job) -> list[dict[str, Any]]:
  log = job.base_dir / STARTS
  return jsonl.read(log) if log.exists() else []


def ends(job: parallel_runs.Job) -> list[dict[str, Any]]:
  """Returns the end of each start that was not killed: `cpu_seconds`, `error`, its class `kind`.

  The CPU time includes all threads and child processes. `error` and `kind` exist only after an
  error.
  """
  log = job.base_dir / ENDS
  return jsonl.read(log) if log.exists() else []


def new_launch() -> str:
  """Returns an id of one command's starts; SLURM repeats its command with the same id."""
  return os.environ.get('SLURM_JOB_ID') or uuid.uuid4().hex


def last_rows(job: parallel_runs.Job) -> list[dict[str, Any]]:
  """Returns the newest row of a run, or of each of its seeds; empty before the first row."""
  logs = [job.base_dir / 'metrics.jsonl', *job.base_dir.glob('seed_*/metrics.jsonl')]
  return [row for row in map(jsonl.last, logs) if row is not None]


def work(job: parallel_runs.Job, directory: str, launch: str) -> str | None:
  """Does or resumes one run, and those in `beside`, in this process, with their directories locked.

  Args:
    job: the run.
    directory: the working directory; modules in it can be imported.
    launch: see `new_launch`.

  Returns:
    None, or the run's error in one line; its run.log then has the details.
  """
  os.chdir(directory)
  if directory not in sys.path:
    sys.path.insert(0, directory)
  try:
    with contextlib.ExitStack() as held:
      for one in (job, *job.beside):
        held.enter_context(_alone_in(one.base_dir))
      if job.finished:
        return None
      start = {'host': socket.gethostname(), 'pid': os.getpid(), 'time': time.time()}
      start['launch'] = launch
      for one in (job, *job.beside):
        jsonl.append(one.base_dir / STARTS, start)
      with _end_recorded(job):
        parallel_runs.run(job)
  except Exception as error:
    with open(job.base_dir / 'run.log', 'a') as log:
      traceback.print_exc(file=log)
    kind = '' if isinstance(error, OSError | ValueError) else f'{type(error).__name__}: '
    return f'{kind}{gin_names.one_line(error)}'
  return None if job.finished else 'was stopped before its end'


@contextlib.contextmanager
def _end_recorded(job: parallel_runs.Job) -> Iterator[None]:
  """Adds a line to ENDS when the block ends, also by an exception, which it passes on.

  Runs that train in one process each get an equal share of its time.
  """
  from implicit_rl.running import experiment  # noqa: F401  Loading it is no cost of the run.

  before = sum(os.times()[:4])
  wrong: Exception | None = None
  try:
    yield
  except Exception as error:
    wrong = error
    raise
  finally:
    everyone = (job, *job.beside)
    seconds = (sum(os.times()[:4]) - before) / len(everyone)
    end: dict[str, Any] = {'cpu_seconds': seconds, 'time': time.time()}
    if wrong is not None:
      end |= {'kind': type(wrong).__name__, 'error': gin_names.one_line(wrong)}
    for one in everyone:
      jsonl.append(one.base_dir / ENDS, end)


@contextlib.contextmanager
def _alone_in(base_dir: pathlib.Path) -> Iterator[None]:
  """Locks the run's directory; waits for a process that outlives its machine's death."""
  for second in range(_PATIENCE):
    try:
      run_directory.acquire(base_dir)
      break
    except run_directory.InUseError:
      if second == _PATIENCE - 1:
        raise
      time.sleep(1)
  try:
    yield
  finally:
    run_directory.release(base_dir)

"""Many runs on this machine, one process a core; each is what `run_experiment.py` would run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from implicit_rl.cpu import xla_flags
from implicit_rl.data.store import frame_store
from implicit_rl.running import signals

_ROOT = pathlib.Path(__file__).parent.parent.parent
# One run per core does more than one run on all cores: these networks are small.
_ONE_THREAD = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'


class Job(NamedTuple):
  """One run.

  Attributes:
    base_dir: the run's directory.
    gin_files: relative to the repository's root.
    bindings: lines of gin, which win over the files.
    seed: of the run.
    iterations: what the bindings or files set; for progress, and to know that a run is finished.
  """

  base_dir: pathlib.Path
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  seed: int
  iterations: int

  @property
  def done(self) -> int:
    """Iterations that its log holds, or those of its seeds together."""
    logs = [self.base_dir / 'metrics.jsonl', *self.base_dir.glob('seed_*/metrics.jsonl')]
    return sum(log.read_bytes().count(b'\n') for log in logs if log.exists())

  @property
  def finished(self) -> bool:
    """Whether its log holds all of them."""
    return self.done >= self.iterations


def environment(
  compilation_cache: str | os.PathLike | None = None, *, one_thread: bool = True
) -> dict[str, str]:
  """What to set in a run's process before JAX loads, when several runs share a machine.

  Args:
    compilation_cache: directory where XLA's programs are kept for the next run; None keeps none.
    one_thread: whether the run computes on one core.
  """
  variables = xla_flags.wide_vectors()
  if one_thread:
    flags = variables.get('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
    variables['XLA_FLAGS'] = f'{flags} {_ONE_THREAD}'.strip()
  if 'XLA_PYTHON_CLIENT_PREALLOCATE' not in os.environ:
    variables['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # The runs share a GPU.
  if compilation_cache is not None:
    variables |= xla_flags.variables(compilation_cache)
  return variables


def start_jax() -> None:
  """Starts JAX in a run's process; where `environment` said so, with one thread to compute on.

  XLA's flags for that leave a pool with a thread for each core that the process may use as JAX
  starts, so for that moment it may use one. Where runs are as many as cores, two small networks
  trained a quarter faster for it.
  """
  if _ONE_THREAD not in os.environ.get('XLA_FLAGS', '') or not hasattr(os, 'sched_setaffinity'):
    return
  import jax

  cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(cores)})
  try:
    jax.devices()
  finally:
    for thread in os.listdir('/proc/self/task'):  # The new ones have inherited it.
      with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(int(thread), cores)


def run(job: Job) -> None:
  """Does or resumes one run in this process; what it prints goes to run.log in its directory."""
  if signals.requested():
    return
  import gin

  start_jax()
  from implicit_rl.running import experiment  # Not below: its log handler would keep that file.

  os.makedirs(job.base_dir, exist_ok=True)
  with log_of(job.base_dir):
    gin.clear_config()
    experiment.parse_gin([str(_ROOT / name) for name in job.gin_files], job.bindings)
    experiment.create_runner(str(job.base_dir), job.seed).run_experiment()


@contextlib.contextmanager
def log_of(base_dir: str | os.PathLike) -> Iterator[None]:
  """What is printed within goes to run.log in a directory that is there."""
  with (
    open(pathlib.Path(base_dir) / 'run.log', 'a') as log,
    contextlib.redirect_stdout(log),
    contextlib.redirect_stderr(log),
  ):
    yield


def stop_with_parent() -> None:
  """Sends this process SIGTERM when the one that started it ends, however it ends.

  Else runs would go on after `kill` of what shows their progress. Linux alone has it (prctl's
  PR_SET_PDEATHSIG, 1).
  """
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def run_all(
  jobs: Sequence[Job],
  *,
  processes: int | None = None,
  compilation_cache: str | os.PathLike | None = None,
) -> None:
  """Does the jobs in order, some at once, showing how many iterations are done.

  Args:
    jobs: what to run; those that are finished are left alone.
    processes: how many at once; None is one per core.
    compilation_cache: directory where XLA's programs are kept for the next run; None keeps none.

  Raises:
    OSError, ValueError: what a run raised; runs that have not started then never do.
  """
  left = [job for job in jobs if not job.finished]
  os.environ.update(environment(compilation_cache))
  with concurrent.futures.ProcessPoolExecutor(
    max(min(processes or frame_store.cores(), len(left)), 1),
    mp_context=multiprocessing.get_context('spawn'),
    initializer=stop_with_parent,
  ) as pool:
    futures = [pool.submit(run, job) for job in left]
    try:
      _watch(futures, jobs)
    except (OSError, ValueError, ArithmeticError):
      # Waits, since leaving the pool's context would take the cancelling back.
      pool.shutdown(wait=True, cancel_futures=True)
      raise
    except KeyboardInterrupt:  # The runs had it too: each saves what it has.
      pool.shutdown(wait=True, cancel_futures=True)
      raise SystemExit('Stopped; the same command goes on.') from None


def _watch(futures: Sequence[concurrent.futures.Future], jobs: Sequence[Job]) -> None:
  """Shows how many iterations are done until all runs are; raises what a run raised."""
  total = sum(job.iterations for job in jobs)
  with tqdm(total=total, unit=' iterations', dynamic_ncols=True) as bar:
    waiting = True
    while waiting:
      waiting = bool(concurrent.futures.wait(futures, timeout=1).not_done)
      bar.update(sum(job.done for job in jobs) - bar.n)
      for future in futures:
        if future.done():
          future.result()

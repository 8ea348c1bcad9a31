"""Runs many experiments on this machine, one process per core, each as `run_experiment.py` does."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from implicit_rl.cpu import cores
from implicit_rl.logs import progress_bars
from implicit_rl.running import launch, run_directory, signals


class Job(NamedTuple):
  """One run of `run_all`.

  Attributes:
    base_dir: the run's directory.
    gin_files: found as `config_files.find` does.
    bindings: lines of gin, which override the files.
    seed: of the run.
    iterations: number of iterations that the bindings or files set, for the progress bar and to
      skip finished runs.
    beside: other runs, which train in the same process as one program with this one.
  """

  base_dir: pathlib.Path
  gin_files: tuple[str, ...]
  bindings: tuple[str, ...]
  seed: int
  iterations: int
  beside: tuple[Job, ...] = ()

  @property
  def done(self) -> int:
    """Number of iterations in its log, or in the logs of its seeds together."""
    return run_directory.iterations_done(self.base_dir)

  @property
  def finished(self) -> bool:
    """Whether its log, and the logs of `beside`, hold all iterations."""
    return self.done >= self.iterations and all(one.finished for one in self.beside)


def run(job: Job) -> None:
  """Starts or resumes one run, and those in `beside`, in this process.

  The output of all goes to `base_dir/run.log` of the first.
  """
  if signals.requested():
    return
  import gin

  launch.start_jax()
  from implicit_rl.running import experiment  # Not below: its log handler would keep that file.

  os.makedirs(job.base_dir, exist_ok=True)
  with launch.log_of(job.base_dir):
    gin.clear_config()
    if job.beside:
      runs = [
        experiment.Described(str(one.base_dir), one.seed, one.gin_files, one.bindings)
        for one in (job, *job.beside)
      ]
      experiment.create_side_by_side(runs).run_experiment()
    else:
      experiment.parse_gin(job.gin_files, job.bindings)
      experiment.create_runner(str(job.base_dir), job.seed).run_experiment()
  parent = multiprocessing.parent_process()
  if signals.requested() and parent is not None and not parent.is_alive():
    os._exit(1)  # No parent is left to stop this process; the run is saved.


def run_all(
  jobs: Sequence[Job],
  *,
  processes: int | None = None,
  compilation_cache: str | os.PathLike | None = None,
) -> None:
  """Runs the jobs in order, several at once, and shows how many iterations are done.

  Args:
    jobs: what to run; finished jobs are skipped.
    processes: how many run at once; None is one per core.
    compilation_cache: directory of compiled programs, which later runs reuse; None keeps none.

  Raises:
    OSError, ValueError: as raised by a run; jobs that have not started by then do not start.
  """
  left = [job for job in jobs if not job.finished]
  os.environ.update(launch.environment(compilation_cache))
  with concurrent.futures.ProcessPoolExecutor(
    max(min(processes or cores.count(), len(left)), 1),
    mp_context=multiprocessing.get_context('spawn'),
    initializer=launch.stop_with_parent,
  ) as pool:
    futures = [pool.submit(run, job) for job in left]
    try:
      _watch(futures, jobs)
    except (OSError, ValueError, ArithmeticError):
      # Without this, leaving the pool's context would run the jobs that are waiting.
      pool.shutdown(wait=True, cancel_futures=True)
      raise
    except KeyboardInterrupt:  # The runs received the signal too and save themselves.
      pool.shutdown(wait=True, cancel_futures=True)
      raise SystemExit('Stopped. Run the same command again to resume.') from None


def _watch(futures: Sequence[concurrent.futures.Future], jobs: Sequence[Job]) -> None:
  """Shows progress until all runs have ended; raises a run's error."""
  total = sum(job.iterations for job in jobs)
  with progress_bars.bar(total, 'all runs', 'iterations') as bar:
    waiting = True
    while waiting:
      waiting = bool(concurrent.futures.wait(futures, timeout=1).not_done)
      bar.update(sum(job.done for job in jobs) - bar.n)
      for future in futures:
        if future.done():
          future.result()

"""Many runs on this machine, one process a core; each is what `run_experiment.py` would run."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from implicit_rl.cpu import cores
from implicit_rl.running import launch, run_directory, signals

_ROOT = pathlib.Path(__file__).parent.parent.parent


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
    return run_directory.iterations_done(self.base_dir)

  @property
  def finished(self) -> bool:
    """Whether its log holds all of them."""
    return self.done >= self.iterations


def run(job: Job) -> None:
  """Does or resumes one run in this process; its output goes to run.log in its directory."""
  if signals.requested():
    return
  import gin

  launch.start_jax()
  from implicit_rl.running import experiment  # Not below: its log handler would keep that file.

  os.makedirs(job.base_dir, exist_ok=True)
  with launch.log_of(job.base_dir):
    gin.clear_config()
    experiment.parse_gin([str(_ROOT / name) for name in job.gin_files], job.bindings)
    experiment.create_runner(str(job.base_dir), job.seed).run_experiment()


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

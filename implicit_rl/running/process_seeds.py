"""Runs several seeds of one experiment as parallel processes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gin

from implicit_rl.cpu import cores
from implicit_rl.logs import progress_bars
from implicit_rl.running import configurables, launch, run_directory, seeds, signals


class ProcessSeeds:
  """Runs several seeds at once, each as a separate process and run.

  With fewer than two cores per seed, each computes on one thread. Each process reads its own data;
  a store with `StoreReplay.frames = 'mapped'` is in memory only once.

  Args:
    base_dir: directory that holds the seeds' directories.
    chosen: the seeds.
    iterations: iterations of each run.
    create_runner: (base_dir, seed) -> a runner for gin's configuration; sent to each process by
      name.
  """

  def __init__(
    self,
    base_dir: str,
    chosen: Sequence[int],
    iterations: int,
    create_runner: Callable[[str, int], Any],
  ):
    self._seeds = {seed: seeds.directory(base_dir, seed) for seed in chosen}
    self._iterations, self._create_runner = iterations, create_runner

  def run_experiment(self) -> None:
    """Runs the remaining iterations; each seed's output goes to run.log in its directory.

    Raises:
      OSError: if a seed failed; the error names its log.
    """
    one_thread = cores.count() < 2 * len(self._seeds)
    os.environ.update(launch.environment(one_thread=one_thread))
    context = multiprocessing.get_context('spawn')
    config = gin.config_str(max_line_length=10**6)
    processes = [
      context.Process(target=_run_seed, args=(self._create_runner, config, path, seed))
      for seed, path in self._seeds.items()
    ]
    with signals.watched():
      for process in processes:
        process.start()
      self._wait(processes)
    wrong = [
      os.path.join(path, 'run.log')
      for process, path in zip(processes, self._seeds.values(), strict=True)
      if process.exitcode
    ]
    if wrong:
      raise OSError(f'{len(wrong)} seeds failed; see {wrong[0]}')

  def _wait(self, processes: Sequence[Any]) -> None:
    """Shows progress until all processes have ended; forwards a request to stop to them."""
    told = False
    with progress_bars.bar(len(processes) * self._iterations, 'all seeds', 'iterations') as bar:
      while any(process.is_alive() for process in processes):
        if signals.requested() and not told:
          told = True
          for process in processes:
            process.terminate()  # It saves its state first.
        multiprocessing.connection.wait([one.sentinel for one in processes], timeout=1)
        done = sum(run_directory.iterations_done(path) for path in self._seeds.values())
        bar.update(done - bar.n)


def _run_seed(
  create_runner: Callable[[str, int], Any], config: str, base_dir: str, seed: int
) -> None:
  """Starts or resumes one seed's run in this process, with the parent's gin settings."""
  os.setsid()  # The parent forwards signals from the terminal.
  launch.start_jax()
  configurables.load()
  gin.clear_config()
  gin.parse_config(config)
  for name in ('OfflineRunner', 'OnlineRunner'):
    gin.bind_parameter(f'{name}.num_seeds', 1)
  os.makedirs(base_dir, exist_ok=True)
  with launch.log_of(base_dir):
    try:
      create_runner(base_dir, seed).run_experiment()
    except Exception:
      traceback.print_exc()
      raise SystemExit(1) from None

"""Runs many experiments on a few processes and saves the measures of each, so that work resumes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from implicit_rl.gridworld.config import FittedQConfig

# A dense network of this size is fastest on one thread; seeds and cells run in parallel instead.
_WORKER_ENVIRONMENT = {
  'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1',
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
  'JAX_PLATFORMS': 'cpu',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
}
Rows = dict[str, np.ndarray]


def digest(config: FittedQConfig) -> str:
  """Returns 12 hexadecimal digits that name a configuration."""
  text = json.dumps(dataclasses.asdict(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def path_of(directory: pathlib.Path, config: FittedQConfig, seed: int) -> pathlib.Path:
  """Returns the file of a run's measures."""
  return directory / 'runs' / f'{digest(config)}-{seed}.npz'


def load(directory: pathlib.Path, config: FittedQConfig, seed: int) -> Rows:
  """Reads the measures of a finished run."""
  with np.load(path_of(directory, config, seed)) as file:
    return dict(file)


def cost(config: FittedQConfig) -> float:
  """Returns a rough estimate of microseconds for one seed, to estimate the remaining time."""
  widths = (16, *config.hidden_units, 5)
  weights = sum(a * b for a, b in itertools.pairwise(widths))
  update = 60.0 * max(1.0, weights / 4000)
  if config.penalty_weight:
    update += 250.0
  acting = 8.0 * config.env_steps if config.data == 'online' else 0.0
  return config.iterations * (config.steps * update + acting + 60.0)


def _work(directory: str, config: FittedQConfig, seed: int) -> None:
  """Runs and saves one seed of one configuration in a worker, which keeps compiled programs."""
  from implicit_rl import cpu
  from implicit_rl.gridworld import fitted_q  # Here, since the worker's settings must precede jax.

  cpu.use_kernels()
  target = path_of(pathlib.Path(directory), config, seed)
  rows = fitted_q.run(config, seed)
  part = target.with_suffix('.part.npz')
  np.savez_compressed(part, **rows)  # type: ignore[arg-type]
  os.replace(part, target)  # An existing run is complete.


def run_all(
  directory: pathlib.Path,
  configs: Sequence[FittedQConfig],
  seeds: Sequence[int],
  processes: int = 2,
  report: Callable[[str], None] = print,
) -> None:
  """Runs every configuration with every seed that `directory` does not hold yet.

  Args:
    directory: for runs/*.npz, one file per run, and shared compiled programs.
    configs: the experiments, in this order; repetitions count once.
    seeds: for each configuration.
    processes: number of parallel processes, each with one thread.
    report: called with a line of progress after some runs.

  Raises:
    RuntimeError: if a run failed; the message names its configuration.
  """
  (directory / 'runs').mkdir(parents=True, exist_ok=True)
  todo = [
    (config, seed)
    for config in dict.fromkeys(configs)
    for seed in seeds
    if not path_of(directory, config, seed).exists()
  ]
  if not todo:
    return
  total, done, began = sum(cost(config) for config, _ in todo), 0.0, time.monotonic()
  context = multiprocessing.get_context('spawn')
  with (
    _environment(directory),
    concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool,
  ):
    futures = {pool.submit(_work, str(directory), *item): item for item in todo}
    for number, future in enumerate(concurrent.futures.as_completed(futures), start=1):
      config, seed = futures[future]
      try:
        future.result()
      except Exception as error:
        pool.shutdown(cancel_futures=True)
        raise RuntimeError(f'{config} with seed {seed} failed: {error}') from error
      done += cost(config)
      elapsed = time.monotonic() - began
      if number % len(seeds) == 0 or number == len(todo):
        left = elapsed * (total / done - 1)
        report(f'{number}/{len(todo)} runs; {elapsed:.0f} s gone, about {left:.0f} s left')


@contextlib.contextmanager
def _environment(directory: pathlib.Path) -> Iterator[None]:
  """Sets variables for spawned workers to inherit while they start."""
  changes = {**_WORKER_ENVIRONMENT, 'JAX_COMPILATION_CACHE_DIR': str(directory / 'compiled')}
  before = {name: os.environ.get(name) for name in changes}
  os.environ.update(changes)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value

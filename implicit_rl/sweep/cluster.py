"""A sweep's runs on Ray: placed by their resources, restarted if a worker or node dies."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from implicit_rl.running import launch, parallel_runs, signals
from implicit_rl.sweep import jobs
from implicit_rl.sweep.spec import Resources

Show = Callable[[Mapping[str, str]], Any]  # Called each second with the states other than 'open'.


def run_all(
  todo: Mapping[str, parallel_runs.Job],
  *,
  resources: Resources,
  retries: int,
  address: str | None = None,
  cpus: int | None = None,
  compilation_cache: pathlib.Path | None = None,
  show: Show = lambda states: None,
) -> dict[str, str]:
  """Does the runs; each is one Ray task in its own process.

  A run that dies with its worker or node is restarted, up to `retries` times, and resumes from its
  checkpoint. A run that raises an error is not restarted. In both cases the others continue.

  Args:
    todo: the runs by name. On a cluster their directories are on a file system that all nodes see.
    resources: of each run.
    retries: see above.
    address: of an existing cluster, such as 'auto' or '10.0.0.1:6379'; None starts one on this
      machine.
    cpus: number of cores of a cluster on this machine; None is all.
    compilation_cache: directory of XLA's compiled programs; None keeps none.
    show: called with the progress.

  Returns:
    Errors in one line each, by the name of the run; empty if all are done.

  Raises:
    RuntimeError: if Ray is not installed, there is no cluster at `address`, or none of its nodes
      can hold a run.
  """
  ray = _connect(
    address, cpus, launch.environment(compilation_cache, one_thread=resources.cpus <= 1)
  )
  try:
    _check_fits(ray, resources)
    options: dict[str, Any] = {'num_cpus': resources.cpus, 'max_retries': retries}
    if resources.gpus:
      # A new process for each run releases a GPU's memory; without a GPU, reusing processes is
      # faster.
      options |= {'num_gpus': resources.gpus, 'max_calls': 1}
    if resources.memory_gb:
      options['memory'] = int(resources.memory_gb * 2**30)
    task = ray.remote(**options)(_task)
    shared = (os.getcwd(), jobs.new_launch())
    names = {task.options(name=name).remote(job, *shared): name for name, job in todo.items()}
    return _follow(ray, names, retries, show)
  finally:
    ray.shutdown()


def _task(job: parallel_runs.Job, directory: str, launch: str) -> str | None:
  """Does one run, as `jobs.work`; if it was told to stop, another worker continues it."""
  error = jobs.work(job, directory, launch)
  if signals.requested():
    os._exit(1)  # For Ray this is a worker that died.
  return error


def _connect(address: str | None, cpus: int | None, variables: Mapping[str, str]) -> Any:
  """Returns Ray, connected."""
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # Ray would send usage statistics.
  # The default of Ray's next release, announced at every start until then.
  os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')
  try:
    import ray
  except ImportError as error:
    raise RuntimeError("Ray is not installed: pip install -e '.[ray]'.") from error
  # Workers find the same modules as the driver, such as a user's agent.
  path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get('PYTHONPATH')]))
  settings: dict[str, Any] = {
    'log_to_driver': False,
    'logging_level': 'error',
    'runtime_env': {'env_vars': {**variables, 'PYTHONPATH': path}},
  }
  if address is None:
    # Runs exchange nothing through Ray's memory; 100 MB is about its minimum.
    settings |= {'num_cpus': cpus, 'include_dashboard': False, 'object_store_memory': 10**8}
  try:
    with warnings.catch_warnings():
      # JAX warns of any fork; Ray's servers are forked and immediately become another program.
      warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
      ray.init(address=address or 'local', **settings)
  except (ConnectionError, RuntimeError, ValueError) as error:
    where = f'--address={address}' if address else 'Ray does not start'
    raise RuntimeError(f'{where}: {" ".join(str(error).split())}') from error
  return ray


def _check_fits(ray: Any, resources: Resources) -> None:
  """Raises RuntimeError if no node has the resources of one run, which would wait forever."""
  wanted = {'CPU': resources.cpus, 'GPU': resources.gpus, 'memory': resources.memory_gb * 2**30}
  nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
  if not any(all(node.get(name, 0) >= value for name, value in wanted.items()) for node in nodes):
    most = ', '.join(
      f'{node.get("CPU", 0):g} CPUs, {node.get("GPU", 0):g} GPUs, {node["memory"] / 2**30:.0f} GB'
      for node in nodes
    )
    raise RuntimeError(
      f'No node can hold a run of {resources.cpus:g} CPUs, {resources.gpus:g} GPUs and '
      f'{resources.memory_gb:g} GB (resources); there are {most}.'
    )


def _follow(ray: Any, names: Mapping[Any, str], retries: int, show: Show) -> dict[str, str]:
  """Waits until all tasks have ended."""
  waiting: Sequence[Any] = list(names)
  states: dict[str, str] = {}
  wrong = {}
  while waiting:
    ended, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1)
    for task in ended:
      try:
        error = ray.get(task)
      except ray.exceptions.RayError as died:
        told = str(died).splitlines()[0] if str(died) else type(died).__name__
        error = f'died {retries + 1} times, the last time of: {told}'
      if error:
        wrong[names[task]] = error
      states[names[task]] = 'failed' if error else 'done'
    show(states)
  return wrong

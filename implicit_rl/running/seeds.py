"""Several seeds of one experiment at once: as one vmapped program, or as processes side by side.

Either way each seed has a directory of its own, BASE_DIR/seed_S, with everything that a separate
run of that seed leaves, and can be resumed or extended.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.agents import schedules
from implicit_rl.cpu import cores
from implicit_rl.data.source import DataSource
from implicit_rl.logs import progress_bars
from implicit_rl.logs.running_means import RunningMeans
from implicit_rl.running import configurables, launch, run_directory, signals
from implicit_rl.types import Array, Batch

WAYS = ('auto', 'vmap', 'processes')
Make = Callable[..., Any]  # (base_dir, seed, source=None) -> a runner of one seed


def choose(way: str, *, online: bool) -> str:
  """How several seeds are run: what 'auto' means here.

  Args:
    way: one of `WAYS`.
    online: whether the agent makes its own data.

  Raises:
    ValueError: for another way, or 'vmap' online.
  """
  if way not in WAYS:
    raise ValueError(f"seeds_as is 'auto', 'vmap' or 'processes', not {way!r}.")
  if online:
    if way == 'vmap':
      raise ValueError(
        "OnlineRunner.seeds_as can't be 'vmap': seeds that act are run as 'processes'."
      )
    return 'processes'
  if way == 'auto':
    return 'processes' if jax.default_backend() == 'cpu' else 'vmap'
  return way


def directory(base_dir: str, seed: int) -> str:
  """Of one seed's run."""
  return os.path.join(base_dir, f'seed_{seed}')


# --- one program ----------------------------------------------------------------------------------


class SeedsSource(DataSource):
  """The sources of several seeds as one: batches [K, N, B, ...] and rows [K, N, B].

  Args:
    sources: of each seed, N of one kind; a store in device memory is one that they share.
  """

  def __init__(self, sources: Sequence[DataSource]):
    self._sources = sources
    self.device_rows = sources[0].device_rows
    self.prioritized = any(source.prioritized for source in sources)

  def sample(self, first_update: int, num_updates: int, batch_size: int) -> Batch:
    """Each seed's own batches, beside each other."""
    drawn = [source.sample(first_update, num_updates, batch_size) for source in self._sources]
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *drawn)

  def fixed_batch(self, size: int) -> Batch:
    """Each seed's own, [N, size, ...]."""
    return jax.tree.map(
      lambda *parts: np.stack(parts), *(source.fixed_batch(size) for source in self._sources)
    )

  def __len__(self) -> int:
    """The least number of transitions."""
    return min(map(len, self._sources))

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return self._sources[0].observation_shape

  @property
  def observation_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return self._sources[0].observation_dtype

  @property
  def stack_size(self) -> int:
    """Frames per state."""
    return self._sources[0].stack_size

  @property
  def action_shape(self) -> tuple[int, ...]:
    """Shape of one action."""
    return self._sources[0].action_shape

  @property
  def max_action(self) -> int:
    """The largest action of any."""
    return max(source.max_action for source in self._sources)

  def describe(self) -> dict[str, Any]:
    """What each is, by its place."""
    return {str(n): source.describe() for n, source in enumerate(self._sources)}

  def identity(self) -> dict[str, Any]:
    """What a resumed run of each must find again, by its place."""
    return {str(n): source.identity() for n, source in enumerate(self._sources)}

  def update_priorities(self, priority: Array) -> None:
    """Tells each its own [K, B] of [K, N, B]."""
    if self.prioritized:
      for number, source in enumerate(self._sources):
        source.update_priorities(priority[:, number])

  def state_dict(self) -> dict[str, Any]:
    """The state of each, by its place."""
    return {str(n): source.state_dict() for n, source in enumerate(self._sources)}

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Takes back what `state_dict` returned."""
    for number, source in enumerate(self._sources):
      source.load_state_dict(state[str(number)])

  def draw(self, first_update: int, num_updates: int, batch_size: int) -> np.ndarray:
    """Each seed's own rows, beside each other."""
    drawn = [source.draw(first_update, num_updates, batch_size) for source in self._sources]
    return np.stack(drawn, axis=1)

  @property
  def fetch(self) -> Callable[..., Batch]:
    """Gathers one seed's rows [B]."""
    return self._sources[0].fetch


def _shared(source: DataSource, **settings: Any) -> DataSource:
  """The source; the settings that an agent gives are the first seed's."""
  del settings
  return source


class _Sums:
  """The sums of several seeds, added to side by side.

  Args:
    parts: of each seed.
  """

  def __init__(self, parts: Sequence[RunningMeans]):
    self._parts = parts

  def add(self, metrics: Mapping[str, Any], updates: int, first: int) -> None:
    """Adds metrics [updates, N]."""
    columns = {name: np.asarray(values) for name, values in metrics.items()}
    for seed, part in enumerate(self._parts):
      own = {name: values[:, seed] for name, values in columns.items()}
      part.add(own, updates, first)


class Together:
  """Trains the agents of several seeds as one vmapped learner state.

  Args:
    agents: equal but for their seeds.
  """

  def __init__(self, agents: Sequence[Any]):
    self._agents = agents
    # An agent whose state and source are those of all seeds: it trains as any agent does.
    self._all = copy.copy(agents[0])
    self._all.learner = agents[0].learner.over_seeds(len(agents))
    self._all.source = SeedsSource([agent.source for agent in agents])

  def train(
    self,
    num_updates: int,
    progress: Callable[[int], Any],
    sums: Sequence[RunningMeans],
    done: int = 0,
  ) -> None:
    """Does updates of every agent; see `Agent.train`.

    Args:
      num_updates: of each.
      progress: likewise.
      sums: of each agent, which all have done as many updates.
      done: likewise.
    """
    everyone = self._all
    everyone.state = jax.tree.map(lambda *x: jnp.stack(x), *(agent.state for agent in self._agents))
    both: Any = _Sums(sums)
    try:
      for count in everyone._updates(num_updates - done, schedules.chunk_size(num_updates), both):
        progress(count)
    finally:
      state = everyone.learner.gathered(everyone.state)
      for seed, agent in enumerate(self._agents):
        agent.state = jax.tree.map(lambda x, seed=seed: x[seed], state)


class VmappedSeeds:
  """Runs several seeds in step; their training is one program on one data source.

  A start after a kill goes on from each seed's own checkpoint. Seeds that stand at different places
  are trained one by one until they are in step again.

  Args:
    base_dir: of all seeds.
    seeds: the seeds.
    make: makes the runner of one.
  """

  def __init__(self, base_dir: str, seeds: Sequence[int], make: Make):
    self._directories = [directory(base_dir, seed) for seed in seeds]
    first = make(self._directories[0], seeds[0])
    self.runners = [first]
    for path, seed in zip(self._directories[1:], seeds[1:], strict=True):
      shared = first.agent.source.with_seed(seed)
      source = None if shared is None else functools.partial(_shared, shared)
      self.runners.append(make(path, seed, source=source))
    self._together = Together([runner.agent for runner in self.runners])
    self._speed: dict[str, float] = {}

  def _train(
    self,
    num_updates: int,
    progress: Callable[[int], Any],
    sums: RunningMeans,
    done: int,
  ) -> dict[str, float]:
    """All seeds at the call of the first one in an iteration; then what that call found."""
    if done < num_updates:
      began = time.monotonic()
      everyones = [runner.sums for runner in self.runners]
      self._together.train(num_updates, progress, everyones, done)
      self._speed = {'updates_per_second': (num_updates - done) / (time.monotonic() - began)}
    return {**sums.means(), **self._speed}

  def run_experiment(self) -> None:
    """Runs the iterations that are left; on SIGTERM or SIGINT saves what there is and returns."""
    left = [runner.iterations for runner in self.runners]
    print(f'{len(left)} seeds as one program, in {os.path.dirname(self._directories[0])}')
    try:
      with signals.watched():
        for iteration in max(left, key=len):  # All end with the same one.
          due = [runner for runner, own in zip(self.runners, left, strict=True) if iteration in own]
          if not self._iterate(iteration, due):
            print(f'Stopped within iteration {iteration + 1}; the same command goes on from there.')
            return
    finally:
      for path in self._directories:
        run_directory.release(path)

  def _iterate(self, iteration: int, due: Sequence[Any]) -> bool:
    """One iteration of the runners that it is due for; false if it was stopped within."""
    in_step = len(due) == len(self.runners) and len({one.sums.updates for one in due}) == 1
    for runner in due:
      runner.train_agent = self._train if in_step else runner.agent.train
    self._speed = {}
    for place, runner in enumerate(due):
      try:
        runner.iterate(iteration)
      except signals.StoppedError:
        for unfinished in due[place:]:
          unfinished.keep_interrupted(iteration)
        return False
    return True


# --- processes ------------------------------------------------------------------------------------


class ProcessSeeds:
  """Runs several seeds as processes, all at once, each of them what a separate run is.

  With less than two cores for each they compute on one thread each, and the system shares the
  cores out evenly. Each reads its data itself: a store with `StoreReplay.frames = 'mapped'` is in
  memory once.

  Args:
    base_dir: of all seeds.
    seeds: the seeds.
    iterations: of each run.
    create_runner: (base_dir, seed) -> a runner of what gin describes; sent to each process by name.
  """

  def __init__(
    self,
    base_dir: str,
    seeds: Sequence[int],
    iterations: int,
    create_runner: Callable[[str, int], Any],
  ):
    self._seeds = {seed: directory(base_dir, seed) for seed in seeds}
    self._iterations, self._create_runner = iterations, create_runner

  def run_experiment(self) -> None:
    """Runs what is left; what a seed prints goes to run.log in its directory.

    Raises:
      OSError: if a seed failed; names its log.
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
    """Shows how many iterations are done until all processes have ended; passes on to stop."""
    told = False
    with progress_bars.bar(len(processes) * self._iterations, 'all seeds', 'iterations') as bar:
      while any(process.is_alive() for process in processes):
        if signals.requested() and not told:
          told = True
          for process in processes:
            process.terminate()  # It saves what it has.
        multiprocessing.connection.wait([one.sentinel for one in processes], timeout=1)
        done = sum(run_directory.iterations_done(path) for path in self._seeds.values())
        bar.update(done - bar.n)


def _run_seed(
  create_runner: Callable[[str, int], Any], config: str, base_dir: str, seed: int
) -> None:
  """Does or resumes the run of one seed in this process, with the settings of another's gin."""
  os.setsid()  # A signal at the terminal comes by way of the process that started this one.
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

"""Runs several seeds of one experiment as one vmapped program."""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.agents import schedules
from implicit_rl.data.source import DataSource
from implicit_rl.logs.running_means import RunningMeans
from implicit_rl.running import run_directory, seeds, signals
from implicit_rl.types import Array, Batch

Make = Callable[..., Any]  # (base_dir, seed, source=None) -> a runner of one seed


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
    """Draws each seed's batches; stacks them along axis 1."""
    drawn = [source.sample(first_update, num_updates, batch_size) for source in self._sources]
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *drawn)

  def fixed_batch(self, size: int) -> Batch:
    """Returns each seed's batch, [N, size, ...]."""
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
    """Returns the description of each source, by its number."""
    return {str(n): source.describe() for n, source in enumerate(self._sources)}

  def identity(self) -> dict[str, Any]:
    """Returns the identity of each source, by its number."""
    return {str(n): source.identity() for n, source in enumerate(self._sources)}

  def update_priorities(self, priority: Array) -> None:
    """Passes each source its part [K, B] of [K, N, B]."""
    if self.prioritized:
      for number, source in enumerate(self._sources):
        source.update_priorities(priority[:, number])

  def state_dict(self) -> dict[str, Any]:
    """Returns the state of each source, by its number."""
    return {str(n): source.state_dict() for n, source in enumerate(self._sources)}

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    for number, source in enumerate(self._sources):
      source.load_state_dict(state[str(number)])

  def draw(self, first_update: int, num_updates: int, batch_size: int) -> np.ndarray:
    """Draws each seed's rows; stacks them along axis 1."""
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


class _SeedMeans:
  """Splits metrics of several seeds into the running means of each.

  Args:
    parts: one for each seed.
  """

  def __init__(self, parts: Sequence[RunningMeans]):
    self._parts = parts

  def add(self, metrics: Mapping[str, Any], updates: int, first: int) -> None:
    """Adds metrics [updates, N]."""
    columns = {name: np.asarray(values) for name, values in metrics.items()}
    for seed, part in enumerate(self._parts):
      own = {name: values[:, seed] for name, values in columns.items()}
      part.add(own, updates, first)


class VmappedAgents:
  """Trains the agents of several seeds as one vmapped learner state.

  Args:
    agents: equal except for their seeds.
  """

  def __init__(self, agents: Sequence[Any]):
    self._agents = agents
    # One agent that holds the states and sources of all seeds trains as any agent does.
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
    """Runs gradient updates of all agents; see `Agent.train`.

    Args:
      num_updates: updates of each agent.
      progress: called with the number of updates that each compiled call did.
      sums: running means of each agent; all have done `done` updates.
      done: updates that an earlier call did, which ended at the end of a compiled call.
    """
    everyone = self._all
    everyone.state = jax.tree.map(lambda *x: jnp.stack(x), *(agent.state for agent in self._agents))
    both: Any = _SeedMeans(sums)
    try:
      for count in everyone._updates(num_updates - done, schedules.chunk_size(num_updates), both):
        progress(count)
    finally:
      state = everyone.learner.gathered(everyone.state)
      for seed, agent in enumerate(self._agents):
        agent.state = jax.tree.map(lambda x, seed=seed: x[seed], state)


class VmappedSeeds:
  """Runs several seeds in step; their training is one program on one data source.

  After a kill each seed resumes from its own checkpoint. Seeds at different iterations train one
  by one until they are in step again.

  Args:
    base_dir: directory that holds the seeds' directories.
    chosen: the seeds.
    make: creates the runner of one seed: (base_dir, seed, source=None) -> runner.
  """

  def __init__(self, base_dir: str, chosen: Sequence[int], make: Make):
    self._directories = [seeds.directory(base_dir, seed) for seed in chosen]
    first = make(self._directories[0], chosen[0])
    self.runners = [first]
    for path, seed in zip(self._directories[1:], chosen[1:], strict=True):
      shared = first.agent.source.with_seed(seed)
      source = None if shared is None else functools.partial(_shared, shared)
      self.runners.append(make(path, seed, source=source))
    self._together = VmappedAgents([runner.agent for runner in self.runners])
    self._speed: dict[str, float] = {}

  def _train(
    self,
    num_updates: int,
    progress: Callable[[int], Any],
    sums: RunningMeans,
    done: int,
  ) -> dict[str, float]:
    """Trains all seeds when the first runner calls; returns one runner's metrics at each call."""
    if done < num_updates:
      began = time.monotonic()
      everyones = [runner.sums for runner in self.runners]
      self._together.train(num_updates, progress, everyones, done)
      self._speed = {'updates_per_second': (num_updates - done) / (time.monotonic() - began)}
    return {**sums.means(), **self._speed}

  def run_experiment(self) -> None:
    """Runs the remaining iterations; on SIGTERM or SIGINT saves and returns."""
    left = [runner.iterations for runner in self.runners]
    print(f'{len(left)} seeds as one program, in {os.path.dirname(self._directories[0])}')
    try:
      with signals.watched():
        for iteration in max(left, key=len):  # All end with the same iteration.
          due = [
            runner
            for runner, own in zip(self.runners, left, strict=True)
            if iteration in own and not runner.stopped_by
          ]
          if not self._iterate(iteration, due):
            print(f'Stopped within iteration {iteration + 1}; the same command goes on from there.')
            return
    finally:
      for path in self._directories:
        run_directory.release(path)

  def _iterate(self, iteration: int, due: Sequence[Any]) -> bool:
    """Runs one iteration of the `due` runners; returns False if it was stopped within."""
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

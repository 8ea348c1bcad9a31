"""Trains the agents of several seeds as one vmapped program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.agents import schedules
from implicit_rl.data.source import DataSource
from implicit_rl.logs.running_means import RunningMeans
from implicit_rl.running.merged_updates import DifferentProgramsError, merge
from implicit_rl.types import Array, Batch


class SeedsSource(DataSource):
  """The sources of several seeds as one source: batches [K, N, B, ...] and rows [K, N, B].

  Args:
    sources: one for each seed, N of one kind. They share a store in device memory.
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
    """The smallest number of transitions of any source."""
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
    """The largest action of any source."""
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


def stacked(trees: Sequence[Any]) -> Any:
  """Stacks pytrees of equal structure into one whose arrays have a leading axis [N]."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


class _SeedMeans:
  """Splits metrics of several seeds into the running means of each.

  Args:
    parts: one for each seed; None leaves a seed out.
  """

  def __init__(self, parts: Sequence[RunningMeans | None]):
    self._parts = parts

  def add(self, metrics: Mapping[str, Any], updates: int, first: int) -> None:
    """Adds metrics [updates, N]."""
    columns = {name: np.asarray(values) for name, values in metrics.items()}
    for seed, part in enumerate(self._parts):
      if part is not None:
        own = {name: values[:, seed] for name, values in columns.items()}
        part.add(own, updates, first)


def merged_update(agents: Sequence[Any]) -> Callable[..., Any]:
  """Returns `update(number, state, batch)`, the pure update of each agent by its number.

  Raises:
    DifferentProgramsError: if the agents' updates differ in more than numbers.
  """
  structures = {jax.tree.structure(agent.state) for agent in agents}
  if len(structures) > 1:
    raise DifferentProgramsError('they differ in the state of optimisers or remedies')
  update = merge([agent.learner.pure_update for agent in agents])
  jax.eval_shape(update, 0, agents[0].state, agents[0].learner.context.batch)  # Raises now.
  return update


class VmappedAgents:
  """Trains the agents of several seeds as one vmapped learner state.

  The program always has a place for each agent, so that a seed's results do not depend on which
  others train with it.

  Args:
    agents: equal except for their seeds.
    differ: whether the numbers in their updates differ.

  Raises:
    DifferentProgramsError: if their updates differ in more than numbers.
  """

  def __init__(self, agents: Sequence[Any], differ: bool = False):
    self._agents = agents
    update = merged_update(agents) if differ else None
    # An agent that holds the states and sources of all seeds trains like any other agent.
    self._all = copy.copy(agents[0])
    self._all.learner = agents[0].learner.over_seeds(len(agents), update)

  def train(
    self,
    num_updates: int,
    progress: Callable[[int], Any],
    sums: Sequence[RunningMeans | None],
    done: int = 0,
  ) -> None:
    """Runs gradient updates; see `Agent.train`.

    Args:
      num_updates: updates of each agent.
      progress: called with the number of updates that each compiled call did.
      sums: running means of each agent, each of `done` updates; None leaves an agent out.
      done: number of updates of an earlier call, which must have ended with a complete compiled
        call.
    """
    everyone = self._all
    trained = [number for number, own in enumerate(sums) if own is not None]
    # The places of the others hold a copy of the first trained one, which is dropped.
    held = [self._agents[n if n in trained else trained[0]] for n in range(len(sums))]
    everyone.state = stacked([agent.state for agent in held])
    everyone.source = SeedsSource([agent.source for agent in held])
    both: Any = _SeedMeans(sums)
    try:
      for count in everyone._updates(num_updates - done, schedules.chunk_size(num_updates), both):
        progress(count)
    finally:
      state = everyone.learner.gathered(everyone.state)
      for n in trained:
        self._agents[n].state = jax.tree.map(lambda x, n=n: x[n], state)

"""The replay memory of a compiled online loop: a ring buffer in device memory.

`Memory` and the functions on it are pure and run inside jitted loops; `DeviceReplay` is the agent's
data source, which has the settings, and the memory between two calls of the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
import zstandard
from flax import serialization

from implicit_rl import types
from implicit_rl.data import device_store, source, transitions
from implicit_rl.data.replay import device_priorities
from implicit_rl.data.replay.device_priorities import Priorities

_MAX_ROUNDS = 1000


class Settings(NamedTuple):
  """Settings of transitions, equal to the agent's.

  Attributes:
    stack_size: S, frames per state.
    update_horizon: n.
    gamma: discount per step, used only inside the n-step reward sum.
  """

  stack_size: int
  update_horizon: int
  gamma: float


class Memory(NamedTuple):
  """The content: a pytree, carried through compiled loops.

  Attributes:
    rows: the newest C rows of E streams.
    added: [] int32, total number of rows added to each stream.
    current_start: [E] int32, first row of each stream's current episode.
    priorities: of the C·E places, row t of stream e at (t mod C)·E + e; None for uniform sampling.
  """

  rows: device_store.DeviceRows
  added: jax.Array
  current_start: jax.Array
  priorities: Priorities | None = None

  @property
  def capacity(self) -> int:
    """C, number of rows of each stream."""
    return self.rows.action.shape[0]

  @property
  def streams(self) -> int:
    """E."""
    return self.rows.action.shape[1]


class Drawn(NamedTuple):
  """Rows that a batch starts at: t and stream, [B] int32 each."""

  t: jax.Array
  stream: jax.Array


def add(
  memory: Memory,
  observation: jax.Array,
  action: jax.Array,
  reward: jax.Array,
  terminal: jax.Array,
  episode_end: jax.Array,
) -> Memory:
  """Appends one step of every stream, overwriting the oldest. Pure.

  Args:
    memory: the content.
    observation: [E, *observation_shape], before acting.
    action: [E] int32.
    reward: [E] float32.
    terminal: [E] bool, whether the episode terminated.
    episode_end: [E] bool, whether it ended, terminated or truncated.

  Returns:
    The new content; with priorities, the new rows have the largest priority so far.
  """
  t = memory.added
  new = device_store.DeviceRows(
    observation, action, reward, terminal, episode_end, memory.current_start
  )
  rows = jax.tree.map(
    lambda column, row: jax.lax.dynamic_update_index_in_dim(
      column, row.astype(column.dtype), t % memory.capacity, axis=0
    ),
    memory.rows,
    new,
  )
  priorities = memory.priorities
  if priorities is not None:
    places = (t % memory.capacity) * memory.streams + jnp.arange(memory.streams)
    value = jnp.broadcast_to(priorities.largest, places.shape)
    priorities = device_priorities.put(priorities, places, value)
  start = jnp.where(episode_end, t + 1, memory.current_start)
  return Memory(rows, t + 1, start, priorities)


def sample(
  memory: Memory, key: types.PRNGKey, batch_size: int, settings: Settings
) -> tuple[types.Batch, Drawn]:
  """Draws a batch of complete transitions, with replacement. Pure.

  Draws are uniform, or in proportion to the priorities. Incomplete rows (a few of the newest, and
  the last of truncated episodes) are replaced by new draws from all rows.

  Args:
    memory: the content; at least one transition in it must be complete.
    key: decides the draw.
    batch_size: B.
    settings: settings of transitions.

  Returns:
    The batch [B, ...], weighted if there are priorities, and the rows that it starts at.
  """

  def missing(drawn: Drawn) -> jax.Array:
    return ~device_store.complete(
      memory.rows,
      drawn.t,
      drawn.stream,
      memory.added,
      stack_size=settings.stack_size,
      update_horizon=settings.update_horizon,
    )

  def again(carry):
    drawn, missed, attempt = carry
    fresh = _propose(memory, jax.random.fold_in(key, attempt), batch_size, first=False)
    drawn = jax.tree.map(lambda new, old: jnp.where(missed, new, old), fresh, drawn)
    return drawn, missing(drawn), attempt + 1

  drawn = _propose(memory, key, batch_size, first=True)
  drawn, _, _ = jax.lax.while_loop(
    lambda carry: jnp.any(carry[1]) & (carry[2] < _MAX_ROUNDS),
    again,
    (drawn, missing(drawn), jnp.int32(1)),
  )
  batch = device_store.gather(memory.rows, drawn.t, drawn.stream, **settings._asdict())
  if memory.priorities is not None:
    weight = device_priorities.importance(memory.priorities, _places(memory, drawn))
    batch = batch._replace(weight=weight)
  return batch, drawn


def set_priorities(memory: Memory, drawn: Drawn, priority: jax.Array) -> Memory:
  """Sets priorities [B], at least 0, of a batch's rows; does nothing without priorities. Pure."""
  priorities = memory.priorities
  if priorities is None:
    return memory
  priorities = device_priorities.put(priorities, _places(memory, drawn), priority)
  largest = jnp.maximum(priorities.largest, jnp.max(priority))
  return memory._replace(priorities=priorities._replace(largest=largest))


def _places(memory: Memory, drawn: Drawn) -> jax.Array:
  return (drawn.t % memory.capacity) * memory.streams + drawn.stream


def _propose(memory: Memory, key: types.PRNGKey, batch_size: int, *, first: bool) -> Drawn:
  """Returns rows in memory, complete or not."""
  if memory.priorities is None:
    t_key, stream_key = jax.random.split(key)
    oldest = jnp.maximum(memory.added - memory.capacity, 0)
    t = jax.random.randint(t_key, (batch_size,), oldest, memory.added)
    return Drawn(t, jax.random.randint(stream_key, (batch_size,), 0, memory.streams))
  places = device_priorities.draw(memory.priorities, key, batch_size, stratified=first)
  at, stream = jnp.divmod(places, memory.streams)
  newest = memory.added - 1
  return Drawn(newest - (newest - at) % memory.capacity, stream)  # The newest row at this position.


def update_key(key: types.PRNGKey, update: int | jax.Array) -> types.PRNGKey:
  """Returns the key of an update's draws; `key` is `DeviceReplay.key`. Pure."""
  return jax.random.fold_in(jax.random.fold_in(key, transitions.TRAINING_STREAM), update)


_SAMPLE = jax.jit(sample, static_argnums=(2, 3))
_COMPLETE = jax.jit(device_store.complete, static_argnames=('stack_size', 'update_horizon'))


@gin.configurable(denylist=source.FROM_AGENT)
class DeviceReplay(source.DataSource):
  """The source of an agent that learns in a compiled loop; see `compiled_online_loop`.

  Args:
    observation_shape: shape of one frame.
    observation_dtype: data type of a frame.
    stack_size: S, frames per state.
    update_horizon: n.
    gamma: discount per step, for the n-step reward sum.
    seed: all sampling derives from it.
    capacity: maximum number of rows of all streams together; one row is one environment step.
    num_environments: E, number of parallel environments; each has its own stream.
    prioritized: draw in proportion to the priorities that updates report (Schaul et al., 2016).

  Attributes:
    key: all sampling derives from it.
    memory: the content, replaced by each call of the loop.
    num_environments: E.
    settings: settings of transitions.

  Raises:
    ValueError: if a setting is out of range.
  """

  def __init__(
    self,
    observation_shape: tuple[int, ...],
    observation_dtype: Any = np.uint8,
    *,
    stack_size: int,
    update_horizon: int,
    gamma: float,
    seed: int = 0,
    capacity: int = 100_000,
    num_environments: int = 8,
    prioritized: bool = False,
  ):
    source.check_settings(stack_size, update_horizon, gamma, seed)
    if num_environments < 1:
      raise ValueError(f'DeviceReplay.num_environments must be at least 1, got {num_environments}.')
    least = num_environments * (stack_size + update_horizon)
    if capacity < least or capacity % num_environments:
      raise ValueError(
        f'DeviceReplay.capacity must be a multiple of num_environments = {num_environments} and '
        f'at least {least}, got {capacity}.'
      )
    self.num_environments = num_environments
    self.settings = Settings(stack_size, update_horizon, gamma)
    self._seed = seed
    self.key = jax.random.fold_in(jax.random.PRNGKey(seed), np.uint32(0x5EED))
    shape = (capacity // num_environments, num_environments)

    def zeros(dtype: Any, *trailing: int) -> jax.Array:
      return jnp.zeros((*shape, *trailing), dtype)

    self.memory = Memory(
      rows=device_store.DeviceRows(
        observation=zeros(observation_dtype, *observation_shape),
        action=zeros(jnp.int32),
        reward=zeros(jnp.float32),
        terminal=zeros(bool),
        episode_end=zeros(bool),
        episode_start=zeros(jnp.int32),
      ),
      added=jnp.int32(0),
      current_start=jnp.zeros(num_environments, jnp.int32),
    )
    if prioritized:
      self.memory = self.memory._replace(priorities=device_priorities.empty(capacity))

  def sample(self, first_update: int, num_updates: int, batch_size: int) -> types.Batch:
    """See `DataSource.sample`: the draws of these updates if nothing is added in between."""
    batches = [
      self._sample(update_key(self.key, first_update + k), batch_size)[0]
      for k in range(num_updates)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

  def fixed_batch(self, size: int) -> types.Batch:
    """Returns `size` i.i.d. transitions of the current content, uniformly, without priorities."""
    key = jax.random.fold_in(self.key, transitions.FIXED_BATCH_STREAM + 2**30)
    batch, drawn = self._sample(key, size, uniform=True)
    return batch._replace(return_to_go=self._returns(drawn))

  def _sample(
    self, key: types.PRNGKey, batch_size: int, uniform: bool = False
  ) -> tuple[types.Batch, Drawn]:
    if not len(self):
      raise ValueError('The replay memory holds no complete transition yet.')
    memory = self.memory._replace(priorities=None) if uniform else self.memory
    return jax.tree.map(np.asarray, _SAMPLE(memory, key, batch_size, self.settings))

  def _returns(self, drawn: Drawn) -> np.ndarray:
    """Returns to the episodes' ends, NaN where unknown: [B] float32."""
    rows, oldest = self.memory.rows, max(0, self.added - self.memory.capacity)
    at = np.arange(oldest, self.added) % self.memory.capacity
    reward, terminal, episode_end = (
      np.asarray(column)[at].T for column in (rows.reward, rows.terminal, rows.episode_end)
    )  # [E, T]
    episode_end = episode_end | (np.arange(len(at)) == len(at) - 1)  # The rest is unknown.
    places = np.asarray(drawn.stream, np.int64) * len(at) + np.asarray(drawn.t) - oldest
    return transitions.returns_of(
      places, reward.ravel(), terminal.ravel(), episode_end.ravel(), self.settings.gamma
    )

  def __len__(self) -> int:
    """The number of complete transitions."""
    t = np.arange(max(0, self.added - self.memory.capacity), self.added, dtype=np.int32)
    found = _COMPLETE(
      self.memory.rows,
      jnp.repeat(t, self.num_environments),
      jnp.tile(np.arange(self.num_environments, dtype=np.int32), len(t)),
      self.memory.added,
      stack_size=self.settings.stack_size,
      update_horizon=self.settings.update_horizon,
    )
    return int(found.sum())

  @property
  def compiled_memory(self) -> DeviceReplay:
    """This object: a compiled loop adds and draws within its program."""
    return self

  @property
  def added(self) -> int:
    """Total number of rows added to each stream."""
    return int(self.memory.added)

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return tuple(self.memory.rows.observation.shape[2:])

  @property
  def observation_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return np.dtype(self.memory.rows.observation.dtype)

  @property
  def stack_size(self) -> int:
    """Frames per state."""
    return self.settings.stack_size

  @property
  def max_action(self) -> int:
    """The largest action in memory; -1 if empty."""
    return int(self.memory.rows.action.max()) if self.added else -1

  @property
  def reward_range(self) -> tuple[float, float] | None:
    """The smallest and the largest reward in memory; None if empty."""
    held = np.asarray(self.memory.rows.reward[: self.added])
    return (float(held.min()), float(held.max())) if held.size else None

  def describe(self) -> dict[str, Any]:
    """Returns a description of the memory, as JSON values."""
    return {
      'dataset': 'online replay',
      'capacity': int(self.memory.rows.action.size),
      'num_environments': self.num_environments,
      'prioritized': self.memory.priorities is not None,
      'rows_added': self.added * self.num_environments,
      'transitions': len(self),
      'observation_shape': list(self.observation_shape),
      'observation_dtype': str(self.observation_dtype),
      'seed': self._seed,
      **self.settings._asdict(),
    }

  def identity(self) -> dict[str, Any]:
    """Returns the values that must be equal in a resumed run, as JSON values."""
    changing = ('rows_added', 'transitions')
    return {name: value for name, value in self.describe().items() if name not in changing}

  def state_dict(self) -> dict[str, Any]:
    """Returns everything for a checkpoint, as nested dicts of arrays with compressed frames."""
    state = jax.tree.map(np.asarray, serialization.to_state_dict(self.memory))
    frames = np.ascontiguousarray(state['rows']['observation']).view(np.uint8)
    packed = zstandard.ZstdCompressor(level=1).compress(frames.data)
    state['rows']['observation'] = np.frombuffer(packed, np.uint8)
    return state

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Replaces the content by a checkpoint's.

    Raises:
      ValueError: if the checkpoint does not fit this memory.
    """
    frames = self.memory.rows.observation
    try:
      plain = zstandard.ZstdDecompressor().decompress(
        np.asarray(state['rows']['observation']).tobytes(), max_output_size=frames.nbytes
      )
      observation = np.frombuffer(plain, frames.dtype).reshape(frames.shape)
      rows = {**state['rows'], 'observation': observation}
      memory = serialization.from_state_dict(self.memory, {**state, 'rows': rows})
      shapes = [jax.tree.map(np.shape, jax.tree.leaves(tree)) for tree in (self.memory, memory)]
      if shapes[0] != shapes[1]:
        raise ValueError(f'shapes {shapes[1]} instead of {shapes[0]}')
    except (KeyError, TypeError, ValueError, zstandard.ZstdError) as error:
      raise ValueError(
        f'The replay checkpoint does not fit this memory ({error}): resume with the settings the '
        'run started with.'
      ) from error
    self.memory = jax.tree.map(jnp.asarray, memory)

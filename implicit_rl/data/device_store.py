"""Rows and frames in device memory, and pure functions that gather transitions from them.

The same maths as `transitions.gather`, in JAX. The learner gets only row numbers, a few bytes per
transition; everything else stays on the device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl import types
from implicit_rl.data import transitions

_PIECE = 8192  # rows copied at once


class DeviceRows(NamedTuple):
  """E parallel streams of experience with C rows each; row t of a stream is at t mod C.

  A finished dataset is one stream that never wraps. It is a pytree that jitted functions accept.

  Attributes:
    observation: [C, E, *observation_shape].
    action: [C, E] int32.
    reward: [C, E] float32.
    terminal: [C, E] bool, whether the episode terminated here.
    episode_end: [C, E] bool, whether it is the last row of its episode.
    episode_start: [C, E] int32, row number of the first row of the episode.
    return_to_go: [C, E] float32, or None.
  """

  observation: jax.Array
  action: jax.Array
  reward: jax.Array
  terminal: jax.Array
  episode_end: jax.Array
  episode_start: jax.Array
  return_to_go: jax.Array | None = None


def from_host(
  columns: transitions.Columns,
  frames: transitions.Frames,
  return_to_go: np.ndarray | None = None,
) -> DeviceRows:
  """Copies a finished store to the default device, as one stream, piece by piece.

  Args:
    columns: [N] each.
    frames: the frames of the same rows; compressed ones are decoded.
    return_to_go: [N] float32, or None.

  Raises:
    ValueError: for 2³¹ rows or more, since row numbers are int32 on the device.
  """
  total = frames.shape[0]
  if total >= 2**31:
    raise ValueError(f'A device store holds fewer than 2³¹ rows, not {total}.')
  observation = jnp.zeros((total, 1, *frames.shape[1:]), frames.dtype)
  for start in range(0, total, _PIECE):
    piece = frames.take(np.arange(start, min(start + _PIECE, total)))
    observation = _put_piece(observation, piece[:, None], start)

  def put(values: np.ndarray, dtype: type | None = None) -> jax.Array:
    return jnp.asarray(values[:, None], dtype)

  return DeviceRows(
    observation=observation,
    action=put(columns.action, jnp.int32),
    reward=put(columns.reward, jnp.float32),
    terminal=put(columns.terminal),
    episode_end=put(columns.episode_end),
    episode_start=put(columns.episode_start, jnp.int32),
    return_to_go=None if return_to_go is None else put(return_to_go),
  )


@functools.partial(jax.jit, donate_argnums=0)
def _put_piece(observation: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(observation, piece, start, axis=0)


def gather(
  rows: DeviceRows,
  t: jax.Array,
  stream: jax.Array,
  *,
  stack_size: int,
  update_horizon: int,
  gamma: float,
) -> types.Batch:
  """Returns the transitions that start at rows `t`; equal to `transitions.gather`. Pure.

  Args:
    rows: the store.
    t: [B] int32, rows that start a complete transition.
    stream: [B] int32, the stream of each, below E.
    stack_size: S, frames per state.
    update_horizon: n.
    gamma: discount per step, used only inside the n-step reward sum.

  Returns:
    A batch of device arrays with leading axis [B].
  """
  capacity = rows.action.shape[0]
  steps = t[:, None] + jnp.arange(update_horizon + 1)[None]  # [B, n+1]
  at, beside = steps % capacity, stream[:, None]
  passed = jnp.cumsum(rows.episode_end[at[:, :-1], beside], axis=-1) > 0  # [B, n]
  exists = jnp.concatenate([jnp.ones_like(passed[:, :1]), ~passed], axis=-1)  # [B, n+1]
  within = exists[:, :-1]
  powers = jnp.asarray(float(gamma) ** np.arange(update_horizon), jnp.float32)
  reward = jnp.sum(rows.reward[at[:, :-1], beside] * within * powers[None], axis=-1)
  terminal = jnp.any(rows.terminal[at[:, :-1], beside] & within, axis=-1)

  offsets = transitions.stack_offsets(stack_size, update_horizon)  # [F]
  wanted = t[:, None] + offsets[None].astype(np.int32)  # [B, F]
  start = rows.episode_start[t % capacity, stream]
  present = (wanted >= start[:, None]) & exists[:, np.maximum(offsets, 0)]
  frames = rows.observation[wanted % capacity, beside]  # [B, F, *obs]
  blank = present.reshape(*present.shape, *[1] * (frames.ndim - 2))
  frames = jnp.where(blank, frames, jnp.zeros_like(frames))
  returns = rows.return_to_go
  return types.Batch(
    state=frames[:, :stack_size],
    action=rows.action[at[:, 0], stream],
    reward=reward,
    next_state=frames[:, -stack_size:],
    next_action=jnp.where(exists[:, -1], rows.action[at[:, -1], stream], 0),
    discount=(~terminal).astype(jnp.float32),
    weight=jnp.ones_like(reward),
    return_to_go=None if returns is None else returns[t % capacity, stream],
  )


def gather_one_stream(rows: DeviceRows, t: jax.Array, **settings) -> types.Batch:
  """`gather` from a store of one stream. Pure."""
  return gather(rows, t, jnp.zeros_like(t), **settings)


def complete(
  rows: DeviceRows,
  t: jax.Array,
  stream: jax.Array,
  added: jax.Array,
  *,
  stack_size: int,
  update_horizon: int,
) -> jax.Array:
  """Whether rows of a ring buffer start a complete transition. Pure.

  Args:
    rows: the ring buffer.
    t: [B] int32.
    stream: [B] int32.
    added: [] int32, total number of rows added to each stream; the last C are kept.
    stack_size: S; the stack must not reach back to overwritten rows.
    update_horizon: n; the next state must exist, or the episode must terminate before it.

  Returns:
    [B] bool; False for rows that are not kept.
  """
  capacity = rows.action.shape[0]
  oldest = jnp.maximum(added - capacity, 0)
  start = rows.episode_start[t % capacity, stream]
  whole_stack = jnp.maximum(t - stack_size + 1, start) >= oldest
  steps = t[:, None] + jnp.arange(update_horizon)[None]  # [B, n]
  held, at, beside = steps < added, steps % capacity, stream[:, None]
  passed = jnp.cumsum(rows.episode_end[at, beside] & held, axis=-1) > 0  # [B, n]
  within = jnp.concatenate([jnp.ones_like(passed[:, :1]), ~passed[:, :-1]], axis=-1)
  terminal = jnp.any(rows.terminal[at, beside] & held & within, axis=-1)
  followed = ~passed[:, -1] & (t + update_horizon < added)
  return whole_stack & (t >= oldest) & (t < added) & (terminal | followed)


class DeviceFrames:
  """Frames in device memory for code on the host; see `transitions.Frames`.

  Args:
    observation: [N, 1, *observation_shape].
  """

  def __init__(self, observation: jax.Array):
    self._observation = observation

  @property
  def shape(self) -> tuple[int, ...]:
    """[N, *observation_shape]."""
    return (self._observation.shape[0], *self._observation.shape[2:])

  @property
  def dtype(self) -> np.dtype:
    """The data type of a frame."""
    return np.dtype(self._observation.dtype)

  @property
  def nbytes(self) -> int:
    """Number of bytes in device memory."""
    return self._observation.nbytes

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Returns a new host array [..., *observation_shape] for `rows` [...] int64."""
    return np.array(self._observation[np.asarray(rows, np.int32), 0])

"""Priorities of a replay in device memory, and draws in proportion to them in jitted programs.

The sums of about √N blocks with √N priorities each are stored. A draw therefore searches √N sums
and then the √N priorities of one block, and writing a priority costs one block's sum. Sums are
always recomputed from the priorities, so rounding errors do not accumulate.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from implicit_rl.types import PRNGKey

_LEAST_PROBABILITY = 1e-10  # Dopamine's, added to each probability before it is inverted.


class Priorities(NamedTuple):
  """The priorities: a pytree.

  Attributes:
    value: [N] float32, at least 0; 0 is never drawn.
    block_sums: [blocks] float32, sums of N / blocks consecutive values.
    largest: [] float32, the largest priority that an update reported, 1 at first.
  """

  value: jax.Array
  block_sums: jax.Array
  largest: jax.Array


def empty(size: int) -> Priorities:
  """Returns priorities 0 for `size` places."""
  blocks = next(d for d in range(int(size**0.5), 0, -1) if size % d == 0)
  zeros = jnp.zeros(size, jnp.float32)
  return Priorities(zeros, jnp.zeros(blocks, jnp.float32), jnp.float32(1))


def put(priorities: Priorities, places: jax.Array, value: jax.Array) -> Priorities:
  """Writes `value` [B] at `places` [B]; if a place occurs twice, one value is used. Pure."""
  written = priorities.value.at[places].set(value)
  by_block = written.reshape(len(priorities.block_sums), -1)
  touched = places // by_block.shape[1]
  sums = priorities.block_sums.at[touched].set(jnp.sum(by_block[touched], axis=-1))
  return priorities._replace(value=written, block_sums=sums)


def draw(priorities: Priorities, key: PRNGKey, count: int, *, stratified: bool) -> jax.Array:
  """Draws places in proportion to priority. Pure.

  Args:
    priorities: not all 0.
    key: determines the draw.
    count: B.
    stratified: draw one from each of B equal shares of the sum (Schaul et al., 2016, appendix
      B.2.1).

  Returns:
    [B] int32 places.
  """
  ends = jnp.cumsum(priorities.block_sums)
  uniform = jax.random.uniform(key, (count,))
  if stratified:
    uniform = (jnp.arange(count) + uniform) / count
  sought = uniform * ends[-1]  # [B]
  block = jnp.minimum(jnp.searchsorted(ends, sought, side='right'), len(ends) - 1)
  values = priorities.value.reshape(len(ends), -1)[block]  # [B, N / blocks]
  inside = jnp.cumsum(values, axis=-1)
  before = ends[block] - priorities.block_sums[block]
  within = jnp.sum(inside <= (sought - before)[:, None], axis=-1)
  length = values.shape[1]
  return (block * length + jnp.minimum(within, length - 1)).astype(jnp.int32)


def importance(priorities: Priorities, places: jax.Array) -> jax.Array:
  """Returns weights P^−½ [B] of places, divided by the largest, as in Dopamine's Rainbow. Pure."""
  probability = priorities.value[places] / jnp.sum(priorities.block_sums)
  weight = 1.0 / jnp.sqrt(probability + _LEAST_PROBABILITY)
  return weight / jnp.max(weight)

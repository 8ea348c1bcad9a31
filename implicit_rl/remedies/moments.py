"""Rewrites an optimiser's moments together with the parameters that they belong to."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from implicit_rl.types import Params


def renew(
  optimizer: optax.GradientTransformation,
  optimizer_state: optax.OptState,
  params: Params,
  chosen: Params,
  reset_count: bool = False,
) -> optax.OptState:
  """Resets an optimiser's state to that of a fresh one for the chosen parameters.

  Moments, momentum and everything else with the shape of the parameters are reset. Step counts
  belong to no single parameter; those of schedules and of skipped updates are always kept.

  Args:
    optimizer: an optax transformation, `Context.optimizer`.
    optimizer_state: its state.
    params: the current parameters.
    chosen: like `params`, bool arrays.
    reset_count: set step counts such as Adam's to 0, if a parameter is chosen. Adam then corrects
      its moments' bias as at the start. If counts are kept, the first steps of renewed parameters
      are about three times as long as the learning rate, with Adam's default decay rates.

  Returns:
    The new state.
  """
  keep = lambda x: jax.tree.map(lambda one: jnp.zeros((), bool), x)
  masked = lambda x: isinstance(x, optax.MaskedNode)
  marks = optax.tree.map_params(
    optimizer,
    lambda x, mark: x if masked(x) else mark,
    optimizer_state,
    chosen,
    transform_non_params=keep,
    is_leaf=masked,
  )
  fresh = optimizer.init(params)
  state = jax.tree.map(jnp.where, marks, fresh, optimizer_state)
  if not reset_count:
    return state
  some = jnp.any(jnp.stack([jnp.any(mask) for mask in jax.tree.leaves(chosen)]))
  return jax.tree.map(functools.partial(jnp.where, some), _with_counts_at_zero(state), state)


def _with_counts_at_zero(state: optax.OptState) -> optax.OptState:
  """Sets to 0 the step counts of transformations that keep moments."""

  def is_step_count(path: tuple, value: object) -> bool:
    del value
    return 'Schedule' not in getattr(path[-1], 'tuple_name', 'Schedule')

  zero = jnp.zeros((), jnp.int32)
  if not any(is_step_count(*found) for found in optax.tree.get_all_with_path(state, 'count')):
    return state  # Such as of SGD.
  return optax.tree.set(state, is_step_count, count=zero)

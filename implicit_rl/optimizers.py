"""Optimisers for a loss whose parts want learning rates of their own."""

from __future__ import annotations

import gin
import jax
import optax

from implicit_rl.types import Params


@gin.configurable
def actor_critic_adam(
  actor_rate: float = 3e-4,
  critic_rate: float = 3e-4,
  scalar_rate: float | None = None,
) -> optax.GradientTransformation:
  """Adam with a learning rate each for an `ActorCritic`'s policy, critics and learnt scalars.

  Args:
    actor_rate: of the policy.
    critic_rate: of the critics.
    scalar_rate: of temperature and multiplier; None is the policy's.
  """
  rates = {
    'actor': actor_rate,
    'critic': critic_rate,
    'log': actor_rate if scalar_rate is None else scalar_rate,
  }

  def labels(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: _part(path), params)

  return optax.partition({name: optax.adam(rate) for name, rate in rates.items()}, labels)


def _part(path: tuple) -> str:
  """Which part a parameter belongs to: the first word of its module's name below 'params'."""
  return str(path[1].key).partition('_')[0]

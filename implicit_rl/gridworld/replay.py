"""Online data: the learner's policy acts in the gridworld and fills a first-in-first-out replay.

Shapes: S cells, A actions, N rows of the replay.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from implicit_rl.gridworld.measures import HORIZON, policy_of
from implicit_rl.gridworld.problem import Memory, Problem
from implicit_rl.types import PRNGKey


class Actor(NamedTuple):
  """The acting agent's position.

  Attributes:
    cell: [] int32.
    time: [] int32 steps since the episode began.
  """

  cell: jax.Array
  time: jax.Array


def acting_policy(q_values: jax.Array, problem: Problem, hard: bool) -> jax.Array:
  """Returns [S, A]: the soft policy, which explores by itself, or the ε-greedy one."""
  policy = policy_of(q_values, problem.temperature, hard)
  if not hard:
    return policy
  return (1 - problem.epsilon) * policy + problem.epsilon / policy.shape[1]


def act(
  memory: Memory, actor: Actor, problem: Problem, policy: jax.Array, steps: int, key: PRNGKey
) -> tuple[Memory, Actor]:
  """Takes `steps` environment steps with `policy` [S, A]; each overwrites the oldest row."""
  logits = jnp.log(policy)

  def step(carry, key):
    memory, actor = carry
    choose, replace, other = jax.random.split(key, 3)
    action = jax.random.categorical(choose, logits[actor.cell]).astype(jnp.int32)
    replaced = jax.random.bernoulli(replace, problem.action_noise)
    random_action = jax.random.randint(other, (), 0, policy.shape[1])
    following = problem.successors[actor.cell, jnp.where(replaced, random_action, action)]
    row = memory.written % memory.capacity
    memory = memory._replace(
      state=memory.state.at[row].set(actor.cell),
      action=memory.action.at[row].set(action),
      reward=memory.reward.at[row].set(problem.rewards[actor.cell, action]),
      next_state=memory.next_state.at[row].set(following),
      written=memory.written + 1,
    )
    over = actor.time + 1 >= HORIZON
    cell = jnp.where(over, problem.start, following)
    return (memory, Actor(cell, jnp.where(over, 0, actor.time + 1))), None

  (memory, actor), _ = jax.lax.scan(step, (memory, actor), jax.random.split(key, steps))
  return memory, actor

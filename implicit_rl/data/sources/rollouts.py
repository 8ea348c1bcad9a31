"""An offline dataset that a scripted policy plays when a run starts, without files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.compat.settings import check_number
from implicit_rl.data import source, transitions
from implicit_rl.data.store import frame_store
from implicit_rl.types import PRNGKey

Policy = Callable[[jax.Array], jax.Array]  # observation -> action [] int32; pure


@gin.configurable
def push_under_pole(observation: jax.Array) -> jax.Array:
  """Moves CartPole's cart to where the pole leans or falls: observation [4] -> action []."""
  _, _, angle, speed = observation
  return jnp.int32(angle + speed > 0)


@gin.configurable(denylist=source.FROM_AGENT)
class Rollouts(source.StoredSource):
  """Whole episodes of an environment with pure rules, played by a scripted policy.

  Args:
    stack_size: the agent's; it must be 1.
    update_horizon: as the agent's.
    gamma: discount per step. As the agent's.
    seed: determines the episodes and all sampling, so each seed has its own data.
    observation_shape: shape of the agent's observations, which the environment must have.
    observation_dtype: ignored; observations have the dtype of the environment's rules.
    return_to_go: compute the discounted return from every row to its episode's end.
    environment: creates the environment, such as `@GymnaxEnvironment`; called with `seed`.
    policy: maps an observation to an action; None draws every action uniformly.
    epsilon: share of actions that are drawn uniformly instead.
    size: environment steps; episodes that have not ended by then are left out.
    num_environments: number of parallel copies of the environment.

  Raises:
    ValueError: if a setting is out of range, the environment has no rules, or no episode ended.
  """

  def __init__(
    self,
    *,
    stack_size: int = 1,
    update_horizon: int = 1,
    gamma: float = 0.99,
    seed: int = 0,
    observation_shape: tuple[int, ...] | None = None,
    observation_dtype: Any = None,
    return_to_go: bool = False,
    environment: Callable[..., Any] = gin.REQUIRED,
    policy: Policy | None = None,
    epsilon: float = 0.3,
    size: int = 10_000,
    num_environments: int = 8,
  ):
    del observation_dtype
    check_number('Rollouts.epsilon', epsilon, least=0, most=1)
    check_number('Rollouts.num_environments', num_environments, least=1, whole=True)
    check_number('Rollouts.size', size, least=num_environments, whole=True)
    if stack_size != 1:
      raise ValueError(f'Rollouts has single observations: stack_size must be 1, got {stack_size}.')
    made = environment(seed=seed)
    if getattr(made, 'rules', None) is None:
      raise ValueError(
        f'Rollouts.environment: {made.name} has no rules; bind one of gymnax, MinAtar or the '
        'gridworld.'
      )
    shape = tuple(made.observation_shape)
    if observation_shape is not None and tuple(observation_shape) != shape:
      raise ValueError(
        f'Rollouts.environment: {made.name} has observations of shape {shape}, the agent takes '
        f'{tuple(observation_shape)}: bind the same as Experiment.environment.'
      )
    observations, columns = play(
      made, policy, jax.random.key(seed), size // num_environments, num_environments, epsilon
    )
    if not len(columns.action):
      raise ValueError(f'Rollouts.size: no episode of {made.name} ended within {size} steps.')
    super().__init__(
      columns,
      frame_store.RawFrames(observations),
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
      return_to_go=return_to_go,
      description={'dataset': f'rollouts/{made.name}', 'game': made.name, 'epsilon': epsilon},
    )

  def identity(self) -> dict[str, Any]:
    """Returns what decides the batches, ready for JSON."""
    described = self.describe()
    return super().identity() | {name: described[name] for name in ('rows', 'epsilon')}

  def with_seed(self, seed: int) -> Any:
    """Returns None: another seed needs new episodes."""


def play(
  environment: Any,
  policy: Policy | None,
  key: PRNGKey,
  steps: int,
  copies: int,
  epsilon: float,
) -> tuple[np.ndarray, transitions.Columns]:
  """Plays an environment that has rules, and keeps the episodes that ended.

  Args:
    environment: its `rules`, `num_actions` and `max_steps_per_episode` are used.
    policy: as in `Rollouts`.
    key: determines everything random.
    steps: T, of each copy.
    copies: E, number of parallel copies.
    epsilon: share of random actions.

  Returns:
    Observations [N, *observation_shape] and columns of N rows, episode after episode.
  """
  rules, limit = environment.rules, environment.max_steps_per_episode

  def choose(observation: jax.Array, key: PRNGKey) -> jax.Array:
    explore_key, action_key = jax.random.split(key)
    drawn = jax.random.randint(action_key, (), 0, environment.num_actions)
    if policy is None:
      return drawn
    return jnp.where(jax.random.bernoulli(explore_key, epsilon), drawn, policy(observation))

  def step(carry, key):
    moment, length = carry
    act_key, step_key, start_key = jax.random.split(key, 3)
    action = choose(moment.observation, act_key)
    following, reward, terminal = rules.advance(moment, action, step_key)
    end = terminal | (length + 1 >= limit)
    new = jax.tree.map(functools.partial(jnp.where, end), rules.start(start_key), following)
    row = (moment.observation, action, reward, terminal, end)
    return (new, jnp.where(end, 0, length + 1)), row

  def stream(key: PRNGKey):
    start_key, steps_key = jax.random.split(key)
    first = rules.start(start_key), jnp.int32(0)
    return jax.lax.scan(step, first, jax.random.split(steps_key, steps))[1]

  rows = jax.jit(jax.vmap(stream))(jax.random.split(key, copies))  # [E, T, ...]
  ends = np.asarray(rows[-1])
  # Rows of a copy up to its last end.
  kept = np.logical_or.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
  observation, action, reward, terminal, end = (np.asarray(column)[kept] for column in rows)
  return observation, transitions.make_columns(action, reward, terminal, end)

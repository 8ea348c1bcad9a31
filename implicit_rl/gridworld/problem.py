"""Inputs of a run: world, dataset and exact solutions of one configuration and seed, as arrays.

Shapes: S cells, A actions, F free cells, N = CAPACITY transitions, D observation features,
d network features.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.gridworld import datasets, oracle
from implicit_rl.gridworld.config import CAPACITY, FittedQConfig
from implicit_rl.gridworld.mdp import Gridworld, make_gridworld


class Memory(NamedTuple):
  """A dataset or a replay. Rows from `written` on are empty, so sizes share a compiled program.

  Attributes:
    state: [N] int32 cells.
    action: [N] int32.
    reward: [N] float32.
    next_state: [N] int32 cells.
    returns: [N] float32 sampled returns of the behaviour policy; zeros unless they are the targets.
    written: [] int32 total number of transitions written.
    capacity: [] int32 number of rows before the oldest are overwritten.
  """

  state: jax.Array
  action: jax.Array
  reward: jax.Array
  next_state: jax.Array
  returns: jax.Array
  written: jax.Array
  capacity: jax.Array


class Problem(NamedTuple):
  """All arguments of a compiled run besides its configuration.

  Attributes:
    observations: [S, D] float32.
    transitions: [S, A, S] float32.
    rewards: [S, A] float32.
    successors: [S, A] int32.
    free: [F] int32 free cells, the reference set.
    eigen_rows: [d] int32 positions in `free` of the square feature matrix's inputs (App. A.7).
    start: [] int32 first cell of an episode.
    discount: [] float32 γ.
    action_noise: [] float32.
    temperature: [] float32 τ of backup and acting.
    epsilon: [] float32 exploration of online acting at temperature 0.
    learning_rate: [] float32.
    steps: [] int32 gradient steps per fitting iteration.
    log_every: [] int32 fitting iterations between two rows of measures.
    behaviour: [S, A] float32 policy that made the data, evaluated by 'policy' and 'monte_carlo'.
    q_optimal: [S, A] float32 exact Q* at temperature τ.
    q_solution: [S, A] float32 exact fixed point of this run's targets: Q*, or Q^π of the behaviour.
    value_bounds: [2] float32 clipping range of V(s'); infinite without clipping.
    return_range: [2] float32 episode returns of the random policy and of the optimum.
    memory: the data.
  """

  observations: jax.Array
  transitions: jax.Array
  rewards: jax.Array
  successors: jax.Array
  free: jax.Array
  eigen_rows: jax.Array
  start: jax.Array
  discount: jax.Array
  action_noise: jax.Array
  temperature: jax.Array
  epsilon: jax.Array
  learning_rate: jax.Array
  steps: jax.Array
  log_every: jax.Array
  behaviour: jax.Array
  q_optimal: jax.Array
  q_solution: jax.Array
  value_bounds: jax.Array
  return_range: jax.Array
  memory: Memory


class Oracle(NamedTuple):
  """A world with its exact solution at one temperature.

  Attributes:
    world: the gridworld.
    q_values: [S, A] float64 Q*.
    random_return: episode return of the uniformly random policy.
    best_return: episode return of the policy of Q*.
  """

  world: Gridworld
  q_values: np.ndarray
  random_return: float
  best_return: float


@functools.lru_cache(maxsize=32)
def solve(
  world_seed: int, reward: str, observation: str, discount: float, temperature: float
) -> Oracle:
  """Creates a world and solves it; cached, since many runs share one."""
  world = make_gridworld(world_seed, reward=reward, observation=observation, discount=discount)
  q_values = oracle.optimal_q_values(world, temperature)
  return Oracle(
    world,
    q_values,
    random_return=oracle.episode_return(world, oracle.uniform_policy(world)),
    best_return=oracle.episode_return(world, oracle.soft_policy(q_values, temperature)),
  )


def solved(config: FittedQConfig, seed: int) -> Oracle:
  """Returns the world of a configuration and seed, solved for the temperature of its target."""
  world_seed = seed if config.world_seed < 0 else config.world_seed
  temperature = 0.0 if _evaluates(config) else config.temperature
  return solve(world_seed, config.reward, config.observation, config.discount, temperature)


def _evaluates(config: FittedQConfig) -> bool:
  """Whether the targets are those of a given policy, which has no entropy bonus."""
  return config.target in ('policy', 'monte_carlo')


def value_bounds(config: FittedQConfig, world: Gridworld) -> tuple[float, float]:
  """Returns the smallest and the largest possible sum of rewards and entropy bonus."""
  rewards = world.rewards[world.free_cells]
  bonus = config.temperature * np.log(rewards.shape[1])
  low, high = rewards.min(), rewards.max() + bonus
  return low / (1 - config.discount), high / (1 - config.discount)


def make_problem(config: FittedQConfig, seed: int) -> Problem:
  """Builds the world, solves it and draws the data, all from the configuration and one seed."""
  if seed < 0:
    raise ValueError(f'seed is {seed}; it must not be negative.')
  evaluates = _evaluates(config)
  temperature = 0.0 if evaluates else config.temperature
  world, q_optimal, random_return, best_return = solved(config, seed)
  behaviour, data = _behaviour_and_data(config, world, q_optimal, seed)
  q_solution = oracle.policy_q_values(world, behaviour) if evaluates else q_optimal
  free = world.free_cells
  rng = np.random.default_rng([seed, 5])
  width = config.hidden_units[-1]
  bounds = value_bounds(config, world) if config.clip_targets else (-np.inf, np.inf)
  if config.target == 'monte_carlo' and data is not None:
    returns = datasets.monte_carlo_returns(world, behaviour, data, seed)
  else:
    returns = None
  single = functools.partial(jnp.asarray, dtype=jnp.float32)
  whole = functools.partial(jnp.asarray, dtype=jnp.int32)
  return Problem(
    observations=single(world.observations),
    transitions=single(world.transitions),
    rewards=single(world.rewards),
    successors=whole(world.successors),
    free=whole(free),
    eigen_rows=whole(rng.choice(len(free), width, replace=width > len(free))),
    start=whole(world.start),
    discount=single(world.discount),
    action_noise=single(world.action_noise),
    temperature=single(temperature),
    epsilon=single(config.epsilon),
    learning_rate=single(config.learning_rate),
    steps=whole(config.steps),
    log_every=whole(config.log_every),
    behaviour=single(behaviour),
    q_optimal=single(q_optimal),
    q_solution=single(q_solution),
    value_bounds=single(bounds),
    return_range=single([random_return, best_return]),
    memory=_memory(data, returns, config.data_size),
  )


def _behaviour_and_data(
  config: FittedQConfig, world: Gridworld, q_optimal: np.ndarray, seed: int
) -> tuple[np.ndarray, datasets.Transitions | None]:
  """Returns the policy [S, A] that acts in the data, and the data (None online)."""
  if config.data == 'epsilon_greedy':
    policy = oracle.epsilon_greedy_policy(q_optimal, config.epsilon)
  else:
    policy = oracle.uniform_policy(world)
  if config.data == 'online':
    return policy, None
  if config.data == 'uniform':
    return policy, datasets.uniform_data(world, config.data_size, seed)
  return policy, datasets.rollout_data(world, policy, config.data_size, seed)


def _memory(data: datasets.Transitions | None, returns: np.ndarray | None, capacity: int) -> Memory:
  """Writes transitions into arrays of the common length."""

  def column(values, dtype):
    array = np.zeros(CAPACITY, dtype)
    if values is not None:
      array[: len(values)] = values
    return jnp.asarray(array)

  parts = (None, None, None, None) if data is None else data
  return Memory(
    state=column(parts[0], np.int32),
    action=column(parts[1], np.int32),
    reward=column(parts[2], np.float32),
    next_state=column(parts[3], np.int32),
    returns=column(returns, np.float32),
    written=jnp.asarray(0 if data is None else len(data.state), jnp.int32),
    capacity=jnp.asarray(capacity, jnp.int32),
  )

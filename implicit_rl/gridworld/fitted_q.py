"""Fitted Q-iteration on the shared learner: Algorithm 1 of the paper, one compiled call per run.

A run is one jitted program: a loop over logged rows, which contains a loop over fitting iterations,
which contains a loop over T gradient steps. Everything that only changes numbers (dataset, its
size, learning rate, temperature, clipping bounds) is an argument, so that many configurations share
a program.

Shapes: S cells, A actions, N = CAPACITY transitions, B batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from implicit_rl import learner, rank
from implicit_rl.gridworld import measures, replay
from implicit_rl.gridworld.config import FittedQConfig
from implicit_rl.gridworld.losses import fitted_loss
from implicit_rl.gridworld.mdp import NUM_ACTIONS
from implicit_rl.gridworld.problem import Memory, Problem, make_problem
from implicit_rl.networks import MLP
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey, QOutputs

BLOCK = 10  # gradient steps whose minibatches are drawn together, if T is a multiple of it


class Program(NamedTuple):
  """The part of a configuration that determines the compiled program; see `FittedQConfig`."""

  target: str
  hard: bool
  online: bool
  env_steps: int
  batch_size: int
  optimizer: str
  reinitialize: bool
  penalty_weight: float
  hidden_units: tuple[int, ...]
  activation: str
  initialization: str
  rows: int
  block: int


class RunState(NamedTuple):
  """State between two fitting iterations.

  Attributes:
    learner: the shared learner's state.
    memory: dataset or replay.
    actor: the online agent's position.
    targets: [N] float32, the last iteration's regression targets.
    key: draws minibatches, actions and new networks; iteration k uses `fold_in(key, k)`.
    iteration: [] int32 fitting iterations done.
  """

  learner: LearnerState
  memory: Memory
  actor: replay.Actor
  targets: jax.Array
  key: PRNGKey
  iteration: jax.Array


def program_of(config: FittedQConfig) -> Program:
  """Returns the settings that are compiled into the program."""
  online = config.data == 'online'
  return Program(
    target=config.target,
    hard=config.temperature == 0 or config.target in ('policy', 'monte_carlo'),
    online=online,
    env_steps=config.env_steps if online else 0,
    batch_size=config.batch_size,
    optimizer=config.optimizer,
    reinitialize=config.reinitialize,
    penalty_weight=config.penalty_weight,
    hidden_units=config.hidden_units,
    activation=config.activation,
    initialization=config.initialization,
    rows=1 + config.iterations // config.log_every,
    # Minibatches drawn at once: single draws cost a third of the speed, and drawing all fixes T.
    block=math.gcd(config.steps, BLOCK),
  )


def make_optimizer(name: str, learning_rate: jax.Array) -> optax.GradientTransformation:
  """Returns the optimiser with the other constants of PyTorch, which Fu et al. (2019) use."""
  if name == 'adam':
    return optax.adam(learning_rate, eps=1e-8)
  if name == 'rmsprop':
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8)
  return optax.sgd(learning_rate)


def init_params(program: Program, observations: jax.Array, key: PRNGKey) -> Params:
  """Draws a network for observations [S, D]."""
  init = functools.partial(_network(program).init, key, observations[:1, None, :])
  if program.initialization == 'xavier':
    return init()
  # PyTorch's default: weights and biases of a layer uniform in ±1/√fan_in. A single draw for all.
  shapes = jax.eval_shape(init)['params']
  bounds = {
    name: jax.tree.map(lambda x, n=layer['kernel'].shape[0]: jnp.full(x.shape, n**-0.5), layer)
    for name, layer in shapes.items()
  }
  flat, unravel = jax.flatten_util.ravel_pytree({'params': bounds})
  return unravel(flat * jax.random.uniform(key, flat.shape, minval=-1.0, maxval=1.0))


def _network(program: Program) -> MLP:
  return MLP(NUM_ACTIONS, hidden_units=program.hidden_units, activation=program.activation)


def on_all_cells(program: Program, params: Params, problem: Problem) -> QOutputs:
  """Returns the network's outputs on every cell: Q-values [S, A], features [S, d]."""
  outputs = _network(program).apply(params, problem.observations[:, None, :])
  return cast(QOutputs, outputs)


def make_targets(
  program: Program, problem: Problem, memory: Memory, q_values: jax.Array
) -> jax.Array:
  """Computes y_k for every row of the data from the previous network's values on all cells.

  Args:
    program: determines the targets.
    problem: world and exact solutions.
    memory: the data.
    q_values: [S, A] of the previous iteration's network.

  Returns:
    [N] float32.
  """
  if program.target == 'monte_carlo':
    return memory.returns
  if program.target == 'optimal':
    return problem.q_optimal[memory.state, memory.action]
  if program.target == 'current_policy':
    policy = measures.policy_of(q_values, problem.temperature, program.hard)
    exact = exact_policy_q_values(problem, policy)
    return exact[memory.state, memory.action]
  if program.target == 'policy':
    next_values = jnp.sum(problem.behaviour * q_values, axis=1)  # [S]
  else:
    next_values = measures.state_values(q_values, problem.temperature, program.hard)  # [S]
  next_values = jnp.clip(next_values, problem.value_bounds[0], problem.value_bounds[1])
  return memory.reward + problem.discount * next_values[memory.next_state]


def exact_policy_q_values(problem: Problem, policy: jax.Array) -> jax.Array:
  """Returns [S, A] Q^π of `policy` [S, A], with the entropy bonus, by a float32 linear solve."""
  entropy = -jnp.sum(jax.scipy.special.xlogy(policy, policy), axis=1)  # [S]
  earned = jnp.sum(policy * problem.rewards, axis=1) + problem.temperature * entropy
  matrix = jnp.einsum('sa,sat->st', policy, problem.transitions)
  values = jnp.linalg.solve(jnp.eye(len(matrix)) - problem.discount * matrix, earned)
  return problem.rewards + problem.discount * problem.transitions @ values


def make_batch(problem: Problem, memory: Memory, targets: jax.Array, rows: jax.Array) -> Batch:
  """Looks up transitions `rows` [B]; `reward` holds their targets, which include future rewards."""
  state = problem.observations[memory.state[rows]][:, None, :]  # [B, 1, D]
  action = memory.action[rows]
  nothing = jnp.zeros(rows.shape, jnp.float32)
  return Batch(
    state=state,
    action=action,
    reward=targets[rows],
    next_state=state,
    next_action=action,
    discount=nothing,
    weight=nothing + 1.0,
  )


def make_iteration(program: Program, problem: Problem) -> Callable[[RunState], RunState]:
  """Builds one fitting iteration: act (online), compute targets, T gradient steps."""
  optimizer = make_optimizer(program.optimizer, problem.learning_rate)
  update = learner.make_update(
    functools.partial(fitted_loss, apply=_network(program).apply),
    optimizer,
    penalty=rank.lp_penalty,
    penalty_weight=program.penalty_weight,
    target_update_period=cast(int, problem.steps),  # Traced, so that another T does not recompile.
  )

  def iterate(state: RunState) -> RunState:
    act_key, network_key, batch_key = jax.random.split(
      jax.random.fold_in(state.key, state.iteration), 3
    )
    inner, memory, actor = state.learner, state.memory, state.actor
    # After T updates the learner's target network is the network of the last iteration.
    q_values = on_all_cells(program, inner.target_params, problem).q_values
    if program.online:
      policy = replay.acting_policy(q_values, problem, program.hard)
      memory, actor = replay.act(memory, actor, problem, policy, program.env_steps, act_key)
    targets = make_targets(program, problem, memory, q_values)
    if program.reinitialize:
      params = init_params(program, problem.observations, network_key)
      inner = inner._replace(params=params, optimizer_state=optimizer.init(params))
    present = jnp.minimum(memory.written, memory.capacity)

    def step(carry: LearnerState, rows: jax.Array) -> tuple[LearnerState, None]:
      return update(carry, make_batch(problem, memory, targets, rows))[0], None

    def block(index: jax.Array, carry: LearnerState) -> LearnerState:
      key = jax.random.fold_in(batch_key, index)
      rows = jax.random.randint(key, (program.block, program.batch_size), 0, present)
      return jax.lax.scan(step, carry, rows)[0]

    inner = jax.lax.fori_loop(0, problem.steps // program.block, block, inner)
    return RunState(inner, memory, actor, targets, state.key, state.iteration + 1)

  return iterate


def init_run(program: Program, problem: Problem, seed: jax.Array) -> RunState:
  """Returns the state before the first iteration."""
  network_key, learner_key, run_key = jax.random.split(jax.random.key(seed), 3)
  params = init_params(program, problem.observations, network_key)
  optimizer = make_optimizer(program.optimizer, problem.learning_rate)
  inner = LearnerState(
    params=params,
    target_params=params,
    optimizer_state=optimizer.init(params),
    key=learner_key,
    updates=jnp.zeros((), jnp.int32),
  )
  q_values = on_all_cells(program, params, problem).q_values
  return RunState(
    learner=inner,
    memory=problem.memory,
    actor=replay.Actor(problem.start, jnp.zeros((), jnp.int32)),
    targets=make_targets(program, problem, problem.memory, q_values),
    key=run_key,
    iteration=jnp.zeros((), jnp.int32),
  )


@functools.lru_cache(maxsize=64)
def compiled_run(program: Program) -> Callable[[Problem, jax.Array], dict[str, jax.Array]]:
  """Compiles a whole run: (problem, seed) -> measures by name, each [program.rows]."""

  def run(problem: Problem, seed: jax.Array) -> dict[str, jax.Array]:
    iterate = make_iteration(program, problem)

    def segment(state: RunState, length: jax.Array) -> tuple[RunState, dict[str, jax.Array]]:
      state = jax.lax.fori_loop(0, length, lambda _, s: iterate(s), state)
      key = jax.random.fold_in(jax.random.fold_in(state.key, 2**30), state.iteration)
      outputs = on_all_cells(program, state.learner.params, problem)
      row = measures.measure(problem, state.memory, outputs, state.targets, key, hard=program.hard)
      counters = {
        'iteration': state.iteration,
        'updates': state.learner.updates,
        'env_steps': state.memory.written if program.online else jnp.zeros((), jnp.int32),
      }
      return state, {**counters, **row}

    # The first segment has no iteration, so that the same program measures the start.
    lengths = jnp.full(program.rows, problem.log_every).at[0].set(0)
    return jax.lax.scan(segment, init_run(program, problem, seed), lengths)[1]

  return jax.jit(run)


def run(config: FittedQConfig, seed: int) -> dict[str, np.ndarray]:
  """Runs one experiment.

  Args:
    config: the experiment.
    seed: determines world (unless fixed), data, network and minibatches.

  Returns:
    Measures by name (see `measures.measure`), one entry for the start and one for every
    `log_every` iterations; spectra have a second axis.
  """
  compiled = compiled_run(program_of(config))
  rows = compiled(make_problem(config, seed), jnp.asarray(seed, jnp.uint32))
  return {name: np.asarray(value) for name, value in rows.items()}

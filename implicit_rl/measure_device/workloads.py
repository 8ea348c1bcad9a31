"""The measured workloads: learners of the two networks, random batches, and compiled loops."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl import networks, rank
from implicit_rl.agents import checks
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data import device_store
from implicit_rl.data.replay.device_replay import DeviceReplay
from implicit_rl.environments.minatar import MinAtarEnvironment
from implicit_rl.learner import Learner
from implicit_rl.running.compiled_online_loop import OnlineLoop
from implicit_rl.types import Batch, LearnerState


class Size(NamedTuple):
  """A network and its observations.

  Attributes:
    network: its class.
    frame: shape of one observation.
    dtype: of an observation.
    stack: S, number of observations in a state.
    actions: A.
    largest: exclusive upper bound of the numbers in an observation.
  """

  network: Any
  frame: tuple[int, ...]
  dtype: Any
  stack: int
  actions: int
  largest: int


SIZES = {
  'Atari': Size(networks.NatureCNN, (84, 84), np.uint8, 4, 18, 256),
  'MinAtar': Size(networks.MinAtarCNN, (10, 10, 4), np.uint8, 1, 6, 2),
}


@functools.cache
def agent(network: str) -> DQNAgent:
  """Creates a DQN agent without data, with the penalty off; `network` is a key of `SIZES`."""
  size = SIZES[network]
  make: Any = functools.partial(Learner, remedies={})
  return DQNAgent(
    size.actions,
    size.frame,
    size.dtype,
    size.stack,
    network=size.network,
    learner=make,
    diagnostics={},
  )


def learner(network: str, batch: int, **settings: Any) -> Learner:
  """Creates a new learner of `agent`, for batches of `batch` and with other settings."""
  made, size = agent(network), SIZES[network]
  shapes = checks.batch_shapes(np.zeros((size.stack, *size.frame), size.dtype), batch, ())
  context = dataclasses.replace(made.learner.context, batch=shapes)
  return Learner(context.loss, context=context, **{'remedies': {}, **settings})


def batches(size: Size, *lead: int) -> Batch:
  """Draws random host batches [*lead, ...]."""
  rng = np.random.default_rng(0)
  shape = (*lead, size.stack, *size.frame)
  frames = lambda: rng.integers(0, size.largest, shape, size.dtype)
  return Batch(
    state=frames(),
    action=rng.integers(0, size.actions, lead).astype(np.int32),
    reward=rng.normal(size=lead).astype(np.float32),
    next_state=frames(),
    next_action=np.zeros(lead, np.int32),
    discount=(rng.random(lead) > 0.01).astype(np.float32),
    weight=np.ones(lead, np.float32),
  )


def states(network: str, learner: Learner, seeds: int) -> LearnerState:
  """Returns the first states of `seeds` seeds; for one seed without the axis."""
  keys = jax.random.split(jax.random.PRNGKey(0), seeds)
  params = jax.tree.map(jnp.copy, _params(network, seeds))  # Updates reuse their arguments.
  if seeds == 1:
    return learner.init(jax.tree.map(lambda x: x[0], params), keys[0])
  return jax.vmap(learner.init)(params, keys)


@functools.cache
def _params(network: str, seeds: int) -> Any:
  keys = jax.random.split(jax.random.PRNGKey(1), seeds)
  return jax.jit(jax.vmap(agent(network).learner.context.init))(keys)


def store(size: Size, rows: int) -> device_store.DeviceRows:
  """Creates a device store of one stream of `rows` steps, in episodes of 100."""
  rng = np.random.default_rng(0)
  t = np.arange(rows)
  end = t % 100 == 99
  column = lambda values: jnp.asarray(values)[:, None]
  return device_store.DeviceRows(
    observation=column(rng.integers(0, size.largest, (rows, *size.frame), size.dtype)),
    action=column(rng.integers(0, size.actions, rows).astype(np.int32)),
    reward=column(rng.normal(size=rows).astype(np.float32)),
    terminal=column(end),
    episode_end=column(end),
    episode_start=column((t - t % 100).astype(np.int32)),
  )


def fetch(size: Size) -> Any:
  """Returns the pure function that gathers a batch at rows [B] of `store`."""

  def cut(rows: device_store.DeviceRows, t: jax.Array) -> Batch:
    return device_store.gather(
      rows, t, jnp.zeros_like(t), stack_size=size.stack, update_horizon=1, gamma=0.99
    )

  return cut


def complete_rows(size: Size, rows: int, *lead: int) -> np.ndarray:
  """Draws rows [*lead] int32 that start a complete transition of `store`."""
  starts = [t for t in range(rows - 1) if t % 100 < 99]
  return np.random.default_rng(1).choice(np.array(starts, np.int32), lead)


def online_loop(game: str, environments: int, updates_per_step: float, seed: int = 0) -> OnlineLoop:
  """Creates the compiled loop of DQN in a MinAtar game, as in its gin file except for sizes.

  Args:
    game: one of `minatar.GAMES`.
    environments: E, number of parallel environments.
    updates_per_step: n.
    seed: of the agent.
  """
  environment = MinAtarEnvironment(game, seed=seed)
  replay: Any = DeviceReplay  # Its base class is abstract only to the type checker.
  source = functools.partial(replay, capacity=8192, num_environments=environments)
  made = DQNAgent(
    environment.num_actions,
    environment.observation_shape,
    environment.observation_dtype,
    environment.stack_size,
    source=source,
    network=networks.MinAtarCNN,
    updates_per_step=updates_per_step,
    min_replay_history=2 * environments,
    diagnostics={},
    seed=seed,
  )
  return OnlineLoop(made, environment)


def penalties() -> Mapping[str, dict[str, Any]]:
  """Returns the learner's settings without the penalty, and with each solver of it."""
  chosen = {
    f'penalty by {name}': {
      'penalty': functools.partial(rank.lp_penalty, solver=name),
      'penalty_weight': 0.001,
    }
    for name in rank.SOLVERS
  }
  return {'no penalty': {}, **chosen}


@functools.cache
def operations(network: str, batch: int) -> float:
  """Returns XLA's count of floating-point operations of an update of DQN."""
  made = learner(network, batch)
  some = batches(SIZES[network], batch)
  counted: Any = jax.jit(made.pure_update).lower(states(network, made, 1), some).cost_analysis()
  return float(counted['flops'])


def counts(network: str) -> tuple[int, int]:
  """Returns the number of parameters, and of activations of one state."""
  made = agent(network)
  parameters = sum(x.size for x in jax.tree.leaves(made.state.params))
  state = batches(SIZES[network], 1).state
  outputs = jax.eval_shape(made.apply, made.state.params, state)
  return parameters, sum(x.size for x in jax.tree.leaves(outputs.layers))

"""Acting and learning in one compiled loop, for environments whose rules are pure functions.

E environments advance side by side. A turn is one step of each, then the gradient updates that are
due: after T environment steps exactly ⌊n·(T − min_replay_history)⌋ updates are done, as in an agent
that acts step by step. Only logged values leave the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization

from implicit_rl.agents import schedules
from implicit_rl.agents.base import Agent
from implicit_rl.data.replay import device_replay
from implicit_rl.learner import Update
from implicit_rl.logs.running_means import RunningMeans
from implicit_rl.types import LearnerState, PRNGKey

_TURNS_PER_CALL = 250  # with at most one update per turn and environment; fewer with more updates


class Games(NamedTuple):
  """State of the environments.

  Attributes:
    moments: E states of the game, a pytree.
    stacks: [E, S, *observation_shape], the last observations, oldest first.
    lengths: [E] int32, steps since the episode's start.
    returns: [E] float32, unclipped reward since the episode's start.
  """

  moments: Any
  stacks: jax.Array
  lengths: jax.Array
  returns: jax.Array


class Turns(NamedTuple):
  """Report of T turns; leading axes [T, E].

  Attributes:
    action: int32.
    reward: float32, as the agent gets it.
    terminal: bool, whether the game is over.
    episode_end: bool, whether the episode terminated or was truncated at the step limit.
    episode_length: int32, of the episode that ended here, otherwise 0.
    episode_return: float32, unclipped, of the episode that ended here, otherwise 0.
    observation: [T, E, *observation_shape], before acting; None unless they are to be logged.
  """

  action: jax.Array
  reward: jax.Array
  terminal: jax.Array
  episode_end: jax.Array
  episode_length: jax.Array
  episode_return: jax.Array
  observation: jax.Array | None


class LoopState(NamedTuple):
  """Everything that a call of the loop changes: a pytree, donated to the call.

  Attributes:
    learner: the agent's state.
    memory: the replay's content.
    games: the state of the environments.
  """

  learner: LearnerState
  memory: device_replay.Memory
  games: Games


class LoopKeys(NamedTuple):
  """Keys of a seed's randomness, besides the learner's own key.

  Attributes:
    act: PRNG key of the games and the exploration.
    draw: PRNG key of the updates' draws from the replay.
  """

  act: PRNGKey
  draw: PRNGKey


class LoopReport:
  """Report of a number of turns, by compiled call.

  Attributes:
    sums: the updates' metrics.
    parts: the turns of each call, as host arrays.
  """

  def __init__(self) -> None:
    self.sums = RunningMeans()
    self.parts: list[Turns] = []

  @property
  def count(self) -> int:
    """Number of turns done."""
    return sum(len(part.action) for part in self.parts)

  @property
  def turns(self) -> Turns:
    """All turns as one, with leading axes [T, E]; at least one turn is needed."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *self.parts)

  def add(self, turns: Turns, metrics: Mapping[str, Any], updates: int, first: int) -> None:
    """Adds the report of one compiled call.

    Args:
      turns: as arrays of the host or the device.
      metrics: sums over the call's updates.
      updates: number of updates in the call.
      first: number of updates before the call.

    Raises:
      NonFiniteError: if a metric is infinite or not a number.
    """
    if updates:
      self.sums.add(metrics, updates, first)
    self.parts.append(jax.tree.map(np.asarray, turns))

  def state_dict(self) -> dict[str, Any]:
    """Returns the whole report, for a checkpoint."""
    turns = self.turns._asdict() if self.parts else {}
    return {
      'sums': self.sums.state_dict(),
      'turns': {name: column for name, column in turns.items() if column is not None},
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    self.sums.load_state_dict(state['sums'])
    self.parts = [Turns(**{'observation': None, **state['turns']})] if state['turns'] else []


class OnlineLoop:
  """Runs an agent that holds a `DeviceReplay` in an environment that has pure `rules`.

  Args:
    agent: its state, replay and settings are used; its state and replay are replaced by `run`.
    environment: has `rules`, see `environments.Rules`.
    clip_rewards: whether the agent gets rewards clipped to [−1, 1].
    keep_observations: whether observations are reported too, for a log of the replay.

  Attributes:
    agent: as given.
    keys: the keys of this seed's randomness.
  """

  def __init__(
    self,
    agent: Agent,
    environment: Any,
    *,
    clip_rewards: bool = False,
    keep_observations: bool = False,
  ):
    replay = None if agent.source is None else agent.source.compiled_memory
    assert replay is not None
    self.agent, self._replay, self._rules = agent, replay, environment.rules
    self._limit = environment.max_steps_per_episode
    self._clip, self._keep = clip_rewards, keep_observations
    self.keys = LoopKeys(agent.training_key, replay.key)
    self._environments = replay.num_environments
    self._epsilon = optax.schedules.linear_schedule(
      1.0, agent.epsilon_train, agent.epsilon_decay_period, agent.min_replay_history
    )
    rate = schedules.update_rate(agent.updates_per_step)
    self._due = functools.partial(
      schedules.updates_due, rate, agent.min_replay_history, priming=agent.priming_updates
    )
    self._turns_per_call = max(_TURNS_PER_CALL // max(1, int(rate)), 1)
    self._games = self._first_games()
    self._play = jax.jit(self.turns, static_argnames='count', donate_argnames='state')

  @property
  def num_environments(self) -> int:
    """E, the number of parallel environments."""
    return self._environments

  @property
  def steps(self) -> int:
    """Number of environment steps done, of all environments together."""
    return self._replay.added * self._environments

  @property
  def state(self) -> LoopState:
    """The state of agent, replay and games; setting it replaces all three."""
    return LoopState(self.agent.state, self._replay.memory, self._games)

  @state.setter
  def state(self, state: LoopState) -> None:
    self.agent.state, self._replay.memory, self._games = state

  def check(self, steps: int) -> None:
    """Raises ValueError unless `steps` is a multiple of E and the first update has enough data."""
    least = self._environments * (self._replay.settings.update_horizon + 1)
    if self.agent.min_replay_history < least:
      raise ValueError(
        f'Agent.min_replay_history ({self.agent.min_replay_history}) must be at least {least}: '
        'update_horizon + 1 steps of each of the parallel environments.'
      )
    if steps < 1 or steps % self._environments:
      raise ValueError(
        f'OnlineRunner.training_steps ({steps}) must be a multiple of the {self._environments} '
        'parallel environments (DeviceReplay.num_environments).'
      )

  def run(
    self,
    steps: int,
    progress: Callable[[int], Any] = lambda done: None,
    report: LoopReport | None = None,
  ) -> LoopReport:
    """Plays and learns.

    Args:
      steps: environment steps, all environments together; a multiple of E.
      progress: called after every compiled call with the number of steps it did. If it raises,
        loop, agent and `report` have the state after that call.
      report: the report of an earlier call that was interrupted in these `steps`; None starts a new
        one.

    Returns:
      The report, of all `steps`.

    Raises:
      ValueError: if `steps` is not a multiple of E.
      NonFiniteError: if a metric is infinite or not a number.
    """
    report = LoopReport() if report is None else report
    for count in self.calls(steps, report.count):
      first = self.agent.updates
      self.state, turns, metrics = self._play(self.keys, self.state, count=count)
      report.add(turns, metrics, self.agent.updates - first, first)
      progress(count * self._environments)
    return report

  def calls(self, steps: int, done: int) -> Iterator[int]:
    """Divides the rest of `steps` after `done` turns into compiled calls; yields their turns.

    Raises:
      ValueError: if `steps` is not a multiple of E.
    """
    self.check(steps)
    turns = steps // self._environments
    size = schedules.chunk_size(turns, self._turns_per_call)
    for _, count in schedules.chunks(done, turns - done, size):
      yield count

  def state_dict(self) -> dict[str, Any]:
    """Returns the state of the games, as nested dicts of arrays."""
    return jax.tree.map(np.asarray, serialization.to_state_dict(jax.tree.leaves(self._games)))

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    leaves = jax.tree.leaves(self._games)
    restored = [jnp.asarray(state[str(i)]) for i in range(len(leaves))]
    self._games = jax.tree.unflatten(jax.tree.structure(self._games), restored)

  # --- pure -------------------------------------------------------------------------------------

  def _first_games(self) -> Games:
    key = jax.random.fold_in(self.keys.act, np.uint32(2**32 - 1))
    keys = jax.random.split(key, self._environments)
    moments = jax.jit(jax.vmap(self._rules.start))(keys)
    shape = (self._environments, self._replay.settings.stack_size, *self._replay.observation_shape)
    blank = jnp.zeros(shape, self._replay.observation_dtype)
    return Games(
      moments=moments,
      stacks=_push(blank, moments.observation),
      lengths=jnp.zeros(self._environments, jnp.int32),
      returns=jnp.zeros(self._environments, jnp.float32),
    )

  def turns(
    self, keys: LoopKeys, state: LoopState, *, count: int, update: Update | None = None
  ) -> tuple[LoopState, Turns, dict[str, jax.Array]]:
    """Plays `count` turns and learns. Pure.

    Args:
      keys: the keys of the randomness.
      state: the current state.
      count: turns.
      update: a pure gradient update; None is the agent's.

    Returns:
      The new state, the turns' report, and sums of the updates' metrics.
    """
    learn = functools.partial(self._learn, update or self.agent.learner.pure_update, keys.draw)

    def one_turn(carry, _):
      state, sums = carry
      before = state.memory.added * self._environments
      state, turn = self._act(keys.act, state)
      due = self._due(before + self._environments) - self._due(before)
      learner, memory, sums = jax.lax.fori_loop(
        0, due, lambda _, carry: learn(*carry), (state.learner, state.memory, sums)
      )
      return (LoopState(learner, memory, state.games), sums), turn

    _, _, shapes = jax.eval_shape(lambda: learn(state.learner, state.memory, None))
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (state, sums), turns = jax.lax.scan(one_turn, (state, sums), length=count)
    return state, turns, sums

  def _act(self, key: PRNGKey, state: LoopState) -> tuple[LoopState, Turns]:
    """Does one step of every environment and adds it to the memory; ended episodes restart."""
    learner, memory, games = state
    key = jax.random.fold_in(key, memory.added)
    act_key, step_key, start_key = jax.random.split(key, 3)
    epsilon = self._epsilon(memory.added * self._environments)
    action = self.agent.select_actions(learner.params, games.stacks, act_key, epsilon)
    moments, reward, terminal = jax.vmap(self._rules.advance)(
      games.moments, action, jax.random.split(step_key, self._environments)
    )
    lengths, returns = games.lengths + 1, games.returns + reward
    ended = terminal | (lengths >= self._limit)
    given = jnp.clip(reward, -1, 1) if self._clip else reward
    observation = games.stacks[:, -1]
    turn = Turns(
      action=action,
      reward=given,
      terminal=terminal,
      episode_end=ended,
      episode_length=jnp.where(ended, lengths, 0),
      episode_return=jnp.where(ended, returns, 0),
      observation=observation if self._keep else None,
    )
    memory = device_replay.add(memory, observation, action, given, terminal, ended)
    fresh = jax.vmap(self._rules.start)(jax.random.split(start_key, self._environments))
    moments = jax.tree.map(functools.partial(_where, ended), fresh, moments)
    stacks = _where(ended, jnp.zeros_like(games.stacks), games.stacks)
    games = Games(
      moments=moments,
      stacks=_push(stacks, moments.observation),
      lengths=jnp.where(ended, 0, lengths),
      returns=jnp.where(ended, 0, returns),
    )
    return LoopState(learner, memory, games), turn

  def _learn(
    self,
    update: Update,
    key: PRNGKey,
    learner: LearnerState,
    memory: device_replay.Memory,
    sums: Mapping[str, jax.Array] | None,
  ) -> tuple[LearnerState, device_replay.Memory, Mapping[str, jax.Array]]:
    """Does one gradient update; adds its metrics to `sums`, or returns them if `sums` is empty."""
    batch, drawn = device_replay.sample(
      memory,
      device_replay.update_key(key, learner.updates),
      self.agent.batch_size,
      self._replay.settings,
    )
    learner, info = update(learner, batch)
    memory = device_replay.set_priorities(memory, drawn, info.priority)
    metrics = info.metrics if sums is None else jax.tree.map(jnp.add, sums, dict(info.metrics))
    return learner, memory, metrics


def _push(stacks: jax.Array, observation: jax.Array) -> jax.Array:
  """Adds the newest observation [E, ...] to stacks [E, S, ...] and removes the oldest."""
  newest = observation[:, None].astype(stacks.dtype)
  return jnp.concatenate([stacks[:, 1:], newest], axis=1)


def _where(which: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
  """Returns new values [E, ...] where `which` [E] is true, otherwise old ones."""
  return jnp.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)

"""Environments with pure rules: stepped one by one, or evaluated in one program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.environments import (
  Progress,
  Rules,
  check_evaluation,
  no_progress,
  play_rounds,
)
from implicit_rl.types import Params, PRNGKey

Act = Callable[[Params, jax.Array, PRNGKey], jax.Array]


class CompiledEnvironment:
  """One game with Dopamine's interface, built from its rules; a subclass names the game.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    rules: pure `start` and `advance`, jitted. They are compared: equal ones share compiled code.
    name: the game.
    num_actions: size of the discrete action set, or length A of a continuous action.
    observation_shape: shape of one observation.
    observation_dtype: NumPy dtype of observations.
    seed: of every episode played through `reset` and `step`.
    num_environments: E, number of copies that `evaluate` plays at once.
    max_steps_per_episode: steps after which `truncated` is set.

  Raises:
    ValueError: if `num_environments` or `max_steps_per_episode` is below 1.
  """

  stack_size = 1

  def __init__(
    self,
    rules: Rules,
    name: str,
    num_actions: int,
    observation_shape: tuple[int, ...],
    observation_dtype: Any,
    *,
    seed: int,
    num_environments: int,
    max_steps_per_episode: int,
  ):
    for setting, value in (
      ('num_environments', num_environments),
      ('max_steps_per_episode', max_steps_per_episode),
    ):
      if value < 1:
        raise ValueError(f'{type(self).__name__}.{setting} must be at least 1, got {value}.')
    self.rules = rules
    self.name = name
    self.num_actions = int(num_actions)
    self.observation_shape: tuple[int, ...] = tuple(observation_shape)
    self.observation_dtype: Any = observation_dtype
    self.num_environments = num_environments
    self.max_steps_per_episode = int(max_steps_per_episode)
    self.game_over = False
    self.truncated = False
    self._steps = 0
    self._moment: Any = None
    self.seed(seed)

  def seed(self, seed: int) -> None:
    """Reseeds the game's randomness: the same episodes follow as in a new environment.

    Args:
      seed: 0 to 2³²−1.
    """
    self._key = jax.random.key(seed)

  def reset(self) -> np.ndarray:
    """Starts an episode. Returns its first observation."""
    self.game_over = self.truncated = False
    self._steps = 0
    self._key, key = jax.random.split(self._key)
    self._moment = self.rules.start(key)
    return np.asarray(self._moment.observation)

  def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one step.

    Args:
      action: 0 ≤ action < num_actions, or [A] float32 within [−1, 1].

    Returns:
      observation: [*observation_shape].
      reward: float.
      is_terminal: whether the game is over. A time limit is not the game's end: see `truncated`.
      info: holds 'truncated'.

    Raises:
      RuntimeError: if the episode is over or was never started.
    """
    if self._moment is None or self.game_over or self.truncated:
      raise RuntimeError(f'{self.name}: no episode is running, call reset() before step()')
    self._key, key = jax.random.split(self._key)
    given: Any = np.float32(action) if np.ndim(action) else np.int32(action)
    self._moment, reward, terminated = self.rules.advance(self._moment, given, key)
    self._steps += 1
    self.game_over = bool(terminated)
    self.truncated = not self.game_over and self._steps >= self.max_steps_per_episode
    observation = np.asarray(self._moment.observation)
    return observation, float(reward), self.game_over, {'truncated': self.truncated}

  def state_dict(self) -> dict[str, Any]:
    """Returns the state of the game within an episode."""
    leaves = jax.tree.leaves(self._moment)
    return {
      'moment': {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)},
      'key': np.asarray(jax.random.key_data(self._key)),
      'steps': self._steps,
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    like = jax.eval_shape(self.rules.start, self._key)
    leaves = [jnp.asarray(state['moment'][str(i)]) for i in range(len(state['moment']))]
    self._moment = jax.tree.unflatten(jax.tree.structure(like), leaves)
    self._key = jax.random.wrap_key_data(jnp.asarray(state['key']))
    self.game_over = self.truncated = False
    self._steps = int(state['steps'])

  def evaluate(
    self,
    act: Act,
    params: Params,
    key: PRNGKey,
    num_steps: int,
    max_steps_per_episode: int | None = None,
    progress: Progress = no_progress,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays whole episodes until at least `num_steps` environment steps were played.

    A round starts one episode in each of the E = num_environments copies and lasts until all have
    ended; rounds follow until the steps suffice. Every episode that started is counted, so short
    episodes are not favoured, as they would be if the first to finish were taken.

    Episode e of round r draws from `k = fold_in(fold_in(key, r), e)`: it starts with
    `fold_in(k, 0)` and takes step t = 1, 2, ... with `fold_in(k, t)`. `act` at step t gets
    `fold_in(fold_in(key, r), E + t)`.

    Args:
      act: (params, observations [E, 1, *observation_shape], key) -> actions [E]. Pure. Pass the
        same function object every time: it is compiled once for each.
      params: passed to `act`.
      key: PRNG key; the same key gives the same episodes.
      num_steps: minimum number of environment steps.
      max_steps_per_episode: truncates episodes there; None uses the environment's own limit.
      progress: called after each round with the steps in it. It may raise.

    Returns:
      returns: [n] float32, undiscounted, n a multiple of E.
      lengths: [n] int32, in environment steps.
    """
    limit = self.max_steps_per_episode if max_steps_per_episode is None else max_steps_per_episode
    check_evaluation(num_steps, limit)
    return play_rounds(
      lambda k: play_round(self.rules, act, self.num_environments, params, k, limit),
      key,
      num_steps,
      progress,
    )

  def evaluate_all(
    self,
    act: Act,
    params: Params,
    keys: PRNGKey,
    num_steps: int,
    max_steps_per_episode: int | None = None,
    progress: Progress = no_progress,
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Plays the evaluations of N policies as one program; see `evaluate`.

    Args:
      act: as in `evaluate`; shared.
      params: of each policy, leading axes [N].
      keys: of each policy, [N, ...].
      num_steps: minimum number of environment steps of each policy.
      max_steps_per_episode: as in `evaluate`.
      progress: called after each round with its number of steps, of all policies. It may raise an
        error to stop.

    Returns:
      For each policy the result of `evaluate` with its parameters and key.
    """
    limit = self.max_steps_per_episode if max_steps_per_episode is None else max_steps_per_episode
    check_evaluation(num_steps, limit)
    played: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(len(keys))]
    steps = np.zeros(len(keys), int)
    rounds = 0
    while (steps < num_steps).any():
      returns, lengths = map(
        np.asarray,
        play_rounds_of_all(
          self.rules, act, self.num_environments, params, keys, jnp.int32(rounds), limit
        ),
      )  # [N, E]
      for n in np.flatnonzero(steps < num_steps):  # The others have finished.
        played[n].append((returns[n], lengths[n]))
        steps[n] += lengths[n].sum()
      rounds += 1
      progress(int(lengths.sum()))
    return [
      (np.concatenate([r for r, _ in own]), np.concatenate([t for _, t in own])) for own in played
    ]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def play_rounds_of_all(
  rules: Rules,
  act: Act,
  copies: int,
  params: Params,
  keys: PRNGKey,
  number: jax.Array,
  limit: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Plays one round of each of N policies; see `play_round`. Returns [N, E] each."""
  one = lambda params, key: play_round(
    rules, act, copies, params, jax.random.fold_in(key, number), limit
  )
  return jax.vmap(one)(params, keys)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def play_round(
  rules: Rules, act: Act, copies: int, params: Params, key: PRNGKey, limit: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Plays one episode in each of E copies. Returns (returns [E] float32, lengths [E] int32)."""
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(copies))

  def one_step(carry):
    moments, returns, lengths, running, t = carry
    actions = act(
      params, moments.observation[:, None], jax.random.fold_in(key, copies + t)
    )  # [E], from one stack of one observation each
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t)
    moments, rewards, terminated = jax.vmap(rules.advance)(moments, actions, step_keys)
    # Copies that have ended are stepped too, since a batch moves as one, but do not count.
    returns = returns + jnp.where(running, rewards, 0)
    lengths = lengths + running
    running = running & ~terminated & (t < limit)
    return moments, returns, lengths, running, t + 1

  first = jax.vmap(lambda k: rules.start(jax.random.fold_in(k, 0)))(keys)
  carry = (
    first,
    jnp.zeros(copies, jnp.float32),
    jnp.zeros(copies, jnp.int32),
    jnp.ones(copies, bool),
    jnp.int32(1),
  )
  _, returns, lengths, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[3]), one_step, carry)
  return returns, lengths

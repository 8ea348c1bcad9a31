"""MinAtar on the accelerator: gymnax's games with Dopamine's interface, and a jitted evaluation.

Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement
Learning Experiments". gymnax ends no episode for us (its `step` resets by itself; here `step_env`
and `reset_env` are called), so an episode's return never holds rewards of the next one.

This module loads neither TensorFlow nor Dopamine.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gin
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.compat import lazy_imports
from implicit_rl.environments import (
  Progress,
  check_evaluation,
  check_game,
  no_progress,
  play_rounds,
)
from implicit_rl.types import Params, PRNGKey

# gymnax imports these, and with them pandas and SciPy's statistics, for pictures of its games.
with lazy_imports.put_off('matplotlib', 'matplotlib.colors', 'matplotlib.pyplot', 'seaborn'):
  import gymnax

GAMES = ('Asterix', 'Breakout', 'Freeway', 'Seaquest', 'SpaceInvaders')

Act = Callable[[Params, jax.Array, PRNGKey], jax.Array]


class Moment(NamedTuple):
  """A point within an episode.

  Attributes:
    state: gymnax's state, a pytree.
    observation: [10, 10, C] uint8, 0 or 1.
    action: [] int32, the action that was carried out last; 0, no operation, at the start.
  """

  state: Any
  observation: jax.Array
  action: jax.Array


@functools.cache
def _make(name: str) -> tuple[Any, Any]:
  """Returns gymnax's environment and its parameters, the same objects at every call."""
  return gymnax.make(f'{name}-MinAtar')


@dataclasses.dataclass(frozen=True)
class Rules:
  """A game's pure functions. Equal rules share compiled code, so a second environment starts fast.

  Attributes:
    name: one of `GAMES`.
    sticky_probability: chance that a step repeats the last action.
  """

  name: str
  sticky_probability: float

  @property
  def game(self) -> Any:
    """Gymnax's environment."""
    return _make(self.name)[0]

  @property
  def parameters(self) -> Any:
    """Gymnax's settings of the game."""
    return _make(self.name)[1]

  @functools.partial(jax.jit, static_argnums=0)
  def start(self, key: PRNGKey) -> Moment:
    """Returns the first moment of an episode. Pure."""
    observation, state = self.game.reset_env(key, self.parameters)
    return Moment(state, observation.astype(jnp.uint8), jnp.int32(0))

  @functools.partial(jax.jit, static_argnums=0)
  def advance(
    self, moment: Moment, action: jax.Array, key: PRNGKey
  ) -> tuple[Moment, jax.Array, jax.Array]:
    """Takes one step. Pure; it neither resets nor looks at the step limit.

    Args:
      moment: where the episode stands.
      action: [] int32, 0 ≤ action < num_actions.
      key: PRNG key of this step.

    Returns:
      The next moment, the reward [] float32, and whether the game is over [] bool.
    """
    sticky_key, game_key = jax.random.split(key)
    sticks = jax.random.bernoulli(sticky_key, self.sticky_probability)
    action = jnp.where(sticks, moment.action, jnp.asarray(action, jnp.int32))
    observation, state, reward, terminated, _ = self.game.step_env(
      game_key, moment.state, action, self.parameters
    )
    return Moment(state, observation.astype(jnp.uint8), action), reward, terminated

  @functools.partial(jax.jit, static_argnums=(0, 1, 2))
  def play_round(
    self, act: Act, copies: int, params: Params, key: PRNGKey, limit: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Plays one episode in each of E copies. Returns (returns [E] float32, lengths [E] int32)."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(copies))

    def one_step(carry):
      moments, returns, lengths, running, t = carry
      actions = act(
        params, moments.observation[:, None], jax.random.fold_in(key, copies + t)
      )  # [E], from one stack of one observation each
      step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t)
      moments, rewards, terminated = jax.vmap(self.advance)(moments, actions, step_keys)
      # Copies that have ended are stepped on, since a batch moves as one, but count no longer.
      returns = returns + jnp.where(running, rewards, 0)
      lengths = lengths + running
      running = running & ~terminated & (t < limit)
      return moments, returns, lengths, running, t + 1

    first = jax.vmap(lambda k: self.start(jax.random.fold_in(k, 0)))(keys)
    carry = (
      first,
      jnp.zeros(copies, jnp.float32),
      jnp.zeros(copies, jnp.int32),
      jnp.ones(copies, bool),
      jnp.int32(1),
    )
    _, returns, lengths, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[3]), one_step, carry)
    return returns, lengths


@gin.configurable(denylist=['seed'])
class MinAtarEnvironment:
  """One MinAtar game with Dopamine's interface; `evaluate` plays many copies at once.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    game: one of `GAMES`.
    seed: of every episode played through `reset` and `step`.
    sticky_probability: chance that a step repeats the last action instead of the one given; 0.1 in
      the MinAtar paper. Without it Breakout has two possible courses for a fixed policy.
    num_environments: copies that `evaluate` plays at once.
    max_steps_per_episode: steps after which `truncated` is set. None means gymnax's limit, 2500 in
      Freeway and 1000 in the others.

  Raises:
    ValueError: for an unknown game or a setting out of range.
  """

  observation_dtype: Any = np.uint8
  stack_size = 1
  dataset = 'minatar_checkpoints_ordered'

  def __init__(
    self,
    game: str = 'Breakout',
    seed: int = 0,
    sticky_probability: float = 0.1,
    num_environments: int = 32,
    max_steps_per_episode: int | None = None,
  ):
    check_game(game, GAMES, 'MinAtar')
    if not 0 <= sticky_probability < 1:
      raise ValueError(f'sticky_probability must lie in [0, 1), got {sticky_probability}')
    if num_environments < 1:
      raise ValueError(f'num_environments must be at least 1, got {num_environments}')
    self.rules = Rules(game, float(sticky_probability))
    self.name = game
    self.observation_shape: tuple[int, ...] = tuple(self.rules.game.obs_shape)
    self.num_actions = int(self.rules.game.num_actions)
    if max_steps_per_episode is None:
      max_steps_per_episode = self.rules.parameters.max_steps_in_episode
    self.max_steps_per_episode = int(max_steps_per_episode)
    self.num_environments = num_environments
    self.action_space: Any = gymnasium.spaces.Discrete(self.num_actions)
    self.observation_space = gymnasium.spaces.Box(0, 1, self.observation_shape, np.uint8)
    self.game_over = False
    self.truncated = False
    self._steps = 0
    self._moment: Moment | None = None
    self.seed(seed)

  def seed(self, seed: int) -> None:
    """Starts the game's randomness afresh: the same episodes follow as in a new environment.

    Args:
      seed: 0 to 2³²−1.
    """
    self._key = jax.random.key(seed)

  def reset(self) -> np.ndarray:
    """Starts an episode. Returns its first observation, [10, 10, C] uint8."""
    self.game_over = self.truncated = False
    self._steps = 0
    self._key, key = jax.random.split(self._key)
    self._moment = self.rules.start(key)
    return np.asarray(self._moment.observation)

  def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one step.

    Args:
      action: 0 ≤ action < num_actions.

    Returns:
      observation: [10, 10, C] uint8.
      reward: float.
      is_terminal: the game is over. A time limit is not the game's end: see `truncated`.
      info: holds 'truncated'.

    Raises:
      RuntimeError: if the episode is over or was never started.
    """
    if self._moment is None or self.game_over or self.truncated:
      raise RuntimeError(f'{self.name}: no episode is running, call reset() before step()')
    self._key, key = jax.random.split(self._key)
    self._moment, reward, terminated = self.rules.advance(self._moment, np.int32(action), key)
    self._steps += 1
    self.game_over = bool(terminated)
    self.truncated = not self.game_over and self._steps >= self.max_steps_per_episode
    observation = np.asarray(self._moment.observation)
    return observation, float(reward), self.game_over, {'truncated': self.truncated}

  def state_dict(self) -> dict[str, Any]:
    """Where the game stands within an episode."""
    leaves = jax.tree.leaves(self._moment)
    return {
      'moment': {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)},
      'key': np.asarray(jax.random.key_data(self._key)),
      'steps': self._steps,
    }

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Goes on from what `state_dict` returned for the same game, as if nothing had happened."""
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
    ended; rounds follow until the steps suffice. Every episode that was begun is counted, so short
    episodes are not favoured, as they would be if the first to finish were taken.

    Episode e of round r draws from `k = fold_in(fold_in(key, r), e)`: it starts with
    `fold_in(k, 0)` and takes step t = 1, 2, ... with `fold_in(k, t)`. `act` at step t gets
    `fold_in(fold_in(key, r), E + t)`.

    Args:
      act: (params, observations [E, 1, 10, 10, C] uint8, key) -> actions [E] int32. Pure. Pass the
        same function object every time: it is compiled once for each.
      params: handed to `act`.
      key: PRNG key; the same key gives the same episodes.
      num_steps: environment steps to play at the least.
      max_steps_per_episode: cuts episodes off there; None means the environment's own.
      progress: called after each round with the steps in it. It may raise.

    Returns:
      returns: [n] float32, undiscounted, n a multiple of E.
      lengths: [n] int32, in environment steps.
    """
    limit = self.max_steps_per_episode if max_steps_per_episode is None else max_steps_per_episode
    check_evaluation(num_steps, limit)
    return play_rounds(
      lambda k: self.rules.play_round(act, self.num_environments, params, k, limit),
      key,
      num_steps,
      progress,
    )

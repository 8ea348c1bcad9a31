"""MinAtar on the accelerator: gymnax's games with sticky actions and Dopamine's interface.

Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement
Learning Experiments".

This module loads neither TensorFlow nor Dopamine.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import gin
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.environments import check_game
from implicit_rl.environments.compiled import CompiledEnvironment
from implicit_rl.environments.gymnax import make_game
from implicit_rl.types import PRNGKey

GAMES = ('Asterix', 'Breakout', 'Freeway', 'Seaquest', 'SpaceInvaders')


class Moment(NamedTuple):
  """The state at one point of an episode.

  Attributes:
    state: gymnax's state, a pytree.
    observation: [10, 10, C] uint8, 0 or 1.
    action: [] int32, the last executed action; 0, no operation, at the start.
  """

  state: Any
  observation: jax.Array
  action: jax.Array


@dataclasses.dataclass(frozen=True)
class Rules:
  """A game's pure functions. Equal rules share compiled code, so a second environment starts fast.

  Attributes:
    name: one of `GAMES`.
    sticky_probability: probability that a step repeats the last action.
  """

  name: str
  sticky_probability: float

  @property
  def game(self) -> Any:
    """Gymnax's environment."""
    return make_game(f'{self.name}-MinAtar')[0]

  @property
  def parameters(self) -> Any:
    """Gymnax's settings of the game."""
    return make_game(f'{self.name}-MinAtar')[1]

  @functools.partial(jax.jit, static_argnums=0)
  def start(self, key: PRNGKey) -> Moment:
    """Returns the first moment of an episode. Pure."""
    observation, state = self.game.reset_env(key, self.parameters)
    return Moment(state, observation.astype(jnp.uint8), jnp.int32(0))

  @functools.partial(jax.jit, static_argnums=0)
  def advance(
    self, moment: Moment, action: jax.Array, key: PRNGKey
  ) -> tuple[Moment, jax.Array, jax.Array]:
    """Takes one step. Pure; it neither resets nor checks the step limit.

    Args:
      moment: the state of the episode.
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


@gin.configurable(denylist=['seed'])
class MinAtarEnvironment(CompiledEnvironment):
  """One MinAtar game with Dopamine's interface; `evaluate` plays many copies at once.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    game: one of `GAMES`.
    seed: of every episode played through `reset` and `step`.
    sticky_probability: probability that a step repeats the last action instead of the given one;
      0.1 in the MinAtar paper. With 0, Breakout has only two possible episodes for a fixed policy.
    num_environments: copies that `evaluate` plays at once.
    max_steps_per_episode: steps after which `truncated` is set. None means gymnax's limit, 2500 in
      Freeway and 1000 in the others.

  Raises:
    ValueError: for an unknown game or a setting out of range.
  """

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
    rules = Rules(game, float(sticky_probability))
    if max_steps_per_episode is None:
      max_steps_per_episode = rules.parameters.max_steps_in_episode
    super().__init__(
      rules,
      game,
      rules.game.num_actions,
      rules.game.obs_shape,
      np.uint8,
      seed=seed,
      num_environments=num_environments,
      max_steps_per_episode=max_steps_per_episode,
    )
    self.action_space: Any = gymnasium.spaces.Discrete(self.num_actions)
    self.observation_space = gymnasium.spaces.Box(0, 1, self.observation_shape, np.uint8)

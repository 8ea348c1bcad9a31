"""Several MinAtar games in sequence, for continual learning, with equal observation shapes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.compat.settings import check_number
from implicit_rl.environments import check_game, minatar
from implicit_rl.environments.compiled import CompiledEnvironment
from implicit_rl.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class PaddedRules:
  """A game's rules with additional empty channels; surplus actions do nothing.

  Attributes:
    rules: of the game.
    channels: of an observation; those beyond the game's own are 0.
  """

  rules: minatar.Rules
  channels: int

  @functools.partial(jax.jit, static_argnums=0)
  def start(self, key: PRNGKey) -> minatar.Moment:
    """Returns the first moment of an episode. Pure."""
    return self._padded(self.rules.start(key))

  @functools.partial(jax.jit, static_argnums=0)
  def advance(
    self, moment: minatar.Moment, action: jax.Array, key: PRNGKey
  ) -> tuple[minatar.Moment, jax.Array, jax.Array]:
    """Takes one step, as in the game's own rules. Pure."""
    action = jnp.where(action < self.rules.game.num_actions, action, 0)
    following, reward, terminated = self.rules.advance(moment, action, key)
    return self._padded(following), reward, terminated

  def _padded(self, moment: minatar.Moment) -> minatar.Moment:
    blank = self.channels - moment.observation.shape[-1]
    return moment._replace(observation=jnp.pad(moment.observation, ((0, 0), (0, 0), (0, blank))))


@gin.configurable(denylist=['seed'])
class MinAtarSequence:
  """Plays MinAtar games in sequence; each change is at the first episode after `steps_per_game`.

  Observations have the channels of the game with most channels, and there are the actions of the
  game with most actions. `evaluate` plays the current game, so an evaluation at the end of an
  iteration of `steps_per_game` steps measures the game that was just learnt.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    games: of `minatar.GAMES`, in order; after the last one the first follows.
    seed: of every episode.
    steps_per_game: environment steps of a game before the next one.
    sticky_probability: as in `MinAtarEnvironment`.
    num_environments: copies that `evaluate` plays at once.

  Raises:
    ValueError: for no game, an unknown one, or a setting out of range.
  """

  observation_dtype: Any = np.uint8
  stack_size = 1

  def __init__(
    self,
    games: Sequence[str] = ('Breakout', 'Asterix', 'SpaceInvaders'),
    seed: int = 0,
    steps_per_game: int = 50_000,
    sticky_probability: float = 0.1,
    num_environments: int = 32,
  ):
    if not games:
      raise ValueError('MinAtarSequence.games must name at least one game.')
    check_number('MinAtarSequence.steps_per_game', steps_per_game, least=1, whole=True)
    for game in games:
      check_game(game, minatar.GAMES, 'MinAtar')
    rules = [minatar.Rules(game, float(sticky_probability)) for game in games]
    channels = max(one.game.obs_shape[-1] for one in rules)
    self.observation_shape = (*rules[0].game.obs_shape[:-1], channels)
    self.num_actions = max(int(one.game.num_actions) for one in rules)
    self._games = [
      CompiledEnvironment(
        PaddedRules(one, channels),
        one.name,
        self.num_actions,
        self.observation_shape,
        np.uint8,
        seed=seed,
        num_environments=num_environments,
        max_steps_per_episode=one.parameters.max_steps_in_episode,
      )
      for one in rules
    ]
    self.name = '+'.join(games)
    self.max_steps_per_episode = max(one.max_steps_per_episode for one in self._games)
    self._steps_per_game, self._place, self._steps = steps_per_game, 0, 0

  @property
  def game(self) -> CompiledEnvironment:
    """The current game."""
    return self._games[self._place]

  @property
  def game_over(self) -> bool:
    """Whether the last step ended the game."""
    return self.game.game_over

  @property
  def truncated(self) -> bool:
    """Whether the last step reached the game's own limit."""
    return self.game.truncated

  def seed(self, seed: int) -> None:
    """Reseeds the randomness of all games; the current game stays."""
    for game in self._games:
      game.seed(seed)

  def reset(self) -> np.ndarray:
    """Starts an episode, of the next game after `steps_per_game` steps."""
    if self._steps >= self._steps_per_game:
      self._place, self._steps = (self._place + 1) % len(self._games), 0
    return self.game.reset()

  def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one step of the current game; see `CompiledEnvironment.step`."""
    self._steps += 1
    return self.game.step(action)

  def evaluate(self, *args: Any) -> tuple[np.ndarray, np.ndarray]:
    """Plays the current game; see `CompiledEnvironment.evaluate`."""
    return self.game.evaluate(*args)

  def state_dict(self) -> dict[str, Any]:
    """Returns the current game and its state within an episode."""
    return {'place': self._place, 'played': self._steps, **self.game.state_dict()}

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    self._place, self._steps = int(state['place']), int(state['played'])
    self.game.load_state_dict(state)

"""Any environment of gymnax, with Dopamine's interface and rules for the compiled loop.

gymnax (Lange, 2022) has classic control, bsuite and MinAtar as JAX functions. Its `step` resets an
environment automatically. Here `step_env` and `reset_env` are called instead, so that an episode's
return has no rewards of the next one, and a time limit truncates an episode without ending the
game.

This module loads neither TensorFlow nor Dopamine.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.compat import lazy_imports
from implicit_rl.environments import check_game
from implicit_rl.environments.compiled import CompiledEnvironment
from implicit_rl.types import PRNGKey

# gymnax imports these, with pandas and SciPy's statistics, for pictures of its games.
with lazy_imports.put_off('matplotlib', 'matplotlib.colors', 'matplotlib.pyplot', 'seaborn'):
  import gymnax

Items = tuple[tuple[str, Hashable], ...]


class Moment(NamedTuple):
  """The state at one point of an episode.

  Attributes:
    state: gymnax's state, a pytree.
    observation: [*observation_shape], as the agent sees it.
  """

  state: Any
  observation: jax.Array


def names() -> list[str]:
  """Returns the ids of all environments that are registered with gymnax."""
  return list(gymnax.registered_envs)


@functools.cache
def make_game(name: str, arguments: Items = ()) -> tuple[Any, Any]:
  """Returns gymnax's environment and its parameters, the same objects at every call."""
  return gymnax.make(name, **dict(arguments))


@dataclasses.dataclass(frozen=True)
class Rules:
  """An environment's pure functions. Equal rules share compiled code.

  Attributes:
    name: gymnax's id.
    arguments: of the environment's constructor.
    changes: fields of gymnax's parameters that differ from the defaults.
    image: whether observations are uint8 and keep their shape; otherwise they are float32 vectors.
  """

  name: str
  arguments: Items = ()
  changes: Items = ()
  image: bool = False

  @property
  def game(self) -> Any:
    """Gymnax's environment."""
    return make_game(self.name, self.arguments)[0]

  @property
  def parameters(self) -> Any:
    """Gymnax's parameters of the environment."""
    return make_game(self.name, self.arguments)[1].replace(**dict(self.changes))

  @functools.partial(jax.jit, static_argnums=0)
  def start(self, key: PRNGKey) -> Moment:
    """Returns the first moment of an episode. Pure."""
    observation, state = self.game.reset_env(key, self.parameters)
    # Some games start with weakly typed numbers, but a loop needs the types that a step returns.
    state = jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, self._stepped(state))
    return Moment(state, self._shown(observation))

  @functools.partial(jax.jit, static_argnums=0)
  def advance(
    self, moment: Moment, action: jax.Array, key: PRNGKey
  ) -> tuple[Moment, jax.Array, jax.Array]:
    """Takes one step. Pure; it neither resets nor checks the step limit.

    Args:
      moment: the state of the episode.
      action: [] int32, 0 ≤ action < num_actions; or [A] float32 within [−1, 1], scaled to the
        environment's bounds.
      key: PRNG key of this step.

    Returns:
      The next moment, the reward [] float32, and whether the game is over [] bool.
    """
    parameters = self.parameters
    space = self.game.action_space(parameters)
    if not _is_discrete(space):
      action = space.low + (jnp.asarray(action) + 1) / 2 * (space.high - space.low)
    observation, state, reward, terminated, _ = self.game.step_env(
      key, moment.state, action, parameters
    )
    return Moment(state, self._shown(observation)), jnp.float32(reward), terminated

  def _stepped(self, state: Any) -> Any:
    """Shapes and dtypes of gymnax's state after a step."""
    space = self.game.action_space(self.parameters)
    action = jnp.int32(0) if _is_discrete(space) else jnp.zeros(space.shape)
    step = functools.partial(self.game.step_env, params=self.parameters)
    return jax.eval_shape(step, jax.random.key(0), state, action)[1]

  def _shown(self, observation: jax.Array) -> jax.Array:
    """Returns the observation as the agent sees it."""
    if self.image:
      return jnp.asarray(observation, jnp.uint8)
    space = self.game.observation_space(self.parameters)
    if _is_discrete(space):
      return jax.nn.one_hot(observation, space.n)
    return jnp.asarray(observation, jnp.float32).reshape(-1)


@gin.configurable(denylist=['seed'])
class GymnaxEnvironment(CompiledEnvironment):
  """One environment of gymnax; `evaluate` plays many copies at once.

  Agents see a float32 vector: arrays are flattened, discrete states become one-hot vectors.
  Continuous actions lie in [−1, 1] and are scaled to the environment's bounds; a compiled loop
  (`DeviceReplay`) takes discrete actions only.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    name: gymnax's id, such as 'CartPole-v1' or 'Catch-bsuite'; also one that was registered with
      `gymnax.register`.
    seed: of every episode played through `reset` and `step`.
    arguments: of the environment's constructor, such as {'size': 10} for DeepSea.
    parameters: fields of gymnax's parameters to change, such as {'gravity': 5.0} for CartPole.
    image: keep arrays of two or three dimensions, as uint8, for convolutional networks.
    num_environments: copies that `evaluate` plays at once.
    max_steps_per_episode: steps after which `truncated` is set. None means gymnax's limit.

  Raises:
    ValueError: for an unknown environment or setting, or a value out of range.
  """

  dataset = 'gymnax'

  def __init__(
    self,
    name: str = 'CartPole-v1',
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    image: bool = False,
    num_environments: int = 32,
    max_steps_per_episode: int | None = None,
  ):
    check_game(name, names(), 'gymnax')
    rules = Rules(name, _items('arguments', arguments), _items('parameters', parameters), image)
    try:
      make_game(name, rules.arguments)
    except TypeError as error:
      raise ValueError(f'GymnaxEnvironment.arguments of {name}: {error}.') from error
    fields = [field.name for field in dataclasses.fields(make_game(name, rules.arguments)[1])]
    if unknown := [field for field in parameters or () if field not in fields]:
      raise ValueError(
        f'GymnaxEnvironment.parameters: {name} has no {", ".join(unknown)}; it has '
        f'{", ".join(fields)}.'
      )
    settings = rules.parameters
    space = rules.game.action_space(settings)
    self.action_shape = () if _is_discrete(space) else tuple(space.shape)
    if max_steps_per_episode is None:
      max_steps_per_episode = int(settings.max_steps_in_episode)
    if image:
      _check_image(rules)
    seen = jax.eval_shape(rules.start, jax.random.key(0)).observation
    super().__init__(
      rules,
      name,
      space.n if _is_discrete(space) else self.action_shape[0],
      seen.shape,
      np.dtype(seen.dtype),
      seed=seed,
      num_environments=num_environments,
      max_steps_per_episode=max_steps_per_episode,
    )
    self._drawn: Any = None  # Created when a picture is requested.
    if name == 'CartPole-v1':
      self.render = self._draw_cart_pole

  def _draw_cart_pole(self) -> np.ndarray:
    """Returns gymnasium's picture of the same state, [H, W, 3] uint8."""
    if self._drawn is None:
      import gymnasium

      self._drawn = gymnasium.make('CartPole-v1', render_mode='rgb_array').unwrapped
      self._drawn.reset(seed=0)
    self._drawn.state = np.asarray(self._moment.observation)
    return self._drawn.render()


def _is_discrete(space: Any) -> bool:
  return type(space).__name__ == 'Discrete'


def _items(setting: str, values: Mapping[str, Any] | None) -> Items:
  """Converts a setting's values to a form that can be compared and hashed.

  Raises:
    ValueError: for a value that can't be converted.
  """
  found = tuple(sorted((values or {}).items()))
  try:
    hash(found)
  except TypeError as error:
    raise ValueError(
      f'GymnaxEnvironment.{setting} must hold numbers, strings or tuples, got {values!r}.'
    ) from error
  return found


def _check_image(rules: Rules) -> None:
  """Raises ValueError unless a first observation is an image of whole numbers from 0 to 255."""
  seen = np.asarray(rules.game.reset_env(jax.random.key(0), rules.parameters)[0])
  if seen.ndim not in (2, 3) or not np.isin(seen, np.arange(256)).all():
    raise ValueError(
      f'GymnaxEnvironment.image: observations of {rules.name} have the shape {seen.shape} and are '
      'not images of whole numbers from 0 to 255. Bind GymnaxEnvironment.image = False.'
    )

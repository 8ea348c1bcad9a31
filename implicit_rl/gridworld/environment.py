"""The gridworld as an environment for any value-based agent, also in a compiled loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import gin
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.gridworld import mdp
from implicit_rl.types import PRNGKey


class Moment(NamedTuple):
  """The state at one point of an episode.

  Attributes:
    cell: [] int32.
    observation: [D] float32, the cell's observation.
  """

  cell: jax.Array
  observation: jax.Array


class Rules:
  """A world's pure functions; see `environments.Rules`.

  Args:
    world: the world.
  """

  def __init__(self, world: mdp.Gridworld):
    self._start = jnp.int32(world.start)
    self._noise = world.action_noise
    self._successors = jnp.asarray(world.successors, jnp.int32)  # [S, A]
    self._rewards = jnp.asarray(world.rewards, jnp.float32)  # [S, A]
    self._observations = jnp.asarray(world.observations, jnp.float32)  # [S, D]

  def start(self, key: PRNGKey) -> Moment:
    """Returns the first moment, always in the same cell."""
    del key
    return Moment(self._start, self._observations[self._start])

  def advance(
    self, moment: Moment, action: jax.Array, key: PRNGKey
  ) -> tuple[Moment, jax.Array, jax.Array]:
    """Takes one step; a random action may replace `action`. No episode terminates."""
    replace_key, action_key = jax.random.split(key)
    replaced = jax.random.bernoulli(replace_key, self._noise)
    other = jax.random.randint(action_key, (), 0, mdp.NUM_ACTIONS)
    cell = self._successors[moment.cell, jnp.where(replaced, other, action)]
    reward = self._rewards[moment.cell, action]
    return Moment(cell, self._observations[cell]), reward, jnp.bool_(False)


@gin.configurable(denylist=['seed'])
class GridworldEnvironment:
  """One gridworld of Appendix B.2 with Dopamine's interface, on the host or in a compiled loop.

  Attributes are `environments.Environment`'s and `Capabilities`'.

  Args:
    seed: of every episode played through `reset` and `step`; it does not change the world.
    world_seed: determines walls, goal and observation vectors.
    reward: as in `mdp.make_gridworld`.
    observation: as above.
    action_noise: as above.
    max_steps_per_episode: environment steps after which an episode is truncated.

  Raises:
    ValueError: for a setting out of range.
  """

  num_actions = mdp.NUM_ACTIONS
  observation_dtype: Any = np.float32
  stack_size = 1
  dataset = 'gridworld'
  game_over = False  # Only the time limit ends an episode.
  action_space: Any = gymnasium.spaces.Discrete(mdp.NUM_ACTIONS)

  def __init__(
    self,
    seed: int = 0,
    world_seed: int = 0,
    reward: str = 'distance',
    observation: str = 'smooth',
    action_noise: float = 0.05,
    max_steps_per_episode: int = 50,
  ):
    self.world = mdp.make_gridworld(
      world_seed,
      reward=reward,
      observation=observation,
      action_noise=action_noise,
      horizon=max_steps_per_episode,
    )
    self.name = f'Gridworld{world_seed}'
    self.rules = Rules(self.world)
    self.observation_shape = self.world.observations.shape[1:]
    self.max_steps_per_episode = max_steps_per_episode
    self.truncated = False
    self._advance = jax.jit(self.rules.advance)
    self.seed(seed)
    self.reset()

  def seed(self, seed: int) -> None:
    """Reseeds the randomness of the episodes; the world does not change.

    Args:
      seed: 0 to 2³²−1.
    """
    self._key = jax.random.key(seed)

  def reset(self) -> np.ndarray:
    """Starts an episode. Returns its first observation, [D] float32."""
    self.truncated, self._steps = False, 0
    self._moment = self.rules.start(self._key)
    return np.asarray(self._moment.observation)

  def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one step.

    Args:
      action: 0 ≤ action < 5: stay, left, right, up, down.

    Returns:
      The observation [D] float32, the reward, False, and no info.
    """
    self._key, key = jax.random.split(self._key)
    self._moment, reward, _ = self._advance(self._moment, np.int32(action), key)
    self._steps += 1
    self.truncated = self._steps >= self.max_steps_per_episode
    return np.asarray(self._moment.observation), float(reward), False, {}

  def state_dict(self) -> dict[str, Any]:
    """Returns the state of the episode."""
    return {
      'cell': np.asarray(self._moment.cell),
      'key': np.asarray(jax.random.key_data(self._key)),
      'steps': self._steps,
    }

  def load_state_dict(self, state: dict[str, Any]) -> None:
    """Restores what `state_dict` returned."""
    cell = jnp.asarray(state['cell'])
    self._moment = Moment(cell, jnp.asarray(self.world.observations, jnp.float32)[cell])
    self._key = jax.random.wrap_key_data(jnp.asarray(state['key']))
    self._steps, self.truncated = int(state['steps']), False

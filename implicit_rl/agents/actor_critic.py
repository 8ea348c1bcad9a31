"""Base of agents with continuous actions: a policy network that acts, and critics."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from implicit_rl import optimizers  # noqa: F401 (gin finds actor_critic_adam)
from implicit_rl.agents.base import Agent
from implicit_rl.losses import tanh_gaussian
from implicit_rl.types import Array, Params, PRNGKey


class ActorCriticAgent(Agent):
  """An agent with a policy over actions in [−1, 1]^A; a subclass defines its loss.

  `num_actions` is A, `Agent.network` an `ActorCritic` or a module with its methods. Until
  `Agent.min_replay_history` environment steps it acts uniformly at random, then it samples from its
  policy. In evaluation it takes the policy's mean action, tanh(μ). The ε settings of `Agent` have
  no effect.
  """

  @property
  def action_shape(self) -> tuple[int, ...]:
    """(A,): actions are continuous."""
    return (self.num_actions,)

  @property
  def epsilon(self) -> float:
    """1 while the agent acts at random, afterwards 0."""
    return float(not self.eval_mode and self._steps < self.min_replay_history)

  def select_actions(
    self, params: Params, states: Array, key: PRNGKey, epsilon: float | jax.Array
  ) -> jax.Array:
    """Returns actions [E, A] for states [E, S, D]: uniform with probability ε, else by policy."""
    explore_key, uniform_key, noise_key = jax.random.split(key, 3)
    shape = (len(states), self.num_actions)
    action, _ = tanh_gaussian.sample(
      self.apply(params, states, method='actor'), jax.random.normal(noise_key, shape)
    )
    uniform = jax.random.uniform(uniform_key, shape, minval=-1.0)
    explore = jax.random.uniform(explore_key, (len(states), 1)) < epsilon
    return jnp.where(explore, uniform, action)

  def make_policy(self) -> Callable[[Params, Array, PRNGKey], jax.Array]:
    """Returns the policy of evaluation: tanh(μ), without randomness."""

    def policy(params: Params, states: Array, key: PRNGKey) -> jax.Array:
      del key
      return tanh_gaussian.mode(self.apply(params, states, method='actor'))

    return policy

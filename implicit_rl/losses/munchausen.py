"""Munchausen reinforcement learning: the policy's own log-probability is part of the reward."""

from __future__ import annotations

import dataclasses

import gin
import jax

from implicit_rl.compat.settings import check_number


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Munchausen:
  """Munchausen's terms of Q-learning's target (Vieillard et al., 2020, eq. 1 and section 3).

  The target is r + α·clip(τ·log π(a|s), low, 0) + γ·Σ_a' π(a'|s')·(Q(s', a') − τ·log π(a'|s')), in
  which π is the softmax of the target network's values divided by τ. Defaults are the paper's.

  Attributes:
    alpha: α, weight of the log-policy, in [0, 1]; 0 is soft DQN.
    tau: τ, temperature of the policy, above 0.
    low: lower bound of τ·log π, at most 0.

  Raises:
    ValueError: for a setting out of its range.
  """

  alpha: float = 0.9
  tau: float = 0.03
  low: float = -1.0

  def __post_init__(self):
    """Checks the settings."""
    check_number('Munchausen.alpha', self.alpha, least=0, most=1)
    check_number('Munchausen.tau', self.tau, above=0)
    check_number('Munchausen.low', self.low, most=0)

  def bonus(self, q_tm1: jax.Array) -> jax.Array:
    """Returns α·clip(τ·log π, low, 0) of the target network's values [B, A], for each action."""
    log_policy = self.tau * jax.nn.log_softmax(q_tm1 / self.tau, axis=-1)
    return self.alpha * log_policy.clip(self.low, 0)

  def value(self, q_t: jax.Array) -> jax.Array:
    """Returns the soft value of the next state, [B, A] -> [B]: the sum over a' in closed form."""
    return self.tau * jax.nn.logsumexp(q_t / self.tau, axis=-1)

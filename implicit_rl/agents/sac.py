"""SAC, soft actor-critic, with a temperature that is learnt (Haarnoja et al., 2018b)."""

from __future__ import annotations

import functools

import gin
import numpy as np

from implicit_rl.agents.actor_critic import ActorCriticAgent
from implicit_rl.compat.settings import check_number
from implicit_rl.losses import sac_loss
from implicit_rl.types import Loss


@gin.configurable
class SACAgent(ActorCriticAgent):
  """Regresses twin critics to r + γⁿ·(min Q⁻(s', a') − α·log π(a'|s')); the policy maximises both.

  Args:
    *args: `Agent`'s.
    target_entropy: entropy of the policy to which the temperature is adapted; None is −A.
    temperature: α, fixed and at least 0; None learns it.
    entropy_in_target: whether the target contains the next action's entropy.
    **kwargs: `Agent`'s; bind them as `Agent.*`.

  Raises:
    ValueError: for a negative temperature.
  """

  reads = ('target_range',)

  def __init__(
    self,
    *args,
    target_entropy: float | None = None,
    temperature: float | None = None,
    entropy_in_target: bool = True,
    **kwargs,
  ):
    check_number('SACAgent.temperature', temperature, least=0, optional=True)
    check_number('SACAgent.target_entropy', target_entropy, optional=True)
    self._target_entropy, self._temperature = target_entropy, temperature
    self._entropy_in_target = entropy_in_target
    super().__init__(*args, **kwargs)

  def make_loss(self) -> Loss:
    """Returns the loss of SAC with this agent's γⁿ."""
    return functools.partial(
      sac_loss,
      apply=self.apply,
      discount=self.gamma_n,
      target_entropy=-self.num_actions if self._target_entropy is None else self._target_entropy,
      temperature=self._temperature,
      entropy_in_target=self._entropy_in_target,
      target_range=self.target_range,
    )

  def value_bounds(self) -> tuple[float, float]:
    """As `Agent.value_bounds`; with entropy in the target there is no lower bound."""
    low, high = super().value_bounds()
    if not self._entropy_in_target:
      return low, high
    alpha = self._temperature
    if alpha is None:
      alpha = float(np.exp(self.apply(self.state.params, method='log_temperature')))
    # The entropy of actions in [−1, 1]^A is at most A·log 2.
    return -np.inf, high + alpha * self.num_actions * np.log(2) / (1 - self.gamma)

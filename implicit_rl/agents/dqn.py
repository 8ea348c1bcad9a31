"""DQN (Mnih et al., 2015), and double DQN with one gin line."""

from __future__ import annotations

import functools

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.losses import dqn_loss
from implicit_rl.types import Loss


@gin.configurable
class DQNAgent(Agent):
  """Minimises the Huber loss of r + γⁿ·max_a Q_target(s', a) − Q(s, a).

  Args:
    *args: `Agent`'s.
    double: choose the next action with the online network (van Hasselt et al., 2016).
    error_loss: 'huber' as in the paper's settings, or 'mse'; an HL-Gauss head has its own loss.
    **kwargs: `Agent`'s; bind them as `Agent.*`.
  """

  reads = ('value_head', 'munchausen', 'target_range')

  def __init__(self, *args, double: bool = False, error_loss: str = 'huber', **kwargs):
    self._double = double
    self._error_loss = error_loss
    super().__init__(*args, **kwargs)

  def make_loss(self) -> Loss:
    """Returns the loss of DQN with this agent's γⁿ."""
    return functools.partial(
      dqn_loss,
      apply=self.apply,
      discount=self.gamma_n,
      double=self._double,
      error_loss=self._error_loss,
      munchausen=self.munchausen,
      target_range=self.target_range,
    )

"""QR-DQN (Dabney et al., 2018): DQN on quantiles of the return."""

from __future__ import annotations

import functools

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.compat.settings import check_number
from implicit_rl.heads import Head, QuantileHead
from implicit_rl.losses import qr_dqn_loss
from implicit_rl.types import Loss


@gin.configurable
class QRDQNAgent(Agent):
  """Minimises the quantile Huber loss of the Bellman target's quantiles.

  Args:
    *args: `Agent`'s.
    double: choose the next action with the online network.
    kappa: the error at which the Huber loss becomes linear.
    **kwargs: `Agent`'s; bind them as `Agent.*`.

  Raises:
    ValueError: if kappa is not above 0.
  """

  reads = ('target_range',)

  def __init__(self, *args, double: bool = False, kappa: float = 1.0, **kwargs):
    check_number('QRDQNAgent.kappa', kappa, above=0)
    self._double, self._kappa = double, kappa
    super().__init__(*args, **kwargs)

  def make_head(self) -> Head:
    """Returns a head of quantiles per action; `QuantileHead.num_quantiles` is their number."""
    return QuantileHead()

  def make_loss(self) -> Loss:
    """Returns the loss of QR-DQN with this agent's γⁿ."""
    return functools.partial(
      qr_dqn_loss,
      apply=self.apply,
      discount=self.gamma_n,
      double=self._double,
      kappa=self._kappa,
      target_range=self.target_range,
    )

"""REM, the random ensemble mixture (Agarwal et al., 2020)."""

from __future__ import annotations

import functools

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.compat.settings import check_number
from implicit_rl.heads import Head, QuantileHead
from implicit_rl.losses import rem_loss
from implicit_rl.types import Loss


@gin.configurable
class REMAgent(Agent):
  """Minimises DQN's loss of a random mixture of many values per action, drawn for each update.

  Args:
    *args: `Agent`'s.
    num_heads: number of values per action; the agent acts on their mean.
    error_loss: 'huber' or 'mse'.
    **kwargs: `Agent`'s; bind them as `Agent.*`.

  Raises:
    ValueError: for fewer than one head.
  """

  reads = ('target_range',)

  def __init__(self, *args, num_heads: int = 200, error_loss: str = 'huber', **kwargs):
    check_number('REMAgent.num_heads', num_heads, least=1, whole=True)
    self._num_heads, self._error_loss = num_heads, error_loss
    super().__init__(*args, **kwargs)

  def make_head(self) -> Head:
    """Returns a quantile head, whose numbers are used as an ensemble of values per action."""
    return QuantileHead(num_quantiles=self._num_heads)

  def make_loss(self) -> Loss:
    """Returns the loss of REM with this agent's γⁿ."""
    return functools.partial(
      rem_loss,
      apply=self.apply,
      discount=self.gamma_n,
      error_loss=self._error_loss,
      target_range=self.target_range,
    )

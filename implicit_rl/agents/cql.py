"""CQL for discrete actions (Kumar et al., 2020) on DQN, C51 or QR-DQN."""

from __future__ import annotations

import functools
from typing import Any

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.compat.settings import check_number
from implicit_rl.heads import C51Head, Head, QuantileHead
from implicit_rl.losses import c51_loss, cql_loss, dqn_loss, qr_dqn_loss
from implicit_rl.types import Loss

_HEADS = {
  'q': (None, dqn_loss),
  'c51': (C51Head, c51_loss),
  'quantile': (QuantileHead, qr_dqn_loss),
}


@gin.configurable
class CQLAgent(Agent):
  """Minimises the head's value loss plus weight·(logsumexp_a Q(s, a) − Q(s, a_data)).

  Args:
    *args: `Agent`'s.
    weight: factor of the conservative term; at least 0.
    head: 'q' (DQN's loss), 'c51' or 'quantile' (QR-DQN's).
    double: choose the next action with the online network.
    **kwargs: `Agent`'s; bind them as `Agent.*`.

  Raises:
    ValueError: for a negative weight or an unknown head.
  """

  reads: tuple[str, ...] = ('target_range',)

  def __init__(self, *args, weight: float = 1.0, head: str = 'q', double: bool = False, **kwargs):
    check_number('CQLAgent.weight', weight, least=0)
    if head not in _HEADS:
      raise ValueError(f"CQLAgent.head must be 'q', 'c51' or 'quantile', got {head!r}.")
    self._weight, self._double = weight, double
    self._head, self._value_loss = _HEADS[head]
    if head == 'q':
      self.reads = ('value_head', 'munchausen', 'target_range')
    super().__init__(*args, **kwargs)

  def make_head(self) -> Head | None:
    """Returns the head that the value loss needs; its settings are bound as the head's in gin."""
    return self._head() if self._head else super().make_head()

  def make_loss(self) -> Loss:
    """Returns the conservative loss with this agent's γⁿ."""
    settings: dict[str, Any] = {'target_range': self.target_range}
    if self._value_loss is dqn_loss:
      settings['munchausen'] = self.munchausen
    value_loss = functools.partial(
      self._value_loss,
      apply=self.apply,
      discount=self.gamma_n,
      double=self._double,
      **settings,
    )
    return functools.partial(cql_loss, loss=value_loss, weight=self._weight)

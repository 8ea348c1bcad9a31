"""C51 (Bellemare et al., 2017): DQN on a categorical distribution of returns."""

from __future__ import annotations

import functools

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.heads import C51Head, Head
from implicit_rl.losses import c51_loss
from implicit_rl.types import Loss


@gin.configurable
class C51Agent(Agent):
  """Minimises the cross-entropy of the projected target distribution; see `heads.C51Head`.

  Args:
    *args: `Agent`'s.
    double: choose the next action with the online network.
    **kwargs: `Agent`'s; bind them as `Agent.*`.
  """

  reads = ('target_range',)

  def __init__(self, *args, double: bool = False, **kwargs):
    self._double = double
    super().__init__(*args, **kwargs)

  def make_head(self) -> Head:
    """Returns a head with a distribution per action; its atoms and range are `C51Head.*` in gin."""
    return C51Head()

  def make_loss(self) -> Loss:
    """Returns the loss of C51 with this agent's γⁿ."""
    return functools.partial(
      c51_loss,
      apply=self.apply,
      discount=self.gamma_n,
      double=self._double,
      target_range=self.target_range,
    )

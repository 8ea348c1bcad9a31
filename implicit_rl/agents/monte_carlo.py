"""Monte Carlo regression: Q without bootstrapping."""

from __future__ import annotations

import functools
from typing import ClassVar

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.losses import monte_carlo_loss
from implicit_rl.types import Loss


@gin.configurable
class MonteCarloAgent(Agent):
  """Regresses Q(s, a) to the logged discounted return; offline only.

  Args:
    *args: `Agent`'s.
    error_loss: 'mse', whose minimum is the expected return, or 'huber'.
    **kwargs: `Agent`'s; bind them as `Agent.*`.
  """

  uses_return_to_go: ClassVar[bool] = True
  reads = ('value_head',)

  def __init__(self, *args, error_loss: str = 'mse', **kwargs):
    self._error_loss = error_loss
    super().__init__(*args, **kwargs)

  def make_loss(self) -> Loss:
    """Returns the regression loss; the source has discounted with this agent's γ."""
    return functools.partial(monte_carlo_loss, apply=self.apply, error_loss=self._error_loss)

"""Rainbow as in Dopamine (Castro et al., 2018), or by gin the full one (Hessel et al., 2018)."""

from __future__ import annotations

import functools

import gin

from implicit_rl.agents.base import Agent
from implicit_rl.heads import C51Head, Head
from implicit_rl.losses import c51_loss, with_noise
from implicit_rl.types import Loss


@gin.configurable
class RainbowAgent(Agent):
  """C51 on n-step returns; n, the sampling and the optimiser are `Agent.*` and `Learner.*`.

  Args:
    *args: `Agent`'s.
    double: choose the next action with the online network.
    dueling: whether the head has value and advantage streams.
    noisy: whether the layers after the convolutions are noisy. Only training uses the noise; the
      agent acts with the mean weights and ε.
    **kwargs: `Agent`'s; bind them as `Agent.*`.
  """

  reads = ('target_range',)

  def __init__(
    self, *args, double: bool = False, dueling: bool = False, noisy: bool = False, **kwargs
  ):
    self._double, self._dueling, self._noisy = double, dueling, noisy
    super().__init__(*args, **kwargs)

  def make_head(self) -> Head:
    """Returns a head with a distribution per action; its atoms and range are `C51Head.*` in gin."""
    return C51Head(dueling=self._dueling, noisy=self._noisy)

  def make_loss(self) -> Loss:
    """Returns the loss of C51 with this agent's γⁿ, and with fresh noise if there is any."""
    make = with_noise if self._noisy else functools.partial
    return make(
      c51_loss,
      apply=self.apply,
      discount=self.gamma_n,
      double=self._double,
      target_range=self.target_range,
    )

"""CQL for continuous actions (Kumar et al., 2020) on SAC."""

from __future__ import annotations

import functools
from typing import Any

import gin
from flax import linen as nn

from implicit_rl.agents.sac import SACAgent
from implicit_rl.compat.settings import check_number
from implicit_rl.losses import continuous_cql_loss
from implicit_rl.types import Loss


@gin.configurable
class ContinuousCQLAgent(SACAgent):
  """Minimises SAC's loss plus weight·Σ_k (log Σ_a exp Q_k(s, a) − Q_k(s, a_data)).

  Args:
    *args: `Agent`'s.
    weight: factor of the conservative term; at least 0.
    num_samples: actions of each of the three kinds that estimate the sum over actions.
    threshold: None, or the value at which a learnt multiplier (initially 1) keeps the term.
    **kwargs: those of `SACAgent` and `Agent`; bind them there.

  Raises:
    ValueError: for a negative weight or fewer than one sample.
  """

  def __init__(
    self,
    *args,
    weight: float = 5.0,
    num_samples: int = 10,
    threshold: float | None = None,
    **kwargs,
  ):
    check_number('ContinuousCQLAgent.weight', weight, least=0)
    check_number('ContinuousCQLAgent.num_samples', num_samples, least=1, whole=True)
    check_number('ContinuousCQLAgent.threshold', threshold, optional=True)
    self._weight, self._num_samples, self._threshold = weight, num_samples, threshold
    super().__init__(*args, **kwargs)

  def make_network(self, network: type[nn.Module], **settings: Any) -> nn.Module:
    """Returns the network, with a multiplier if there is a threshold."""
    if self._threshold is not None:
      settings['lagrange'] = True
    return super().make_network(network, **settings)

  def make_loss(self) -> Loss:
    """Returns the conservative loss with this agent's γⁿ."""
    return functools.partial(
      continuous_cql_loss,
      apply=self.apply,
      loss=super().make_loss(),
      weight=self._weight,
      num_samples=self._num_samples,
      threshold=self._threshold,
    )

"""Ranges for clipping Bellman targets: from the rewards' range, or from the data's returns."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import gin

from implicit_rl.compat.settings import check_number
from implicit_rl.data.source import DataSource


class TargetRange(abc.ABC):
  """How `Agent.target_range` finds the smallest and the largest target.

  Attributes:
    needs_returns: whether the data source must know the returns to the episodes' ends.
  """

  needs_returns: ClassVar[bool] = False

  @abc.abstractmethod
  def bounds(self, gamma: float, source: DataSource | None) -> tuple[float, float]:
    """Returns the smallest and the largest target; `source` is None for an agent that only acts."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RewardBound(TargetRange):
  """The range of discounted returns of any policy, from the range of the rewards.

  The largest is high/(1 − γ), but at least `high`, since an episode may end after one step. The
  smallest is found in the same way.

  Attributes:
    low: the smallest reward of a step; −1 and 1 suit clipped rewards.
    high: the largest reward of a step.

  Raises:
    ValueError: if the range is empty or not finite.
  """

  low: float = -1.0
  high: float = 1.0

  def __post_init__(self):
    """Checks the range."""
    check_number('RewardBound.low', self.low)
    check_number('RewardBound.high', self.high)
    if not -math.inf < self.low < self.high < math.inf:
      raise ValueError(
        f'RewardBound.low must be below RewardBound.high, got {self.low!r} and {self.high!r}.'
      )

  def bounds(self, gamma: float, source: DataSource | None) -> tuple[float, float]:
    """See `TargetRange.bounds`; raises ValueError for γ = 1, which bounds nothing."""
    del source
    if gamma == 1:
      raise ValueError(
        'Agent.gamma must be below 1 for @RewardBound, got 1: returns are unbounded.'
      )
    return min(self.low, self.low / (1 - gamma)), max(self.high, self.high / (1 - gamma))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DataReturns(TargetRange):
  """The smallest and the largest discounted return to an episode's end in the data; offline only.

  Episodes that a time limit ended have no known return. As for Monte Carlo agents, they are left
  out of the data.
  """

  needs_returns: ClassVar[bool] = True

  def bounds(self, gamma: float, source: DataSource | None) -> tuple[float, float]:
    """See `TargetRange.bounds`; raises ValueError if the source does not know its returns."""
    del gamma
    if source is None:
      return -math.inf, math.inf
    if source.return_range is None:
      raise ValueError(
        f'Agent.target_range = @DataReturns() needs the returns of the data, which '
        f'{type(source).__name__} does not know; bind @RewardBound() instead.'
      )
    return source.return_range

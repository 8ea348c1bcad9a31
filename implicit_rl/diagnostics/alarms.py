"""Alarms: problems that a run reports while it trains.

Each is a pure function that returns a line of text, or None if there is no problem.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import gin

PAGE = 'docs/metrics.md'
NAMES = ('values', 'dormant_units', 'one_direction')
_LAYER, _START = 'dormant_units/', 'dormant_at_start/'


def values(
  q_max: float, q_mean: float, bounds: tuple[float, float], discount: float, margin: float = 0.1
) -> str | None:
  """Reports values beyond what the data's rewards allow.

  Args:
    q_max: the largest Q.
    q_mean: the mean of Q.
    bounds: the smallest and the largest value that any policy can have, r_min/(1 − γ) and
      r_max/(1 − γ); infinite or equal if unknown.
    discount: γ per step.
    margin: the alarm is raised if `q_max` is above the upper bound by this share of the distance
      between the bounds, or `q_mean` is below the lower bound by that distance. The mean is used
      because a conservative loss lowers the smallest Q on purpose.
  """
  low, high = bounds
  reach = high - low if math.isfinite(low) else high
  if not (math.isfinite(reach) and reach > 0):
    return None
  if not q_max <= high + margin * reach:  # Not a number counts as above.
    q, which, least_or_most, verb, limit = q_max, 'Q', 'most', 'exceed', high
  elif q_mean < low - reach:
    q, which, least_or_most, verb, limit = q_mean, 'mean Q', 'least', 'fall below', low
  else:
    return None
  return (
    f'{which} is {q:,.4g}; with rewards of at {least_or_most} {limit * (1 - discount):.4g} and '
    f'γ = {discount:g} it cannot {verb} {limit:,.4g}: values diverge ({PAGE}).'
  )


def value_bounds(
  reward_range: tuple[float, float] | None, discount: float | None
) -> tuple[float, float]:
  """Returns the smallest and the largest value that the rewards allow; ±inf if unknown.

  Args:
    reward_range: the smallest and the largest reward of a step, or None.
    discount: γ per step, or None.
  """
  if reward_range is None or discount is None or discount == 1:
    return -math.inf, math.inf
  low, high = reward_range
  return min(low, 0.0) / (1 - discount), max(high, 0.0) / (1 - discount)


def dormant_units(
  shares: Mapping[str, float], most: float = 0.5, start: Mapping[str, float] | None = None
) -> str | None:
  """Reports layers in which training made more than `most` of the units dormant.

  Args:
    shares: of dormant units, by layer.
    most: a share.
    start: shares of the initial network; 0 for a layer that is not in it. Units that were dormant
      from the start do not count, since small networks may start with many of them, unless the
      whole layer is dormant.
  """
  start = start or {}
  dormant = {}
  for name, share in shares.items():
    at_start = start.get(name, 0.0)
    if share == 1 or share > at_start + most * (1 - at_start):
      dormant[name] = f'{share:.0%} of {name}' + (
        f' ({at_start:.0%} at the start)' if name in start else ''
      )
  if not dormant:
    return None
  return f'most units of a layer are dormant: {", ".join(dormant.values())} ({PAGE}).'


def one_direction(centred_pca_rank: float) -> str | None:
  """Reports features of which one direction holds 99% of the variance.

  The features are centred, because the mean feature holds 99% of Σσ² in many healthy networks.
  """
  if centred_pca_rank > 1 or math.isnan(centred_pca_rank):
    return None
  return f'the features lie on one line: one direction holds 99% of their variance ({PAGE}).'


def onsets(alarms: Mapping[str, str], earlier: Collection[str]) -> list[str]:
  """Returns a line for each raised alarm [name: text] that is not among the `earlier` ones."""
  return [f'alarm {name}: {text}' for name, text in alarms.items() if name not in earlier]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Alarms:
  """Chooses the alarms, and which of them end a run.

  Attributes:
    values: `margin` of the alarm on values; None turns it off.
    dormant_units: `most` of the alarm on dormant units; None turns it off.
    one_direction: whether the alarm on the spectrum is on.
    stop: names of alarms that end the run after the iteration; none by default.

  Raises:
    ValueError: for a negative margin, a share outside [0, 1], or an unknown name in `stop`.
  """

  values: float | None = 0.1
  dormant_units: float | None = 0.5
  one_direction: bool = True
  stop: tuple[str, ...] = ()

  def __post_init__(self):
    """Checks the settings."""
    if self.values is not None and not self.values >= 0:
      raise ValueError(f'Alarms.values must be at least 0 or None, got {self.values!r}.')
    if self.dormant_units is not None and not 0 <= self.dormant_units <= 1:
      raise ValueError(f'Alarms.dormant_units must lie in [0, 1], got {self.dormant_units!r}.')
    if isinstance(self.stop, str) or not set(self.stop) <= set(NAMES):
      raise ValueError(f'Alarms.stop must be a tuple of names from {NAMES}, got {self.stop!r}.')

  def check(
    self, measured: Mapping[str, Any], bounds: tuple[float, float], discount: float
  ) -> dict[str, str]:
    """Returns the raised alarms and their texts.

    Args:
      measured: scalars by their names in `metrics.jsonl`; missing ones are ignored.
      bounds: see `values`.
      discount: γ per step.
    """
    rings: dict[str, str | None] = {}
    if self.values is not None and 'q_max' in measured:
      rings['values'] = values(measured['q_max'], measured['q_mean'], bounds, discount, self.values)
    if self.dormant_units is not None:
      shares, start = (
        {
          name.removeprefix(prefix): value
          for name, value in measured.items()
          if name.startswith(prefix)
        }
        for prefix in (_LAYER, _START)
      )
      shares = shares or {'the features': measured.get('dormant_units', 0.0)}
      rings['dormant_units'] = dormant_units(shares, self.dormant_units, start)
    if self.one_direction and 'centred_pca_rank' in measured:
      rings['one_direction'] = one_direction(measured['centred_pca_rank'])
    return {name: told for name, told in rings.items() if told is not None}

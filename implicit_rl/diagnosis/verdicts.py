"""Verdicts on three questions: has rank collapsed, are units active, are values plausible.

A verdict names the numbers that it is based on. The limits here and those of the alarms are
conventions of this project: half of a fresh network's rank, half of a layer's units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from implicit_rl.diagnostics.alarms import Alarms
from implicit_rl.rank import WORDS

CENTRED = tuple(name for name in WORDS if name.startswith('centred_'))
_FELL = 0.5  # of a fresh network's rank
_SLOWER = 1.25  # error of the plasticity probe, relative to a fresh network's
_PROBE = 'plasticity_error_ratio'
_RANK_RESTS = (
  'a rank counts as fallen at half of what it is in a fresh network on the same states; raw ranks '
  'count the mean feature as a direction, centred ones do not'
)


class Verdict(NamedTuple):
  """The answer to one question.

  Attributes:
    question: 'Rank', 'Plasticity' or 'Values'.
    level: 'good', 'warning', 'bad', or 'unknown' if the given arguments do not suffice.
    answer: a sentence.
    numbers: the names of the scalars that it is based on.
    rests_on: the criterion, and arguments that would allow more.
  """

  question: str
  level: str
  answer: str
  numbers: tuple[str, ...]
  rests_on: str


NO_VALUES = Verdict(
  'Values', 'unknown', "The network's outputs are not values.", (), 'the kind of agent'
)


def judge(
  measured: Mapping[str, float],
  fresh: Mapping[str, float],
  bounds: tuple[float, float],
  gamma: float | None,
) -> list[Verdict]:
  """Returns a verdict for each question.

  Args:
    measured: scalars by their names in `metrics.jsonl`.
    fresh: the rank metrics of a fresh network; empty if there is none.
    bounds: the smallest and the largest value that the rewards allow; infinite if unknown.
    gamma: discount per step; None if unknown.
  """
  rings = Alarms().check(measured, bounds, 0.0 if gamma is None else gamma)
  return [
    _rank(measured, fresh, rings.get('one_direction')),
    _plasticity(measured, rings.get('dormant_units')),
    _values(measured, bounds, rings.get('values')),
  ]


def _rank(measured: Mapping[str, float], fresh: Mapping[str, float], alarm: str | None) -> Verdict:
  numbers = tuple(name for name in WORDS if name in measured)
  nan = [name for name in numbers if measured[name] != measured[name]]
  if not numbers or nan:
    answer = 'The features are not finite: they have no rank.' if nan else 'No rank was measured.'
    return Verdict('Rank', 'bad' if nan else 'unknown', answer, numbers, _RANK_RESTS)
  if not measured['sigma_max']:
    return Verdict('Rank', 'bad', 'Every feature is 0 on every state.', numbers, _RANK_RESTS)
  if alarm:
    return Verdict('Rank', 'bad', _sentence(alarm), numbers, _RANK_RESTS)
  compared = [name for name in numbers if fresh.get(name, 0) > 0]
  if not compared:
    answer = (
      'A rank alone is neither high nor low: it depends on the states and the network. Give init '
      '(diagnose) or fresh (diagnose_features) to compare with a fresh network.'
    )
    return Verdict('Rank', 'unknown', answer, numbers, _RANK_RESTS)
  fell = [name for name in compared if measured[name] <= _FELL * fresh[name]]
  told = ', '.join(f'{WORDS[name]} {measured[name]:.3g} of {fresh[name]:.3g}' for name in fell)
  if not fell:
    answer = "No rank is below half of a fresh network's."
    return Verdict('Rank', 'good', answer, numbers, _RANK_RESTS)
  if len(fell) == len(compared):
    answer = f"Collapsed: every rank is at most half of a fresh network's ({told})."
    return Verdict('Rank', 'bad', answer, numbers, _RANK_RESTS)
  if not set(fell) & set(CENTRED) and set(CENTRED) <= set(compared):
    answer = (
      f'Only raw ranks fell ({told}): the mean feature outweighs the rest, and around it features '
      "vary in as many directions as a fresh network's."
    )
  else:
    kept = ', '.join(WORDS[name] for name in compared if name not in fell)
    answer = f'It depends on the measure: fallen by {told}; not by {kept}.'
  return Verdict('Rank', 'warning', answer, numbers, _RANK_RESTS)


def _plasticity(measured: Mapping[str, float], alarm: str | None) -> Verdict:
  shares = {
    name: value
    for name, value in measured.items()
    if name.startswith('dormant_units/') or name == 'dormant_units'
  }
  rests = (
    'a unit is dormant if its mean size is at most 0.025 of the mean in its layer (Sokar et al., '
    '2023); more than half of a layer is bad. Units are a sign of the ability to learn, which the '
    f'plasticity probe measures: an error over {_SLOWER} times that of fresh networks is a warning'
  )
  numbers = (*shares, _PROBE) if _PROBE in measured else tuple(shares)
  known = {name: value for name, value in shares.items() if value == value}
  if alarm:
    return Verdict('Plasticity', 'bad', _sentence(alarm), numbers, rests)
  if not known:
    return Verdict('Plasticity', 'unknown', 'No layer with finite activations.', numbers, rests)
  worst = max(known, key=lambda name: (known[name], '/' in name))
  where = worst.partition('/')[2] or 'the features'
  answer = f'Units work: at most {known[worst]:.0%} of a layer are dormant ({where}).'
  ratio = measured.get(_PROBE, float('nan'))
  if ratio == ratio:
    answer += (
      f' When it learns a new target, its error is {ratio:.2f} times that of fresh networks.'
    )
  return Verdict('Plasticity', 'warning' if ratio > _SLOWER else 'good', answer, numbers, rests)


def _values(
  measured: Mapping[str, float], bounds: tuple[float, float], alarm: str | None
) -> Verdict:
  names = ('q_mean', 'q_max', 'q_min', 'q_data_gap', 'td_error')
  numbers = tuple(name for name in names if name in measured)
  rests = 'values cannot pass r_max/(1 − γ) or r_min/(1 − γ) of the rewards in the data'
  if 'q_mean' not in measured:
    answer = 'There are no values: give q_values.'
    return Verdict('Values', 'unknown', answer, numbers, rests)
  if any(measured[name] != measured[name] for name in ('q_mean', 'q_max')):
    return Verdict('Values', 'bad', 'Values are not finite.', numbers, rests)
  if alarm:
    return Verdict('Values', 'bad', _sentence(alarm), numbers, rests)
  gap = measured.get('q_data_gap', float('nan'))
  told = ''
  if gap == gap:
    side = 'above' if gap > 0 else 'below'
    told = f' On average Q(s, a) is {abs(gap):.3g} {side} the return that followed in the data.'
  low, high = bounds
  if not (high > low and abs(low) != float('inf') and abs(high) != float('inf')):
    answer = f'To tell whether they are possible, give reward_range and gamma.{told}'
    return Verdict('Values', 'unknown', answer, numbers, rests)
  largest = f'the largest Q, {measured["q_max"]:.4g},'
  if measured['q_max'] > high:
    answer = f'Barely possible: {largest} is above the bound of {high:.4g} by a little.{told}'
    return Verdict('Values', 'warning', answer, numbers, rests)
  answer = f'Possible: {largest} is within the bound of {high:.4g}.{told}'
  return Verdict('Values', 'good', answer, numbers, rests)


def _sentence(alarm: str) -> str:
  return alarm[0].upper() + alarm[1:]

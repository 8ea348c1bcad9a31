"""Checks numbers that gin or a caller sets, and names the setting that is wrong."""

from __future__ import annotations

import numbers
from typing import Any


def check_number(
  name: str,
  value: Any,
  *,
  least: float | None = None,
  above: float | None = None,
  most: float | None = None,
  below: float | None = None,
  whole: bool = False,
  optional: bool = False,
) -> None:
  """Raises ValueError for a value that is not a number, or out of range.

  Args:
    name: of the setting, as gin binds it, such as 'Learner.penalty_weight'.
    value: any; a bool or a string does not count as a number.
    least: the smallest allowed number; None for no limit, as for the other limits.
    above: the number that the value must exceed.
    most: the largest number allowed.
    below: the number that the value must be less than.
    whole: whether it must be an integer.
    optional: whether None is allowed too.
  """
  if value is None and optional:
    return
  kind = numbers.Integral if whole else numbers.Real
  right = not isinstance(value, bool) and (
    isinstance(value, kind) or getattr(value, 'ndim', None) == 0  # A JAX or NumPy scalar.
  )
  if right and (
    (least is None or value >= least)
    and (above is None or value > above)
    and (most is None or value <= most)
    and (below is None or value < below)
    and value == value  # Not NaN.
  ):
    return
  lower, bracket = (above, '(') if least is None else (least, '[')
  upper, closing = (below, ')') if most is None else (most, ']')
  what = 'a whole number' if whole else 'a number'
  if lower is not None and upper is not None:
    what += f' in {bracket}{lower}, {upper}{closing}'
  elif lower is not None:
    what += f' above {lower}' if least is None else f' of at least {lower}'
  elif upper is not None:
    what += f' below {below}' if most is None else f' of at most {most}'
  raise ValueError(f'{name} must be {what}{" or None" * optional}, got {value!r}.')

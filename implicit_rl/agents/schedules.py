"""Schedules of an agent: its ε, the due updates, and their division into compiled calls."""

from __future__ import annotations

import fractions
import functools
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import jax

Steps = TypeVar('Steps', int, jax.Array)


def linearly_decaying_epsilon(step: int, warmup: int, period: int, final: float) -> float:
  """Returns ε: 1 for `warmup` steps, then linear to `final` in `period` (Mnih et al., 2015)."""
  left = 1.0 - (step - warmup) / max(period, 1)
  return final + (1.0 - final) * min(max(left, 0.0), 1.0)


@functools.lru_cache
def update_rate(updates_per_step: float) -> fractions.Fraction:
  """Returns n, updates per environment step, as the fraction that the float represents.

  Its denominator is small enough for `updates_due` to count in int32: at most 46,340 for n ≤ 1.

  Raises:
    ValueError: if n is negative, not finite, or not such a fraction.
  """
  n: Any = updates_per_step
  if not isinstance(n, int | float) or not 0 <= n < math.inf:
    raise ValueError(f'OnlineRunner.updates_per_step must be a number of at least 0, got {n!r}.')
  most = max(math.isqrt(int(2**31 / max(n, 1))), 1)
  rate = fractions.Fraction(n).limit_denominator(most)
  if abs(rate - fractions.Fraction(n)) > n * 1e-9:
    raise ValueError(
      f'OnlineRunner.updates_per_step must be a fraction with a denominator of at most {most}, '
      f'such as {float(rate)!r}, got {n!r}.'
    )
  return rate


def updates_due(rate: fractions.Fraction, after: int, steps: Steps, priming: int = 0) -> Steps:
  """Returns the exact number of updates after `steps` environment steps: ⌊n·(steps − after)⌋ or 0.

  Args:
    rate: n, from `update_rate`.
    after: steps before the first update is due.
    steps: an int, or [] int32 within a compiled program.
    priming: additional updates as soon as `steps` is above `after`.

  Returns:
    The count, of the type of `steps`.
  """
  trained = (steps - after) * (steps > after)
  whole, rest = trained // rate.denominator, trained % rate.denominator
  counted = whole * rate.numerator + rest * rate.numerator // rate.denominator
  return counted + priming * (steps > after)


def chunk_size(total: int, most: int = 64) -> int:
  """Returns the steps of a compiled call: a divisor of `total` if one is near `most`, else `most`.

  With a divisor all calls have one size, so one program is enough.
  """
  for size in range(min(most, total), most // 2, -1):
    if total % size == 0:
      return size
  return min(most, total)


def chunks(first: int, total: int, chunk: int) -> Iterator[tuple[int, int]]:
  """Divides steps `first` to `first + total` into (start, count), each count at most `chunk`."""
  for start in range(first, first + total, chunk):
    yield start, min(chunk, first + total - start)

"""Progress of a task: a bar at a terminal or in a notebook, otherwise occasional lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import tqdm.auto as tqdm

_SECONDS = 10.0  # Minimum time between two lines.
_LINES = 20  # Maximum for one task.


class Lines:
  """Replaces a bar without a terminal: prints a line every ten seconds or less often.

  A task that takes less than ten seconds prints nothing.

  Args:
    total: units in the whole task.
    what: the task, in a word or two.
    unit: name of the counted units.
    done: units that are done already.
    clock: returns seconds since any time.

  Attributes:
    n: units that are done.
    total: as given; it may be changed.
  """

  def __init__(
    self,
    total: int,
    what: str,
    unit: str,
    done: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.n, self.total, self._what, self._unit = done, total, what, unit
    self._clock = clock
    self._began = self._said = clock()
    self._first = self._shown = done

  def update(self, count: int = 1) -> None:
    """Adds units that are done, and prints a line if one is due."""
    self.n += count
    now = self._clock()
    if now - self._said < _SECONDS or self.n - self._shown < self.total / _LINES:
      return
    self._said, self._shown = now, self.n
    left = (self.total - self.n) * (now - self._began) / (self.n - self._first)
    end = f', {duration(left)} left' if left > 0 else ''
    print(f'{self._what}: {self.n:,} of {self.total:,} {self._unit}{end}', file=sys.stderr)

  def __enter__(self) -> Lines:
    return self

  def __exit__(self, *args: object) -> None:
    pass


def bar(total: int, what: str, unit: str, done: int = 0, **settings: Any) -> tqdm.tqdm | Lines:
  """Returns a display of a task's progress, for a `with` statement; `update(count)` advances it.

  Args:
    total: units in the whole task.
    what: the task, in a word or two.
    unit: of what it counts, such as 'steps'.
    done: units that are done already.
    **settings: those of tqdm, for a bar.
  """
  if sys.stderr is None or not (sys.stderr.isatty() or _in_notebook()):
    return Lines(total, what, unit, done)
  settings = {'dynamic_ncols': True} | settings
  return tqdm.tqdm(total=total, desc=what, unit=f' {unit}', initial=done, **settings)


def _in_notebook() -> bool:
  """Whether this process runs notebook cells; loaded kernel modules do not imply it."""
  ipython = sys.modules.get('IPython')
  return ipython is not None and ipython.get_ipython() is not None


def duration(seconds: float) -> str:
  """Returns a duration in readable units."""
  if seconds < 60:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  return f'{minutes} min' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02} min'

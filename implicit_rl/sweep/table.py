"""Progress of a sweep: a live table at a terminal, otherwise a line for each run that ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.live
import rich.table

from implicit_rl.logs.progress_bars import duration
from implicit_rl.running import parallel_runs
from implicit_rl.sweep import jobs
from implicit_rl.sweep.spec import Planned

COLUMNS = 'variant game done running iterations restarts failed return srank'.split()
Show = Callable[[Mapping[str, str]], None]


def rows(
  planned: Sequence[Planned], todo: Sequence[parallel_runs.Job], states: Mapping[str, str]
) -> list[tuple[str, ...]]:
  """A row for each variant and game, then one for all.

  Args:
    planned: the runs.
    todo: their jobs, in the same order.
    states: 'done' or 'failed' by the names of runs that have ended.

  Returns:
    Cells: variant, game, runs done, running, iterations, restarts, failed, and the means of the
    runs' newest returns and sranks. The last row has no means.
  """
  groups: dict[tuple[str, str], list[int]] = {}
  newest: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for run, job in zip(planned, todo, strict=True):
    state = states.get(run.name, 'done' if job.finished else '')
    newest.setdefault((run.variant, run.game), []).extend(jobs.last_rows(job))
    counts = (
      1,
      state == 'done',
      not state and jobs.starts(job) > 0,
      min(job.done, job.iterations),
      job.iterations,
      jobs.restarts(job),
      state == 'failed',
    )
    for key in ((run.variant, run.game), ('all', '')):
      groups[key] = [a + b for a, b in zip(groups.get(key, [0] * 7), counts, strict=True)]
  groups['all', ''] = groups.pop(('all', ''))  # Last.
  return [
    (
      *key,
      f'{done}/{runs}',
      f'{now}',
      f'{have}/{want}',
      f'{again}',
      f'{failed}',
      _mean(newest.get(key, []), 'eval_return', 2),
      _mean(newest.get(key, []), 'srank', 1),
    )
    for key, (runs, done, now, have, want, again, failed) in groups.items()
  ]


def _mean(found: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
  values = [row[name] for row in found if row.get(name) is not None]
  return f'{sum(values) / len(values):.{digits}f}' if values else '–'


@contextlib.contextmanager
def shown(planned: Sequence[Planned], todo: Sequence[parallel_runs.Job]) -> Iterator[Show]:
  """Returns a function that prints the sweep's progress."""
  console = rich.console.Console()
  began, at_first = time.monotonic(), sum(job.done for job in todo)
  total = sum(job.iterations for job in todo)

  def left() -> str:
    new = sum(min(job.done, job.iterations) for job in todo) - at_first
    if new < 1:
      return ''
    seconds = (total - at_first - new) * (time.monotonic() - began) / new
    return f'about {duration(seconds)} left'

  if console.is_terminal:
    with rich.live.Live(console=console, refresh_per_second=1) as display:

      def show(states: Mapping[str, str]) -> None:
        table = rich.table.Table(*COLUMNS, caption=left())
        for row in rows(planned, todo, states):
          table.add_row(*row)
        display.update(table)

      yield show
  else:
    said: set[str] = set()

    def say(states: Mapping[str, str]) -> None:
      for name in states.keys() - said:
        said.add(name)
        print(f'{states[name]:6} {name}  ({len(said)} of {len(planned)})  {left()}', flush=True)

    yield say

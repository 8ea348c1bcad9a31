"""A sweep's runs as processes of this machine, without Ray."""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from implicit_rl.running import launch, parallel_runs
from implicit_rl.sweep import jobs

Show = Callable[[Mapping[str, str]], Any]  # As in `cluster`.


def run_all(
  todo: Mapping[str, parallel_runs.Job],
  *,
  processes: int,
  retries: int,
  compilation_cache: pathlib.Path | None = None,
  show: Show = lambda states: None,
) -> dict[str, str]:
  """Does the runs in order, several at once; one that raises an error does not stop the others.

  A run whose process is killed is restarted, up to `retries` times, and resumes from its
  checkpoint. The processes end with this one.

  Args:
    todo: the runs by name.
    processes: how many run at once.
    retries: see above.
    compilation_cache: directory of compiled programs, which later runs reuse; None keeps none.
    show: called each second with 'done' or 'failed' by the names of the runs that have ended.

  Returns:
    Errors in one line each, by the name of the run; empty if all are done.
  """
  os.environ.update(launch.environment(compilation_cache))
  deaths: collections.Counter[str] = collections.Counter()
  states: dict[str, str] = {}
  wrong: dict[str, str] = {}
  while left := {name: job for name, job in todo.items() if name not in states}:
    before = {name: jobs.starts(job) for name, job in left.items()}
    _run_until_one_dies(left, processes, states, wrong, show)
    unended = [name for name in left if name not in states]  # A process was killed.
    started = [name for name in unended if jobs.starts(left[name]) > before[name]]
    for name in started or unended[:1]:
      deaths[name] += 1
      if deaths[name] > retries:
        states[name], wrong[name] = 'failed', f'was killed {deaths[name]} times'
  show(states)
  return wrong


def _run_until_one_dies(
  left: Mapping[str, parallel_runs.Job],
  processes: int,
  states: dict[str, str],
  wrong: dict[str, str],
  show: Show,
) -> None:
  """Adds to `states` and `wrong`; returns when all have ended or a process was killed."""
  shared = (os.getcwd(), jobs.new_launch())
  with concurrent.futures.ProcessPoolExecutor(
    processes,
    mp_context=multiprocessing.get_context('spawn'),
    initializer=launch.stop_with_parent,
  ) as pool:
    try:
      names = {pool.submit(jobs.work, job, *shared): name for name, job in left.items()}
      waiting = set(names)
      while waiting:
        ended, waiting = concurrent.futures.wait(waiting, timeout=1)
        for future in ended:
          error = future.result()
          states[names[future]] = 'failed' if error else 'done'
          if error:
            wrong[names[future]] = error
        show(states)
    except BrokenProcessPool:
      return
    except BaseException:
      pool.shutdown(wait=True, cancel_futures=True)
      raise

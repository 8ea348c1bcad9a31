"""Runs several seeds of one experiment, whose training is one vmapped program."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from implicit_rl.data.source import DataSource
from implicit_rl.running import run_directory, seeds, signals

Make = Callable[..., Any]  # (base_dir, seed, source=None) -> a runner of one seed


def _shared(source: DataSource, **settings: Any) -> DataSource:
  """The source; the settings that an agent gives are the first seed's."""
  del settings
  return source


def _nothing_left(progress: Callable[[int], Any]) -> None:
  del progress


class VmappedSeeds:
  """Runs several seeds in step; their training is one program, offline on one data source.

  After a kill each seed resumes from its own checkpoint. Those that lag behind train in the same
  program until they are in step again, so they end as if there had been no kill, bit for bit.

  Args:
    base_dir: directory that holds the seeds' directories.
    chosen: the seeds.
    make: creates the runner of one seed: (base_dir, seed, source=None) -> runner.

  Raises:
    ValueError: if runs of this kind can't train so.
  """

  def __init__(self, base_dir: str, chosen: Sequence[int], make: Make):
    self._directories = [seeds.directory(base_dir, seed) for seed in chosen]
    first = make(self._directories[0], chosen[0])
    first.side_by_side([first])  # Raises before the others are made.
    self.runners = [first]
    for path, seed in zip(self._directories[1:], chosen[1:], strict=True):
      shared = first.agent.source.with_seed(seed)
      source = None if shared is None else functools.partial(_shared, shared)
      self.runners.append(make(path, seed, source=source))
    self._train_some = first.side_by_side(self.runners)

  def _train(self, some: Sequence[Any], progress: Callable[[int], Any]) -> None:
    """Trains runners that are at the same place; the first one calls this, and its clock runs."""
    began = time.monotonic()
    try:
      self._train_some(some, progress)
    finally:
      for runner in some[1:]:
        runner.clock.add(time.monotonic() - began)

  def run_experiment(self) -> None:
    """Runs the remaining iterations; on SIGTERM or SIGINT saves and returns.

    Raises:
      NonFiniteError: for a non-finite number in any seed.
      OSError: if something can't be written or read.
    """
    left = [runner.iterations for runner in self.runners]
    print(f'{len(left)} seeds as one program, in {os.path.dirname(self._directories[0])}')
    try:
      with signals.watched():
        for iteration in max(left, key=len):  # All end with the same iteration.
          due = [
            runner
            for runner, own in zip(self.runners, left, strict=True)
            if iteration in own and not runner.stopped_by
          ]
          if not self._iterate(iteration, due):
            print(f'Stopped within iteration {iteration + 1}; the same command goes on from there.')
            return
      for runner, own in zip(self.runners, left, strict=True):
        with runner.explained():
          runner.finish(bool(own))
    finally:
      for path in self._directories:
        run_directory.release(path)

  def _iterate(self, iteration: int, due: Sequence[Any]) -> bool:
    """Runs one iteration of the `due` runners; returns False if it was stopped within."""
    alike: dict[Any, list[Any]] = {}
    for runner in due:
      alike.setdefault(runner.place, []).append(runner)
    for some in alike.values():
      first, *others = some
      first.do_training = functools.partial(self._train, some)
      for runner in others:  # Their turn comes when the first one has trained them.
        runner.do_training = _nothing_left
    for number, runner in enumerate(due):
      try:
        with runner.explained():
          runner.iterate(iteration)
      except signals.StoppedError:
        for unfinished in due[number:]:
          unfinished.keep_interrupted(iteration)
        return False
    return True

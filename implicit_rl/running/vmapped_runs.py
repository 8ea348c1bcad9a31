"""Runs several trainings as one vmapped program: of seeds, or of settings of an update."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from implicit_rl.data.source import DataSource
from implicit_rl.running import merged_updates, run_directory, signals
from implicit_rl.running.vmapped_agents import stacked
from implicit_rl.running.vmapped_measuring import VmappedMeasuring


class Run(NamedTuple):
  """One of the runs that train in one program.

  Attributes:
    base_dir: its directory.
    seed: of the run.
    make: creates its runner: `make(source)`; a source of None is the one that gin names.
  """

  base_dir: str
  seed: int
  make: Callable[[Callable[..., DataSource] | None], Any]


def _shared(source: DataSource, **settings: Any) -> DataSource:
  """Returns the source; an agent's settings are those of the first seed."""
  del settings
  return source


def _nothing_left(progress: Callable[[int], Any]) -> None:
  del progress


class _Evaluation:
  """The evaluations of several runs in one iteration, played as one program.

  Args:
    runners: all that have a place in the program.
    some: those that are evaluated.
    iteration: number of the iteration.
  """

  def __init__(self, runners: Sequence[Any], some: Sequence[Any], iteration: int):
    # The places of the others repeat the first one's games, which are dropped.
    self._held = [runner if runner in some else some[0] for runner in runners]
    self._runners, self._some, self._iteration = runners, some, iteration
    self._played: list[Any] | None = None

  def of(self, runner: Any, policy: Any, params: Any, key: Any, *settings: Any) -> Any:
    """Returns the part of one run; the first call plays all of them."""
    del params, key
    if self._played is None:
      params = [one.agent.state.params for one in self._held]
      keys = [one.evaluation_key(self._iteration) for one in self._held]
      began = time.monotonic()
      self._played = runner.evaluate_all(policy, stacked(params), stacked(keys), *settings)
      for other in self._some:
        if other is not runner:  # The runner whose clock is running.
          other.evaluation_clock.add(time.monotonic() - began)
    return self._played[self._runners.index(runner)]


class _Measurements:
  """The measurements of several runs in one iteration, as one program.

  Args:
    measuring: measures the agents of all runners.
    runners: all that have a place in the program.
    some: those that are measured.
  """

  def __init__(self, measuring: VmappedMeasuring, runners: Sequence[Any], some: Sequence[Any]):
    # The places of the others repeat the first one's measurement, which is dropped.
    self._places = [n if one in some else runners.index(some[0]) for n, one in enumerate(runners)]
    self._measuring, self._runners, self._some = measuring, runners, some
    self._measured: list[Any] | None = None

  def of(self, runner: Any, iteration: int) -> dict[str, Any]:
    """Returns the part of one run; the first call measures all of them."""
    if self._measured is None:
      for one in self._some:
        one.before_measuring()
      batches = [self._runners[place].transitions_to_measure() for place in self._places]
      self._measured = self._measuring.measure(self._places, batches, iteration)
    measured, remembered = self._measured[self._runners.index(runner)]
    runner.agent.measurements.load_state_dict(remembered)
    return measured


class VmappedRuns:
  """Runs several runs in step; their training is one program, offline on one data source.

  After a kill each run resumes from its own checkpoint. Those that lag behind train in the same
  program until they are in step again, so they end as if there had been no kill, bit for bit.

  Args:
    runs: equal except for their seeds and, if they `differ`, numbers in their updates.
    differ: whether those numbers differ.

  Raises:
    ValueError: if runs of this kind can't train in one program, or differ in more.
  """

  def __init__(self, runs: Sequence[Run], differ: bool = False):
    self._directories = [run.base_dir for run in runs]
    first = runs[0].make(None)
    first.side_by_side([first], differ)  # Raises before the others are created.
    self.runners = [first]
    for run in runs[1:]:
      shared = first.agent.source.with_seed(run.seed)
      self.runners.append(run.make(None if shared is None else functools.partial(_shared, shared)))
    try:
      self._train_some = first.side_by_side(self.runners, differ)
    except merged_updates.DifferentProgramsError as error:
      raise ValueError(
        f'The runs in {", ".join(self._directories)} cannot train as one program: {error}. Give '
        'them the same terms (a weight or a rate that switches one off is not allowed), or run '
        'them apart, without vmap.'
      ) from error
    # Diagnostics may apply the optimiser, whose numbers would not differ there.
    agents = [runner.agent for runner in self.runners]
    self._measuring = None if differ else VmappedMeasuring(agents)

  def _train(self, some: Sequence[Any], progress: Callable[[int], Any]) -> None:
    """Trains runners with equal progress; the first one calls this, and its clock runs."""
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
    print(f'{len(left)} runs as one program: {", ".join(self._directories)}')
    try:
      with signals.watched():
        for iteration in max(left, key=len):  # All end with the same iteration.
          due = [
            runner
            for runner, own in zip(self.runners, left, strict=True)
            if iteration in own and not runner.stopped_by
          ]
          if not self._iterate(iteration, due):
            print(f'Stopped within iteration {iteration + 1}. Rerun the same command to resume.')
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
      if some[0].evaluate_all is not None:
        evaluation = _Evaluation(self.runners, some, iteration)
        for runner in some:
          runner.evaluate_policy = functools.partial(evaluation.of, runner)
      if self._measuring is not None:
        measurements = _Measurements(self._measuring, self.runners, some)
        for runner in some:
          runner.measure_agent = functools.partial(measurements.of, runner)
      first, *others = some
      first.do_training = functools.partial(self._train, some)
      for runner in others:  # They continue after the first one has trained them.
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

"""The offline runner: trains an agent only from its data source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gin

from implicit_rl.logs.running_means import RunningMeans
from implicit_rl.running import runners, signals
from implicit_rl.running.vmapped_agents import VmappedAgents
from implicit_rl.types import Batch

# isort: split
from dopamine.discrete_domains import iteration_statistics


@gin.configurable(denylist=['base_dir', 'create_agent_fn', 'create_environment_fn', 'clip_rewards'])
class OfflineRunner(runners.Runner):
  """Trains an agent only from its data source; the environment only evaluates it.

  Args:
    *args: `Runner`'s.
    num_iterations: iterations in the whole run.
    training_steps: gradient updates in an iteration.
    measure_size: transitions that the features are measured on, the same in every iteration.
    **kwargs: `Runner`'s; gin binds them as `OfflineRunner.*`.
  """

  def __init__(
    self,
    *args: Any,
    num_iterations: int = 500,
    training_steps: int = 62_500,  # gradient updates
    **kwargs: Any,
  ):
    super().__init__(*args, num_iterations=num_iterations, training_steps=training_steps, **kwargs)
    self._reference = self._agent.source.fixed_batch(self._measure_size)

  def _train(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """Does `training_steps` gradient updates."""
    del iteration
    self._agent.eval_mode = False
    self._clock.start()
    with self._bar('training', self._training_steps, 'updates', self._sums.updates) as bar:

      def progress(done: int) -> None:
        bar.update(done)
        signals.check()

      self.do_training(progress)
    speed = self._training_steps / self._clock.seconds
    statistics.append({'train_average_steps_per_second': speed})
    return {'updates_per_second': speed, **self._sums.means()}

  def train_alone(self, progress: Callable[[int], Any]) -> None:
    """See `Runner.train_alone`."""
    self._agent.train(self._training_steps, progress, self._sums, done=self._sums.updates)

  @property
  def training_done(self) -> int:
    """Number of updates of the training phase that are done."""
    return self._sums.updates

  def side_by_side(self, everyone: Sequence[Any], differ: bool) -> runners.TrainSome:
    """See `Runner.side_by_side`."""
    agents = VmappedAgents([runner.agent for runner in everyone], differ)

    def train(some: Sequence[Any], progress: Callable[[int], Any]) -> None:
      sums = [runner.sums if runner in some else None for runner in everyone]
      agents.train(self._training_steps, progress, sums, some[0].sums.updates)

    return train

  @property
  def sums(self) -> RunningMeans:
    """Returns metrics of the iteration's updates so far."""
    return self._sums

  def _begin_training(self) -> None:
    self._sums = RunningMeans()

  def _training_state(self) -> dict[str, Any]:
    return self._sums.state_dict()

  def _restore_training(self, state: dict[str, Any]) -> None:
    self._sums.load_state_dict(state)

  def transitions_to_measure(self) -> Batch:
    """See `Runner.transitions_to_measure`."""
    return self._reference

  def _what_it_learns_from(self) -> str:
    data = self._agent.source.describe()
    embedded = ' (embedded)' if data.get('embedded') else ''
    no_end = data.get('segments') == 1 and not data.get('terminals')
    note = ', one episode without a terminal' if no_end else ''
    return f'{data["transitions"]:,} transitions of {data["dataset"]}{embedded}{note}'

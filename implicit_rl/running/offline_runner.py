"""The offline runner: an agent trained from its data source alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gin

from implicit_rl.logs.running_means import TrainingSums
from implicit_rl.running import runners, signals
from implicit_rl.types import Batch

# isort: split
from dopamine.discrete_domains import iteration_statistics


@gin.configurable(denylist=['base_dir', 'create_agent_fn', 'create_environment_fn'])
class OfflineRunner(runners.Runner):
  """Trains an agent from its data source alone; the environment serves to evaluate it.

  Args:
    base_dir: see `runners.Runner`, as for all that is not said here.
    create_agent_fn: makes the agent.
    create_environment_fn: makes the environment.
    num_iterations: iterations in the whole run.
    training_steps: gradient updates in an iteration.
    evaluation_steps: least environment steps in an evaluation.
    max_steps_per_episode: environment steps after which an evaluation episode is cut.
    measure_size: transitions that the features are measured on, the same in every iteration.
    keep_checkpoints: how many of the newest checkpoints stay.
    num_seeds: run this many seeds, from --seed upwards, each in `base_dir/seed_S`.
    seeds_as: 'vmap', one program on one data source; 'processes', side by side; 'auto' is
      'processes' on the CPU, else 'vmap'. `experiment.create_runner` does either.

  Attributes:
    train_agent: what a training phase calls: `Agent.train`, unless several seeds train together.
  """

  def __init__(
    self,
    base_dir: str,
    create_agent_fn: Callable[..., Any],
    create_environment_fn: Callable[[], Any],
    *,
    num_iterations: int = 500,
    training_steps: int = 62_500,  # gradient updates
    evaluation_steps: int = 125_000,  # environment steps
    max_steps_per_episode: int | None = None,
    measure_size: int = 2048,
    keep_checkpoints: int = 3,
    num_seeds: int = 1,
    seeds_as: str = 'auto',
  ):
    del num_seeds, seeds_as  # Whoever makes the runners has read them.
    super().__init__(
      base_dir,
      create_agent_fn,
      create_environment_fn,
      num_iterations=num_iterations,
      training_steps=training_steps,
      evaluation_steps=evaluation_steps,
      max_steps_per_episode=max_steps_per_episode,
      measure_size=measure_size,
      keep_checkpoints=keep_checkpoints,
    )
    self.train_agent: Callable[..., Mapping[str, float]] = self._agent.train
    self._reference = self._agent.source.fixed_batch(measure_size)

  def _train(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """`training_steps` gradient updates."""
    del iteration
    self._agent.eval_mode = False
    self._clock.start()
    with self._bar('training', self._training_steps, 'updates', self._sums.updates) as bar:

      def progress(done: int) -> None:
        bar.update(done)
        signals.check()

      metrics = dict(
        self.train_agent(self._training_steps, progress, self._sums, done=self._sums.updates)
      )
    speed = metrics.pop('updates_per_second', self._training_steps / self._clock.seconds)
    statistics.append({'train_average_steps_per_second': speed})
    return {'updates_per_second': speed, **metrics}

  @property
  def sums(self) -> TrainingSums:
    """What the updates of the iteration reported so far."""
    return self._sums

  def _begin_training(self) -> None:
    self._sums = TrainingSums()

  def _training_state(self) -> dict[str, Any]:
    return self._sums.state_dict()

  def _restore_training(self, state: dict[str, Any]) -> None:
    self._sums.load_state_dict(state)

  def _transitions_to_measure(self) -> Batch:
    return self._reference

  def _what_it_learns_from(self) -> str:
    data = self._agent.source.describe()
    embedded = ' (embedded)' if data.get('embedded') else ''
    return f'{data["transitions"]:,} transitions of {data["dataset"]}{embedded}'

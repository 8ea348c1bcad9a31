"""Runners on Dopamine's Runner: train, evaluate, measure, log, checkpoint, each iteration.

Dopamine's own loop calls the phases and writes its log pickles; what is different here is that rank
is measured, that a checkpoint is one atomic file, that evaluation may be one compiled call, and
that an offline training phase is gradient updates on a fixed dataset. The online one is in
`online_runner`.
"""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Callable
from typing import Any

import gin
import jax
import numpy as np
import tqdm.auto as tqdm

from implicit_rl import checkpoints, dopamine_compat, metrics_log, progress  # noqa: F401
from implicit_rl.types import Batch

# isort: split
from dopamine.discrete_domains import iteration_statistics, run_experiment
from dopamine.discrete_domains import logger as dopamine_logger
from dopamine.metrics import statistics_instance

# The keys of a row that everything else relies on come first, in this order.
_LEADING = (
  'iteration',
  'updates',
  'srank',
  'sigma_max',
  'sigma_min',
  'td_error',
  'q_mean',
  'eval_return',
  'updates_per_second',
)


# What may differ between a run and its continuation: its length, where and how things are kept.
_FREE_ON_RESUME = (
  'OfflineRunner.num_iterations',
  'OfflineRunner.keep_checkpoints',
  'OnlineRunner.num_iterations',
  'OnlineRunner.keep_checkpoints',
  'DopamineReplay.cache_dir',
  'DopamineReplay.codec',
  'DopamineReplay.data_dir',
  'StoreReplay.frames',
  'StoreReplay.path',
  'TFDSReplay.cache_dir',
  'TFDSReplay.codec',
  'TFDSReplay.data_dir',
  'VectorReplay.path',
)


def settings() -> dict[str, str]:
  """What gin binds now, by name; values as they stand in gin."""
  lines = gin.config_str(max_line_length=10**6).splitlines()
  pairs = (line.split(' = ', 1) for line in lines if ' = ' in line and not line.startswith('#'))
  return dict(sorted((name, value) for name, value in pairs))


class Runner(run_experiment.Runner, abc.ABC):
  """What the offline and the online runner share; a subclass says what a training phase is.

  Args:
    base_dir: directory of the run: `metrics.jsonl`, `spectra.jsonl` (singular values), `logs/`
      (Dopamine's pickles), `metrics/` (TensorBoard), `checkpoints/`. A run that finds a checkpoint
      there goes on from it.
    create_agent_fn: as Dopamine's: (sess, environment, summary_writer) -> agent.
    create_environment_fn: () -> environment.
    num_iterations: iterations in the whole run.
    training_steps: length of a training phase.
    evaluation_steps: least environment steps in an evaluation; episodes are played to their end.
    max_steps_per_episode: environment steps after which an episode is cut; None takes the
      environment's own limit.
    measure_size: transitions that the features are measured on; 2048 in the paper.
    keep_checkpoints: how many of the newest checkpoints stay.
    clip_rewards: give the agent rewards clipped to [−1, 1].

  Raises:
    ValueError: for counts out of range, data of another game than the environment's, or a directory
      that holds a run with other settings or data, or results without a checkpoint.
  """

  def __init__(
    self,
    base_dir: str,
    create_agent_fn: Callable[..., Any],
    create_environment_fn: Callable[[], Any],
    *,
    num_iterations: int,
    training_steps: int,
    evaluation_steps: int,
    max_steps_per_episode: int | None,
    measure_size: int,
    keep_checkpoints: int,
    clip_rewards: bool = True,
  ):
    for name, value, least in (
      ('num_iterations', num_iterations, 1),
      ('training_steps', training_steps, 1),
      ('evaluation_steps', evaluation_steps, 0),
      ('measure_size', measure_size, 1),
      ('keep_checkpoints', keep_checkpoints, 1),
    ):
      if not isinstance(value, int) or value < least:
        raise ValueError(f'{type(self).__name__}.{name} is at least {least}, not {value!r}.')
    if max_steps_per_episode is not None and max_steps_per_episode < 1:
      raise ValueError(
        f'{type(self).__name__}.max_steps_per_episode is at least 1, not {max_steps_per_episode}.'
      )
    self._keep_checkpoints = keep_checkpoints
    self._metrics_path = os.path.join(base_dir, 'metrics.jsonl')
    self._spectra_path = os.path.join(base_dir, 'spectra.jsonl')
    self._progress: tqdm.tqdm | None = None
    super().__init__(
      base_dir,
      create_agent_fn,
      create_environment_fn,
      num_iterations=num_iterations,
      training_steps=training_steps,
      evaluation_steps=evaluation_steps,
      max_steps_per_episode=max_steps_per_episode,
      clip_rewards=clip_rewards,
      fine_grained_print_to_console=False,
    )
    self._max_steps_per_episode = max_steps_per_episode or self._environment.max_steps_per_episode
    self._measure_size = measure_size

  # --- phases -----------------------------------------------------------------------------------

  def _run_one_iteration(self, iteration: int) -> dict[str, list[Any]]:
    began = time.monotonic()
    statistics = iteration_statistics.IterationStatistics()
    row: dict[str, Any] = {'iteration': iteration}
    row |= self._train(iteration, statistics)
    row |= self._measure(iteration)
    row |= self._evaluate(iteration, statistics)
    row['updates'] = self._agent.updates
    row = {name: row[name] for name in _LEADING} | row
    metrics_log.append(self._metrics_path, row)
    tqdm.tqdm.write(progress.line(row, self._num_iterations, time.monotonic() - began))
    scalars = {name: value for name, value in row.items() if value is not None}
    statistics.append(scalars)
    self._collector_dispatcher.write(
      [
        statistics_instance.StatisticsInstance(name, float(value), iteration)
        for name, value in scalars.items()
      ]
    )
    return statistics.data_lists

  @abc.abstractmethod
  def _train(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """The training phase; returns its part of the row, `updates_per_second` among it."""

  @abc.abstractmethod
  def _transitions_to_measure(self) -> Batch:
    """`measure_size` transitions that rank, TD error and Q are measured on."""

  def _measure(self, iteration: int) -> dict[str, Any]:
    """Rank, TD error and Q; the spectrum goes to a file of its own."""
    measured = dict(self._agent.measure(self._transitions_to_measure()))
    spectrum = {'iteration': iteration, 'updates': self._agent.updates}
    spectrum['singular_values'] = measured.pop('singular_values')
    metrics_log.append(self._spectra_path, spectrum)
    return {name: np.asarray(value).item() for name, value in measured.items()}

  def _evaluate(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """The evaluation phase, in one compiled call where the environment offers it."""
    if not self._evaluation_steps:
      return {'eval_return': None, 'eval_episodes': 0}
    self._agent.eval_mode = True
    start = time.monotonic()
    if hasattr(self._environment, 'evaluate'):
      returns = self._evaluate_compiled(iteration, statistics)
    else:
      self._seed_environment(jax.random.fold_in(self._agent.evaluation_key, iteration))
      with self._bar('evaluating', self._evaluation_steps, 'steps') as self._progress:
        self._run_eval_phase(statistics)
      self._progress = None
      returns = statistics.data_lists['eval_episode_returns']
    return {
      'eval_return': float(np.mean(returns)),
      'eval_return_std': float(np.std(returns)),
      'eval_episodes': len(returns),
      'eval_seconds': time.monotonic() - start,
    }

  def _evaluate_compiled(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> np.ndarray:
    returns, lengths = self._environment.evaluate(
      self._agent.policy,
      self._agent.state.params,
      jax.random.fold_in(self._agent.evaluation_key, iteration),
      self._evaluation_steps,
      self._max_steps_per_episode,
    )
    for length, episode_return in zip(lengths, returns, strict=True):
      statistics.append(
        {'eval_episode_lengths': int(length), 'eval_episode_returns': float(episode_return)}
      )
    statistics.append({'eval_average_return': float(np.mean(returns))})
    return np.asarray(returns)

  def _seed_environment(self, key: jax.Array) -> None:
    """Seeds the games, so that a resumed run plays what it would have played."""
    self._environment.seed(int(jax.random.bits(key, dtype='uint32')))

  def _run_one_episode(self) -> tuple[int, float]:
    length, episode_return = super()._run_one_episode()
    if self._progress is not None:
      self._progress.update(length)
    return length, episode_return

  def _end_episode(self, reward: float, terminal: bool = True) -> None:
    # Dopamine tells only its own JaxDQNAgent whether an episode ended or was cut.
    self._agent.end_episode(reward, terminal)

  # --- what a person sees -----------------------------------------------------------------------

  def _bar(self, what: str, total: int, unit: str) -> tqdm.tqdm:
    return tqdm.tqdm(desc=what, total=total, unit=f' {unit}', leave=False, dynamic_ncols=True)

  # --- saving -----------------------------------------------------------------------------------

  def _create_directories(self) -> None:
    # Dopamine's version prints a deprecation warning about the very logs that its users plot.
    self._checkpoint_dir = os.path.join(self._base_dir, 'checkpoints')
    self._logger = dopamine_logger.Logger(os.path.join(self._base_dir, 'logs'))

  def _initialize_checkpointer_and_maybe_resume(self, checkpoint_file_prefix: str) -> None:
    del checkpoint_file_prefix
    self._start_iteration = 0
    self._check_the_game()
    newest = checkpoints.load_newest(self._checkpoint_dir)
    if newest is not None:
      iteration, tree = newest
      self._refuse_difference('setting', tree['settings'], self._settings)
      self._refuse_difference('data', tree['dataset'], self._agent.source.identity())
      self._restore(iteration, tree)
      self._logger.data = tree['logs']
      self._start_iteration = iteration + 1
      if self._start_iteration < self._num_iterations:
        print(f'Resuming at iteration {iteration + 2}/{self._num_iterations}.')
      else:
        print(
          f'{self._base_dir} is complete: {iteration + 1} iterations. To go on, raise '
          f'{type(self).__name__}.num_iterations.'
        )
    elif os.path.exists(self._metrics_path) and len(metrics_log.read(self._metrics_path)) > 1:
      raise ValueError(
        f'{self._base_dir} holds results but no checkpoint to go on from; use a new --base_dir.'
      )
    for path in (self._metrics_path, self._spectra_path):
      metrics_log.keep_before(path, self._start_iteration)

  def _restore(self, iteration: int, tree: dict[str, Any]) -> None:
    """Takes back what `_state` returned."""
    self._agent.unbundle(self._checkpoint_dir, iteration, tree['agent'])

  def _state(self, iteration: int) -> dict[str, Any]:
    """Everything that the run's future depends on, as nested dicts of arrays."""
    return {'agent': self._agent.bundle_and_checkpoint(self._checkpoint_dir, iteration)}

  def _checkpoint_experiment(self, iteration: int) -> None:
    tree = {
      **self._state(iteration),
      'settings': self._settings,
      'dataset': self._agent.source.identity(),
      'logs': self._logger.data,
    }
    checkpoints.save(self._checkpoint_dir, iteration, tree, self._keep_checkpoints)

  def _check_the_game(self) -> None:
    if self._agent.source is None:
      raise ValueError('There is nothing to train on: bind Agent.source, as @TFDSReplay.')
    game = self._agent.source.identity().get('game')
    if game not in (None, self._environment.name):
      raise ValueError(
        f'The data is of {game}, the environment is {self._environment.name}; bind GAME, which '
        'sets both.'
      )

  @property
  def _settings(self) -> dict[str, str]:
    return {name: value for name, value in settings().items() if name not in _FREE_ON_RESUME}

  def _refuse_difference(self, what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    differing = [
      f'{name} was {there.get(name, "not set")} and is {here.get(name, "not set")}'
      for name in sorted(there.keys() | here.keys())
      if there.get(name) != here.get(name)
    ]
    if differing:
      raise ValueError(
        f'{self._base_dir} holds a run with another {what}: {"; ".join(differing[:3])}. Use a new '
        '--base_dir, or the settings it was started with.'
      )

  def run_experiment(self) -> None:
    """Runs the iterations that are left."""
    if self._start_iteration < self._num_iterations:
      what = f'{type(self._agent).__name__} in {self._environment.name}'
      print(
        f'{what} on {self._what_it_learns_from()}, '
        f'{jax.devices()[0].device_kind}, into {self._base_dir}'
      )
      super().run_experiment()

  @abc.abstractmethod
  def _what_it_learns_from(self) -> str:
    """A few words for the line that a run begins with."""

  def describe(self) -> dict[str, Any]:
    """What the run's record says of its parts."""
    return {
      'agent': type(self._agent).__name__,
      'environment': self._environment.name,
      'dataset': self._agent.source.describe(),
      'start_iteration': self._start_iteration,
    }


@gin.configurable(denylist=['base_dir', 'create_agent_fn', 'create_environment_fn'])
class OfflineRunner(Runner):
  """Trains an agent from its data source alone; the environment serves to evaluate it.

  Args:
    base_dir: see `Runner`, as for all that is not said here.
    create_agent_fn: makes the agent.
    create_environment_fn: makes the environment.
    num_iterations: iterations in the whole run.
    training_steps: gradient updates in an iteration.
    evaluation_steps: least environment steps in an evaluation.
    max_steps_per_episode: environment steps after which an evaluation episode is cut.
    measure_size: transitions that the features are measured on, the same in every iteration.
    keep_checkpoints: how many of the newest checkpoints stay.
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
  ):
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
    self._reference = self._agent.source.fixed_batch(measure_size)

  def _train(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """`training_steps` gradient updates."""
    del iteration
    self._agent.eval_mode = False
    start = time.monotonic()
    with self._bar('training', self._training_steps, 'updates') as bar:
      metrics = self._agent.train(self._training_steps, progress=bar.update)
    speed = self._training_steps / (time.monotonic() - start)
    statistics.append({'train_average_steps_per_second': speed})
    return {'updates_per_second': speed, **metrics}

  def _transitions_to_measure(self) -> Batch:
    return self._reference

  def _what_it_learns_from(self) -> str:
    data = self._agent.source.describe()
    embedded = ' (embedded)' if data.get('embedded') else ''
    return f'{data["transitions"]:,} transitions of {data["dataset"]}{embedded}'

"""Runners based on Dopamine's Runner: each iteration trains, evaluates, measures, logs and saves.

Iterations and log pickles are those of Dopamine. In addition, rank is measured, a checkpoint is one
atomic file, a run can be stopped and resumed within an iteration, and an environment may play the
evaluation's episodes in parallel. `offline_runner` and `online_runner` define the training phase.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm.auto as tqdm

from implicit_rl import environments
from implicit_rl.compat.settings import check_number
from implicit_rl.diagnostics import alarms as alarms_of
from implicit_rl.environments import one_by_one
from implicit_rl.logs import jsonl, progress_bars
from implicit_rl.logs.running_means import check_finite
from implicit_rl.running import progress, saving_runner, signals
from implicit_rl.types import Batch

# isort: split
from dopamine.discrete_domains import iteration_statistics
from dopamine.metrics import statistics_instance

# Keys of a row that other code relies on; they come first, in this order.
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


TrainSome = Callable[[Sequence[Any], Callable[[int], Any]], None]

# Values that can't be infinite in a sound network; a condition number can.
_FINITE = ('loss', 'td_error', 'q_mean', 'q_max', 'singular_values')


@dataclasses.dataclass
class Episode:
  """State of an episode that is played on the host.

  Attributes:
    action: the next action.
    steps: environment steps done.
    episode_return: unclipped reward so far.
  """

  action: Any
  steps: int = 0
  episode_return: float = 0.0


class Runner(saving_runner.SavingRunner):
  """Base of the offline and the online runner; a subclass defines the training phase.

  Args:
    base_dir: directory of the run: `metrics.jsonl`, `spectra.jsonl` (singular values), `logs/`
      (Dopamine's pickles), `metrics/` (TensorBoard), `checkpoints/`. A run that finds a checkpoint
      there resumes from it.
    create_agent_fn: as Dopamine's: (sess, environment, summary_writer) -> agent.
    create_environment_fn: () -> environment.
    num_iterations: iterations in the whole run.
    training_steps: length of a training phase.
    evaluation_steps: minimum environment steps of an evaluation; episodes are played to their end.
    max_steps_per_episode: environment steps after which an episode ends; None uses the
      environment's own limit. On the host an environment may truncate an episode earlier.
    measure_size: transitions that the features are measured on; 2048 in the paper.
    keep_checkpoints: how many of the newest checkpoints are kept.
    clip_rewards: whether the agent gets rewards clipped to [−1, 1]; returns are logged unclipped.
    num_seeds: run this many seeds, from --seed upwards, each in `base_dir/seed_S`.
    seeds_as: 'vmap', one program for all seeds: offline on one data source, online with a
      `DeviceReplay`; 'processes', in parallel; 'auto' is 'processes' on the CPU, and elsewhere
      'vmap' if that is possible.

  Attributes:
    evaluate_policy: plays an evaluation, see `environments.Evaluate`; several runs in one program
      replace it.
    evaluation_clock: measures the evaluation.
    measure_agent: `measure_agent(iteration)` measures rank, TD error, Q and the diagnostics, see
      `Agent.measure`; several runs in one program replace it.
    do_training: `do_training(progress)` does the rest of a training phase: `train_alone` unless
      several runs train in one program.

  Raises:
    ValueError: for counts out of range, data of another game than the environment's, or a directory
      that holds a run with other settings or data, or results without a checkpoint.
  """

  def __init_subclass__(cls, **kwargs: Any):
    """Adds forwarded arguments to a subclass constructor's signature, for gin."""
    super().__init_subclass__(**kwargs)
    if '__init__' not in vars(cls):
      return
    forwarded = inspect.signature(super(cls, cls).__init__).parameters
    own: Any = cls.__init__
    every = {**forwarded, **inspect.signature(own).parameters}.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own.__signature__ = inspect.Signature([one for one in every if one.kind not in variable])

  def __init__(
    self,
    base_dir: str,
    create_agent_fn: Callable[..., Any],
    create_environment_fn: Callable[[], Any],
    *,
    num_iterations: int,
    training_steps: int,
    evaluation_steps: int = 125_000,  # environment steps
    max_steps_per_episode: int | None = None,  # environment steps
    measure_size: int = 2048,
    keep_checkpoints: int = 3,
    clip_rewards: bool = True,
    num_seeds: int = 1,
    seeds_as: str = 'auto',
  ):
    del num_seeds, seeds_as  # Consumed by experiment.create_runner().
    for name, value, least in (
      ('num_iterations', num_iterations, 1),
      ('training_steps', training_steps, 1),
      ('evaluation_steps', evaluation_steps, 0),
      ('measure_size', measure_size, 1),
      ('keep_checkpoints', keep_checkpoints, 1),
    ):
      check_number(f'{type(self).__name__}.{name}', value, least=least, whole=True)
    longest = f'{type(self).__name__}.max_steps_per_episode'
    check_number(longest, max_steps_per_episode, least=1, whole=True, optional=True)
    self.do_training: Callable[[Callable[[int], Any]], None] = self.train_alone
    self.measure_agent: Callable[[int], dict[str, Any]] = self._measure_alone
    self.evaluation_clock = saving_runner.Stopwatch()
    self._progress: Any = None  # The progress bar of the phase that is played on the host.
    self._episode: Episode | None = None

    def create_environment() -> Any:
      made = create_environment_fn()
      self._able = environments.check(made)
      self._check_environment(made)  # Before the agent reads its data.
      return made

    super().__init__(
      base_dir,
      create_agent_fn,
      create_environment,
      num_iterations=num_iterations,
      training_steps=training_steps,
      evaluation_steps=evaluation_steps,
      max_steps_per_episode=max_steps_per_episode,
      clip_rewards=clip_rewards,
      keep_checkpoints=keep_checkpoints,
      fine_grained_print_to_console=False,
    )
    self._check_actions()
    self._agent.learner.check_batch(self._agent.batch_size)
    self._max_steps_per_episode = max_steps_per_episode or self._environment.max_steps_per_episode
    self._measure_size = measure_size
    self.evaluate_policy: Callable[..., Any] = self._able.evaluate or functools.partial(
      one_by_one.evaluate, self._environment, self._able
    )

  def _check_environment(self, environment: Any) -> None:
    """Raises ValueError, before the agent is created, for a capability that `_able` lacks."""

  def _check_actions(self) -> None:
    """Raises ValueError unless agent and environment have the same kind of actions."""
    agents, environments_own = tuple(self._agent.action_shape), tuple(self._able.action_shape)
    if agents != environments_own:
      raise ValueError(
        f'{type(self._agent).__name__} chooses actions of shape {agents}, and '
        f'{type(self._environment).__name__} takes those of shape {environments_own}; () is for '
        'discrete actions. Bind Experiment.agent or Experiment.environment to another one, or '
        'declare action_shape in your environment.'
      )

  # --- phases -----------------------------------------------------------------------------------

  def _run_one_iteration(self, iteration: int) -> dict[str, list[Any]]:
    began = time.monotonic()
    self._iteration = iteration
    signals.check()
    statistics = iteration_statistics.IterationStatistics()
    if self._trained is None:
      row = {'iteration': iteration, **self._train(iteration, statistics)}
      self._trained = {
        'row': row,
        'statistics': copy.deepcopy(statistics.data_lists),
        'remembered': self._agent.measurements.state_dict(),
      }
    row, statistics.data_lists = self._trained['row'], copy.deepcopy(self._trained['statistics'])
    self.before_measuring()
    row = row | self._measure(iteration)
    alarms = self._alarms.check(row, self._agent.value_bounds(), self._agent.gamma)
    row = row | {'alarms': list(alarms)} | self._evaluate(iteration, statistics)
    row['updates'] = self._agent.updates
    self.evaluation_clock = saving_runner.Stopwatch()
    row = {name: row[name] for name in _LEADING} | row
    jsonl.append(self._metrics_path, row)
    seconds = time.monotonic() - began
    tqdm.tqdm.write(progress.line(row, self._num_iterations, seconds, self._first_update_after()))
    for told in alarms_of.onsets(alarms, self._ringing):
      tqdm.tqdm.write(f'Iteration {iteration + 1}: {told}')
    self._ringing = list(alarms)
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
    scalars = {name: value for name, value in numbers.items() if not math.isnan(value)}
    scalars['alarms'] = len(alarms)
    statistics.append(scalars)
    self._collector_dispatcher.write(
      [
        statistics_instance.StatisticsInstance(name, float(value), iteration)
        for name, value in scalars.items()
      ]
    )
    self._note_best(iteration, row['eval_return'])
    self._trained = None
    self._clock = saving_runner.Stopwatch()
    self._begin_training()
    return statistics.data_lists

  @abc.abstractmethod
  def _train(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """Does the training phase, or the rest of it.

    It raises StoppedError only where `_training_state` has everything for resuming.

    Returns:
      Its part of the row, including `updates_per_second`.
    """

  @abc.abstractmethod
  def train_alone(self, progress: Callable[[int], Any]) -> None:
    """Does the rest of a training phase, of this run only.

    Args:
      progress: called after every compiled call with the number of its updates, or online of its
        environment steps. If it raises, the run has the state after that call.
    """

  @property
  @abc.abstractmethod
  def training_done(self) -> int:
    """Number of updates of the training phase that are done; online of environment steps."""

  @property
  def place(self) -> tuple[bool, int]:
    """Returns the iteration's progress: whether its training is over, else `training_done`."""
    return self._trained is not None, self.training_done

  @abc.abstractmethod
  def side_by_side(self, everyone: Sequence[Any], differ: bool) -> TrainSome:
    """Returns a function that trains several runs in one vmapped program.

    Args:
      everyone: this runner and others of its kind.
      differ: whether the numbers in their updates differ, not only their seeds.

    Returns:
      `train(some, progress)` does the rest of the training phase of `some` of them, which must have
      equal progress.

    Raises:
      ValueError: if this kind of run can't train in one program.
    """

  def _first_update_after(self) -> int:
    """Environment steps in the whole run before its first update."""
    return 0

  @abc.abstractmethod
  def transitions_to_measure(self) -> Batch:
    """Returns the `measure_size` transitions that rank, TD error and Q are measured on."""

  def before_measuring(self) -> None:
    """Restores the diagnostics' remembered values from before this iteration was measured.

    A run that was stopped in its evaluation measures again, compared with the same values.
    """
    if self._trained is not None:
      self._agent.measurements.load_state_dict(self._trained.get('remembered', {}))

  def _measure_alone(self, iteration: int) -> dict[str, Any]:
    return self._agent.measure(self.transitions_to_measure(), iteration)

  def _measure(self, iteration: int) -> dict[str, Any]:
    """Returns rank, TD error, Q and the diagnostics; arrays go to a separate file."""
    measured = self.measure_agent(iteration)
    checked = {name: np.asarray(measured[name]) for name in _FINITE if name in measured}
    check_finite(checked, self._agent.updates)
    spectrum = {'iteration': iteration, 'updates': self._agent.updates}
    arrays = {name: value for name, value in measured.items() if np.ndim(value)}
    jsonl.append(self._spectra_path, spectrum | arrays)
    return {
      name: np.asarray(value).item() for name, value in measured.items() if name not in arrays
    }

  def _evaluate(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """Does the evaluation phase: with the environment's own method, or episode by episode."""
    if not self._evaluation_steps:
      return {'eval_return': None, 'eval_episodes': 0}
    self._agent.eval_mode = True
    self.evaluation_clock.start()
    with self._bar('evaluating', self._evaluation_steps, 'steps') as bar:

      def progress(steps: int) -> None:
        bar.update(steps)
        signals.check()  # The whole evaluation is repeated.

      returns, lengths = self.evaluate_policy(
        self._agent.policy,
        self._agent.state.params,
        self.evaluation_key(iteration),
        self._evaluation_steps,
        self._max_steps_per_episode,
        progress,
      )
    for length, episode_return in zip(lengths, returns, strict=True):
      statistics.append(
        {'eval_episode_lengths': int(length), 'eval_episode_returns': float(episode_return)}
      )
    statistics.append({'eval_average_return': float(np.mean(returns))})
    return {
      'eval_return': float(np.mean(returns)),
      'eval_return_std': float(np.std(returns)),
      'eval_episodes': len(returns),
      'eval_seconds': self.evaluation_clock.seconds,
    }

  def evaluation_key(self, iteration: int) -> jax.Array:
    """Returns the key of an iteration's evaluation."""
    return jax.random.fold_in(self._agent.evaluation_key, iteration)

  @property
  def evaluate_all(self) -> Callable[..., Any] | None:
    """Returns the environment's evaluation of several runs as one program; None if it has none."""
    return self._able.evaluate_all

  def _seed_environment(self, key: jax.Array) -> None:
    """Seeds the games, so that a resumed run plays the same games."""
    if self._able.seed is not None:  # Else episodes would depend on the place of resuming.
      self._able.seed(int(jax.random.bits(key, dtype='uint32')))

  def _run_one_episode(self) -> tuple[int, float]:
    """Plays a training episode, or the rest of an interrupted one, to its end."""
    if self._episode is None:
      self._episode = Episode(action=self._initialize_episode())
    episode = self._episode
    while True:
      if self._able.state_dict is not None:
        signals.check()
      observation, reward, terminal = self._run_one_step(episode.action)
      episode.steps += 1
      episode.episode_return += reward
      if self._progress is not None:
        self._progress.update(1)
      if self._clip_rewards:
        reward = float(np.clip(reward, -1, 1))
      if self._able.over(self._environment) or episode.steps >= self._max_steps_per_episode:
        break
      if terminal:  # A life was lost, which ends the agent's episode but not the game.
        self._end_episode(reward, terminal)
        episode.action = self._agent.begin_episode(observation)
      else:
        episode.action = self._agent.step(reward, observation)
    self._end_episode(reward, terminal)
    self._episode = None
    return episode.steps, episode.episode_return

  def _end_episode(self, reward: float, terminal: bool = True) -> None:
    # Dopamine tells only its own JaxDQNAgent whether an episode terminated or was truncated.
    self._agent.end_episode(reward, terminal)

  # --- what a person sees -----------------------------------------------------------------------

  def _bar(self, what: str, total: int, unit: str, done: int = 0) -> Any:
    what = f'iteration {self._iteration + 1}/{self._num_iterations}, {what}'
    return progress_bars.bar(total, what, unit, done, leave=False)

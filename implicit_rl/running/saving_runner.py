"""Saves and resumes a run: checkpoints, also within an iteration, and stopping gracefully.

An iteration does what Dopamine's does: iteration, log pickle, checkpoint.
"""

from __future__ import annotations

import abc
import contextlib
import os
import pickle
import time
from collections.abc import Iterator
from typing import Any

import jax

from implicit_rl.compat import dopamine_compat  # noqa: F401
from implicit_rl.diagnostics.alarms import Alarms
from implicit_rl.logs import checkpoints, jsonl
from implicit_rl.logs.running_means import NonFiniteError, check_finite
from implicit_rl.running import resume_checks, run_directory, signals

# isort: split
from dopamine.discrete_domains import logger as dopamine_logger
from dopamine.discrete_domains import run_experiment


class Stopwatch:
  """Measures seconds across interruptions, from the call of `start`."""

  def __init__(self, seconds: float = 0.0):
    self._before, self._start = seconds, time.monotonic()
    self._running = False

  def add(self, seconds: float) -> None:
    """Adds the seconds of another watch."""
    self._before += seconds

  def start(self) -> None:
    """Starts counting."""
    self._start, self._running = time.monotonic(), True

  @property
  def seconds(self) -> float:
    """Returns the seconds before the start and since."""
    return self._before + (time.monotonic() - self._start) * self._running


class Logger(dopamine_logger.Logger):
  """Writes Dopamine's log pickles atomically and without TensorFlow.

  Args:
    logging_dir: their directory; created if absent.
  """

  def __init__(self, logging_dir: str):
    super().__init__('')  # Creates no directory, for which it would use TensorFlow.
    os.makedirs(logging_dir, exist_ok=True)
    self._logging_dir, self._logging_enabled = logging_dir, True

  def log_to_file(self, filename_prefix: str, iteration_number: int) -> None:
    """Writes all iterations so far and removes the file of `_logs_duration` iterations ago."""
    path = self._generate_filename(filename_prefix, iteration_number)
    aside = f'{path}.partial'
    try:
      with open(aside, 'wb') as file:
        pickle.dump(self.data, file, protocol=pickle.HIGHEST_PROTOCOL)
      os.replace(aside, path)
    except OSError:
      os.remove(aside)
      raise
    old = self._generate_filename(filename_prefix, iteration_number - self._logs_duration)
    if os.path.exists(old):
      os.remove(old)


class SavingRunner(run_experiment.Runner, abc.ABC):
  """Extends Dopamine's Runner with atomic checkpoints, also within an iteration.

  Args:
    base_dir: directory of the run.
    *args: Dopamine's.
    keep_checkpoints: how many of the newest checkpoints are kept.
    **kwargs: Dopamine's.
  """

  def __init__(self, base_dir: str, *args: Any, keep_checkpoints: int, **kwargs: Any):
    self._keep_checkpoints = keep_checkpoints
    # Read now, since with several runs in one program gin later has the settings of the last one.
    self._settings = resume_checks.fixed_settings()
    self._metrics_path = os.path.join(base_dir, 'metrics.jsonl')
    self._spectra_path = os.path.join(base_dir, 'spectra.jsonl')
    # Progress of the iteration, for a checkpoint within it.
    self._iteration = 0
    self._trained: dict[str, Any] | None = None  # Row and statistics, after training.
    self._clock = Stopwatch()
    self._best: dict[str, Any] | None = None
    self._alarms = Alarms()
    self._ringing: list[str] = []  # The alarms of the last iteration.
    self._begin_training()
    super().__init__(base_dir, *args, **kwargs)

  # --- for several seeds in step ----------------------------------------------------------------

  @property
  def agent(self) -> Any:
    """The agent in training."""
    return self._agent

  @property
  def clock(self) -> Stopwatch:
    """Measures the training phase."""
    return self._clock

  @property
  def iterations(self) -> range:
    """Iterations that remained when the runner was created."""
    return range(self._start_iteration, self._num_iterations)

  @property
  def stopped_by(self) -> list[str]:
    """The raised alarms that end the run."""
    return [name for name in self._ringing if name in self._alarms.stop]

  def iterate(self, iteration: int) -> None:
    """Runs one iteration, or the rest of it, then logs and saves it."""
    statistics = self._run_one_iteration(iteration)
    self._log_experiment(iteration, statistics)
    self._checkpoint_experiment(iteration)
    self._collector_dispatcher.flush()

  def keep_interrupted(self, iteration: int) -> None:
    """Saves an iteration that was interrupted."""
    self._iteration = iteration
    self._checkpoint_interrupted()

  # --- what a runner says of its training -------------------------------------------------------

  @abc.abstractmethod
  def _begin_training(self) -> None:
    """Clears the state of the last training phase."""

  @abc.abstractmethod
  def _training_state(self) -> dict[str, Any]:
    """Returns what an interrupted training phase needs to resume, besides `_state`."""

  @abc.abstractmethod
  def _restore_training(self, state: dict[str, Any]) -> None:
    """Restores what `_training_state` returned."""

  def _create_directories(self) -> None:
    # Dopamine's version prints a deprecation warning about the very logs that its users plot.
    self._checkpoint_dir = os.path.join(self._base_dir, 'checkpoints')
    self._logger = Logger(os.path.join(self._base_dir, 'logs'))

  def _initialize_checkpointer_and_maybe_resume(self, checkpoint_file_prefix: str) -> None:
    del checkpoint_file_prefix
    self._start_iteration = 0
    self._check_the_game()
    newest = checkpoints.load_newest(self._checkpoint_dir)
    if newest is not None:
      iteration, tree = newest
      resume_checks.refuse_difference(self._base_dir, 'setting', tree['settings'], self._settings)
      resume_checks.refuse_difference(
        self._base_dir, 'data', tree['dataset'], self._agent.source.identity()
      )
      self._restore(iteration, tree)
      self._logger.data, self._best = tree['logs'], tree['best']
      begun = tree.get('interrupted')
      self._start_iteration = iteration + 1 if begun is None else iteration
      if begun is not None:
        self._trained, self._clock = begun['trained'], Stopwatch(float(begun['seconds']))
        if self._trained is None:
          self._restore_training(begun['training'])
        print(f'Resuming within iteration {iteration + 1}/{self._num_iterations}.')
      elif self._start_iteration < self._num_iterations:
        print(f'Resuming at iteration {iteration + 2}/{self._num_iterations}.')
      else:
        print(
          f'{self._base_dir} is complete: {iteration + 1} iterations. To train longer, raise '
          f'{type(self).__name__}.num_iterations.'
        )
    elif os.path.exists(self._metrics_path) and len(jsonl.read(self._metrics_path)) > 1:
      raise ValueError(
        f'{self._base_dir} holds results but no checkpoint to resume from; use a new --base_dir.'
      )
    for path in (self._metrics_path, self._spectra_path):
      jsonl.keep_before(path, self._start_iteration)
    rows = jsonl.read(self._metrics_path) if os.path.exists(self._metrics_path) else []
    self._ringing = rows[-1].get('alarms', []) if rows else []

  def _restore(self, iteration: int, tree: dict[str, Any]) -> None:
    """Restores what `_state` returned."""
    self._agent.unbundle(self._checkpoint_dir, iteration, tree['agent'])

  def _state(self, iteration: int) -> dict[str, Any]:
    """Returns all state that a resumed run needs, as nested dicts of arrays."""
    return {'agent': self._agent.bundle_and_checkpoint(self._checkpoint_dir, iteration)}

  def _tree(self, iteration: int) -> dict[str, Any]:
    return {
      **self._state(iteration),
      'settings': self._settings,
      'dataset': self._agent.source.identity(),
      'logs': self._logger.data,
      'best': self._best,
    }

  def _note_best(self, iteration: int, eval_return: float | None) -> None:
    """Saves the policy with the highest evaluation so far as `checkpoints/best.msgpack`."""
    if eval_return is None or (self._best and eval_return <= self._best['eval_return']):
      return
    self._best = {'iteration': iteration, 'eval_return': eval_return}
    tree = self._tree(iteration) | self._best
    learner = {'learner': tree['agent']['learner']}  # Without a replay, which may be large.
    kept = {name: tree[name] for name in ('settings', 'dataset', *self._best)}
    # Before the checkpoint: a run that is killed in between writes the same file again.
    checkpoints.write(
      os.path.join(self._checkpoint_dir, checkpoints.BEST), {'agent': learner, **kept}
    )

  def _checkpoint_experiment(self, iteration: int) -> None:
    tree = self._tree(iteration)
    state = jax.tree_util.tree_flatten_with_path(tree['agent']['learner'])[0]
    check_finite(
      {f'learner{jax.tree_util.keystr(path)}': leaf.ravel() for path, leaf in state},
      self._agent.updates,
    )
    checkpoints.save(self._checkpoint_dir, iteration, tree, self._keep_checkpoints)

  def _checkpoint_interrupted(self) -> None:
    """Saves an iteration that was interrupted."""
    iteration = self._iteration
    training = self._training_state() if self._trained is None else None
    begun = {'trained': self._trained, 'training': training, 'seconds': self._clock.seconds}
    tree = self._tree(iteration) | {'interrupted': begun}
    checkpoints.save(self._checkpoint_dir, iteration, tree, interrupted=True)

  def _check_the_game(self) -> None:
    if self._agent.source is None:
      raise ValueError('Offline training needs data: bind Agent.source, such as @TFDSReplay.')
    game = self._agent.source.identity().get('game')
    name = self._environment.name
    if game not in (None, name, name.rpartition('-v')[0]):  # Minari's Hopper fits a Hopper-v5.
      raise ValueError(
        f'The data is of {game}, the environment is {self._environment.name}; bind GAME, which '
        'sets both.'
      )

  def run_experiment(self) -> None:
    """Runs the remaining iterations; on SIGTERM or SIGINT saves and returns.

    Raises:
      NonFiniteError: for a non-finite number that would invalidate the run.
      OSError: if something can't be written or read; existing checkpoints stay.
    """
    todo = self._start_iteration < self._num_iterations
    try:
      with self.explained():
        if todo:
          what = f'{type(self._agent).__name__} in {self._environment.name}'
          print(
            f'{what} on {self._what_it_learns_from()}, '
            f'{jax.devices()[0].device_kind}, into {self._base_dir}'
          )
          self._run_until_stopped()
        if not signals.requested():
          self.finish(todo)
    finally:
      run_directory.release(self._base_dir)

  @contextlib.contextmanager
  def explained(self) -> Iterator[None]:
    """Adds the iteration, and how the run can be resumed, to an error of the block."""
    try:
      yield
    except NonFiniteError as error:
      raise NonFiniteError(
        f'{error}, in iteration {self._iteration + 1}. {self._last_checkpoint()} To avoid it, try '
        'a lower learning rate, Learner.max_gradient_norm or Learner.on_nonfinite = "skip" in a '
        'new --base_dir.'
      ) from error
    except OSError as error:
      raise OSError(
        f'{error} in iteration {self._iteration + 1}. {self._last_checkpoint()} Fix the cause, '
        'then rerun the same command to resume.'
      ) from error

  def finish(self, ran: bool) -> None:
    """Called after the last iteration; `ran` is whether this process ran any iteration."""

  def _run_until_stopped(self) -> None:
    with signals.watched():
      try:
        for iteration in self.iterations:
          if self.stopped_by:
            print(
              f'Stopped before iteration {iteration + 1} by Alarms.stop: '
              f'{", ".join(self.stopped_by)}. To continue, bind Alarms.stop = ().'
            )
            break
          self.iterate(iteration)
        self._collector_dispatcher.close()
      except signals.StoppedError:
        self._checkpoint_interrupted()
        print(
          f'Stopped within iteration {self._iteration + 1}/{self._num_iterations}. Rerun the '
          'same command to resume.'
        )

  def _last_checkpoint(self) -> str:
    path = checkpoints.newest(self._checkpoint_dir)
    return f'The last good checkpoint is {path}.' if path else 'There is no checkpoint yet.'

  @abc.abstractmethod
  def _what_it_learns_from(self) -> str:
    """Returns the words that describe the data in the run's first line."""

  def describe(self) -> dict[str, Any]:
    """Returns what run.json records of agent, environment and data."""
    return {
      'agent': type(self._agent).__name__,
      'environment': self._environment.name,
      'dataset': self._agent.source.describe(),
      'start_iteration': self._start_iteration,
    }

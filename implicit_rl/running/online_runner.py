"""The online runner: n gradient updates per environment step, on the agent's own experience."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import numpy as np

from implicit_rl.agents import schedules
from implicit_rl.compat import gin_names
from implicit_rl.data.replay import replay_log
from implicit_rl.data.source import Recorder
from implicit_rl.running import runners, signals
from implicit_rl.running.compiled_online_loop import LoopReport, OnlineLoop, Turns
from implicit_rl.running.vmapped_loops import VmappedLoops
from implicit_rl.types import Batch

# isort: split
from dopamine.discrete_domains import iteration_statistics


@gin.configurable(denylist=['base_dir', 'create_agent_fn', 'create_environment_fn'])
class OnlineRunner(runners.Runner):
  """Trains an agent while it acts.

  With a source that has a `recorder` (`OnlineReplay`, `PrioritizedReplay`) the agent acts step by
  step in any environment, and an iteration ends with the episode that reaches its length, as in
  Dopamine. With a `DeviceReplay` acting and learning are one compiled loop over several parallel
  environments. The environment then needs pure `rules`, such as MinAtar's; an iteration has exactly
  its length, and episodes continue across iterations.

  Args:
    *args: `Runner`'s.
    num_iterations: iterations in the whole run.
    training_steps: environment steps in an iteration.
    max_steps_per_episode: environment steps after which an evaluation episode ends, and on the host
      a training episode too.
    measure_size: transitions that the features are measured on, drawn uniformly from the replay at
      the end of each iteration.
    updates_per_step: n, gradient updates per environment step; 0.25 is one every fourth step, as in
      DQN.
    log_replay: keep every step of the run, even after the replay has dropped it, and write them as
      a dataset into `base_dir/replay` when the run is complete: images in DQN Replay's format,
      vectors in D4RL's.
    replay_run: the dataset's run number; Atari's format has 1 to 5.
    **kwargs: `Runner`'s; gin binds them as `OnlineRunner.*`.

  Raises:
    ValueError: as `runners.Runner`, and for settings of agent, replay and environment that cannot
      be combined.
  """

  # Progress of the iteration's training.
  _report: LoopReport
  _lengths: list[int]  # of the episodes that have ended
  _returns: list[float]
  _first_row: int | None  # The replay's first row of this iteration.
  _finals: list[np.ndarray]  # Observations after the episodes' last steps.

  _recorder: Recorder  # Only without a compiled loop.
  _dataset: replay_log.Dataset  # If the replay is logged.

  def __init__(
    self,
    base_dir: str,
    *args: Any,
    num_iterations: int = 200,
    training_steps: int = 250_000,  # environment steps
    updates_per_step: float = 0.25,
    log_replay: bool = False,
    replay_run: int = 1,
    **kwargs: Any,
  ):
    schedules.update_rate(updates_per_step)  # Raises if updates can't be counted exactly.
    if 'Agent.updates_per_step' in gin_names.settings():
      raise ValueError('Bind OnlineRunner.updates_per_step, not Agent.updates_per_step.')
    self._updates_per_step, self._log_replay = updates_per_step, log_replay
    self._replay_run = replay_run
    self._log = replay_log.ReplayLog(os.path.join(base_dir, 'replay_log'))
    self._loop: OnlineLoop | None = None
    super().__init__(
      base_dir, *args, num_iterations=num_iterations, training_steps=training_steps, **kwargs
    )

  def _check_environment(self, environment: Any) -> None:
    if self._log_replay:
      self._dataset = replay_log.Dataset.of(environment, self._able, self._replay_run)

  def _initialize_checkpointer_and_maybe_resume(self, checkpoint_file_prefix: str) -> None:
    # Dopamine's constructor calls this after it has created agent and environment.
    self._agent.updates_per_step = self._updates_per_step
    source = self._agent.source
    recorder = None if source is None else source.recorder
    memory = None if source is None else source.compiled_memory
    if memory is not None:
      if self._able.rules is None:
        raise ValueError(
          f'{self._environment.name} does not run in a compiled loop, since it has no rules: bind '
          'Agent.source to @OnlineReplay or @PrioritizedReplay instead of @DeviceReplay.'
        )
      if self._agent.learner.devices != 1:
        raise ValueError('Learner.devices is 1 for a compiled online loop (DeviceReplay).')
      self._loop = OnlineLoop(
        self._agent,
        self._environment,
        clip_rewards=self._clip_rewards,
        keep_observations=self._log_replay,
      )
      self._loop.check(self._training_steps)
    elif recorder is not None:
      self._recorder = recorder
      longest = self._max_steps_per_episode or self._environment.max_steps_per_episode
      most = self._training_steps + longest
      if self._log_replay and recorder.capacity < most:
        raise ValueError(
          f'OnlineRunner.log_replay needs a replay that holds a whole iteration, {most} rows with '
          f'its last episode; OnlineReplay.capacity is {recorder.capacity}.'
        )
    else:
      raise ValueError(
        'Online training needs a replay: bind Agent.source to @OnlineReplay, @PrioritizedReplay or '
        '@DeviceReplay.'
      )
    super()._initialize_checkpointer_and_maybe_resume(checkpoint_file_prefix)
    self._log.keep_before(self._start_iteration)

  # --- the training phase -----------------------------------------------------------------------

  def _train(
    self, iteration: int, statistics: iteration_statistics.IterationStatistics
  ) -> dict[str, Any]:
    """Does `training_steps` environment steps and the updates that are due."""
    self._agent.eval_mode = False
    self._clock.start()
    begun = self.training_done + sum(self._lengths)
    with self._bar('training', self._training_steps, 'steps', begun) as bar:
      if self._loop is None:
        self._progress = bar
        metrics, updates = self._train_on_host(iteration)
        self._progress = None
      else:
        metrics, updates = self._train_compiled(iteration, bar)
    seconds, returns = self._clock.seconds, self._returns
    for length, episode_return in zip(self._lengths, returns, strict=True):
      statistics.append({'train_episode_lengths': length, 'train_episode_returns': episode_return})
    mean = float(np.mean(returns)) if returns else None
    statistics.append({'train_average_return': mean or 0.0})
    statistics.append({'train_average_steps_per_second': self._training_steps / seconds})
    return {
      'updates_per_second': updates / seconds,
      'environment_steps': self._environment_steps,
      'steps_per_second': self._training_steps / seconds,
      'train_return': mean,
      'train_episodes': len(returns),
      **metrics,
    }

  def _train_compiled(self, iteration: int, bar: Any) -> tuple[dict[str, float], int]:
    def progress(steps: int) -> None:
      bar.update(steps)
      signals.check()

    self.do_training(progress)
    report = self._report
    turns = report.turns
    if self._log_replay:
      self._log.write(iteration, _rows(turns))
    self._lengths = turns.episode_length[turns.episode_end].tolist()
    self._returns = turns.episode_return[turns.episode_end].tolist()
    return report.sums.means(), report.sums.updates

  def train_alone(self, progress: Callable[[int], Any]) -> None:
    """See `Runner.train_alone`; with a compiled loop only."""
    self._compiled_loop.run(self._training_steps, progress, self._report)

  @property
  def training_done(self) -> int:
    """Number of environment steps of the training phase that the compiled loop has done."""
    return self._report.count * self._streams

  def side_by_side(self, everyone: Sequence[Any], differ: bool) -> runners.TrainSome:
    """See `Runner.side_by_side`."""
    loops = VmappedLoops([runner._compiled_loop for runner in everyone], differ)

    def train(some: Sequence[Any], progress: Callable[[int], Any]) -> None:
      reports = [runner._report if runner in some else None for runner in everyone]
      loops.run(self._training_steps, progress, reports)

    return train

  @property
  def _compiled_loop(self) -> OnlineLoop:
    if self._loop is None:
      raise ValueError(
        "OnlineRunner.seeds_as = 'vmap' needs a compiled online loop, and Agent.source is "
        f"{type(self._agent.source).__name__}: bind it to @DeviceReplay, or take 'processes'."
      )
    return self._loop

  def _train_on_host(self, iteration: int) -> tuple[dict[str, float], int]:
    if self._first_row is None:
      self._first_row = self._recorder.added
    if self._episode is None:  # Reseeds: the games' random state is not saved.
      key = jax.random.fold_in(self._agent.training_key, iteration)
      self._seed_environment(jax.random.fold_in(key, len(self._lengths)) if self._lengths else key)
    while sum(self._lengths) < self._training_steps:
      signals.check()
      length, episode_return = self._run_one_episode()
      self._lengths.append(length)
      self._returns.append(episode_return)
    updates = self._agent.learnt.updates
    metrics = self._agent.take_metrics()
    if self._log_replay:
      rows = replay_log.Rows(**self._recorder.rows(self._first_row, self._recorder.added))
      if self._dataset.vectors:
        rows = rows._replace(final_observation=np.stack(self._finals))
      self._log.write(iteration, rows)
    return metrics, updates

  # --- a training phase that was interrupted ----------------------------------------------------

  def _begin_training(self) -> None:
    self._report = LoopReport()
    self._lengths, self._returns = [], []
    self._first_row = None
    self._finals = []

  def _training_state(self) -> dict[str, Any]:
    state: dict[str, Any] = {'lengths': self._lengths, 'returns': self._returns}
    if self._loop is not None:
      return {**state, 'report': self._report.state_dict()}
    state |= {'first_row': self._first_row, 'finals': list(self._finals)}
    if self._episode is not None:
      state['episode'] = dataclasses.asdict(self._episode)
      state['environment'] = self._able.state_dict and self._able.state_dict()
    return state

  def _restore_training(self, state: dict[str, Any]) -> None:
    self._lengths, self._returns = list(state['lengths']), list(state['returns'])
    if self._loop is not None:
      self._report.load_state_dict(state['report'])
      return
    self._first_row, self._finals = state['first_row'], list(state['finals'])
    if 'episode' in state:
      self._episode = runners.Episode(**state['episode'])
      assert self._able.load_state_dict is not None  # The saved environment had it.
      self._able.load_state_dict(state['environment'])

  @property
  def _streams(self) -> int:
    """Number of parallel environments in the compiled loop."""
    return 0 if self._loop is None else self._loop.num_environments

  def _run_one_step(self, action: Any) -> tuple[np.ndarray, float, bool]:
    stepped = super()._run_one_step(action)
    self._seen = stepped[0]
    return stepped

  def _end_episode(self, reward: float, terminal: bool = True) -> None:
    super()._end_episode(reward, terminal)
    if self._log_replay:
      self._finals.append(self._seen)  # Dopamine does not pass it to the agent.

  @property
  def _environment_steps(self) -> int:
    return self._recorder.added if self._loop is None else self._loop.steps

  def _first_update_after(self) -> int:
    return self._agent.min_replay_history

  def transitions_to_measure(self) -> Batch:
    """See `Runner.transitions_to_measure`."""
    return self._agent.source.fixed_batch(self._measure_size)

  # --- saving -----------------------------------------------------------------------------------

  def _state(self, iteration: int) -> dict[str, Any]:
    loop = {} if self._loop is None else {'loop': self._loop.state_dict()}
    return {**super()._state(iteration), **loop}

  def _restore(self, iteration: int, tree: dict[str, Any]) -> None:
    super()._restore(iteration, tree)
    if self._loop is not None:
      self._loop.load_state_dict(tree['loop'])

  def finish(self, ran: bool) -> None:
    """Writes the replay's dataset if `log_replay` is set."""
    if not self._log_replay:
      return
    data_dir = os.path.join(self._base_dir, 'replay')
    if ran or not self._log.is_exported(data_dir):  # It may have been killed before it wrote.
      path = self._log.export(data_dir, self._dataset)
      print(
        f'The replay of the whole run is in {path}; {self._dataset.how_to_read(data_dir, path)}'
      )

  def _what_it_learns_from(self) -> str:
    n = self._updates_per_step
    return f'its own experience, {n:g} updates per step'


def _rows(turns: Turns) -> replay_log.Rows:
  """Returns turns [T, E, ...] as streams [E, T, ...]."""
  return replay_log.Rows(
    **{name: np.swapaxes(getattr(turns, name), 0, 1) for name in replay_log.COLUMNS}
  )

"""The agent in Dopamine's shape: acts, learns from its data source, saves and restores itself.

A subclass adds one loss. Everything else is defined here and bound as `Agent.*` in gin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from implicit_rl.agents import checks, schedules
from implicit_rl.agents.target_ranges import TargetRange
from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context, add_new
from implicit_rl.data.source import DataSource
from implicit_rl.diagnostics.alarms import value_bounds
from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.diagnostics.measurements import Measurements, bound_diagnostics
from implicit_rl.heads import Head
from implicit_rl.learner import Learner
from implicit_rl.logs import checkpoints
from implicit_rl.logs.running_means import RunningMeans
from implicit_rl.losses import Munchausen
from implicit_rl.metrics import make_measure
from implicit_rl.networks import NatureCNN, hidden_layers
from implicit_rl.remedies import bound_remedies
from implicit_rl.types import Apply, Array, Batch, Loss, Params, PRNGKey


@gin.configurable(
  denylist=[
    'num_actions',
    'observation_shape',
    'observation_dtype',
    'stack_size',
    'seed',
    'summary_writer',
  ]
)
class Agent:
  """A value-based agent; a subclass defines its loss.

  An agent's learning curve depends only on its arguments, its data source and its seed. With
  a source that has a `recorder`, such as `OnlineReplay`, it trains while it acts. With any other
  source it is offline, and acting never changes its parameters.

  Args:
    num_actions: number of actions A.
    observation_shape: shape of one observation, without the stack.
    observation_dtype: dtype of the observations.
    stack_size: number of observations S in a state.
    source: makes the data source; called with the agent's observation shape and dtype, stack size,
      update horizon, γ and seed. None: the agent only acts.
    network: Flax module class; called as `network(num_actions=A)`, and with `head` if the agent
      needs one; returns `QOutputs` or the head's outputs.
    gamma: γ, discount per step.
    update_horizon: n of n-step returns.
    batch_size: number of transitions B in an update.
    updates_per_step: online only, gradient updates per environment step (n in the paper's section
      3): 0.25 is one update every fourth step.
    min_replay_history: online only, environment steps before the first update.
    priming_updates: online only, additional gradient updates, all at once, at the first step after
      `min_replay_history`: heavy priming (Nikishin et al., 2022).
    epsilon_train: online only, final ε of ε-greedy acting.
    epsilon_eval: ε while `eval_mode` is set.
    epsilon_decay_period: online only, environment steps over which ε falls to its final value.
    value_head: the network's head, such as `@HLGaussHead()`; None is the agent's own. Only for
      agents that learn one value for each action.
    munchausen: `@Munchausen()` or None; for DQN, and CQL on its loss, with an update horizon of 1.
    target_range: range that Bellman targets are clipped to, `@RewardBound()` or `@DataReturns()`;
      None does not clip.
    learner: the learner's class; called with the loss and the agent's `Context`.
    srank_delta: δ of the measured srank.
    diagnostics: measurements by name; None uses those that gin binds as `Diagnostics.NAME`.
    eval_mode: whether the agent starts in evaluation mode.
    seed: all randomness of the agent derives from it.
    summary_writer: ignored; Dopamine's Runner passes it. The runner writes the logs.

  Attributes:
    uses_return_to_go: whether the source must provide returns to the episodes' ends.
    reads: which of `value_head`, `munchausen` and `target_range` the loss uses; the others are
      refused.
    munchausen: as given.
    target_range: smallest and largest target, or None.
    estimates_values: whether `q_values` are returns that can be compared with the data's.
    apply: `apply(params, state [B, S, ...]) -> outputs`.
    gamma: γ, discount per step.
    gamma_n: γⁿ, the discount of the next state in a loss.
    acted: number of actions selected so far, in training and evaluation; each uses its own key.
    learnt: metrics of the updates done while acting.
    measurements: measures the due diagnostics, and keeps what they need of earlier measurements.
    eval_mode: while true the agent acts with `epsilon_eval` and does not learn.
    state: the LearnerState.
    policy: pure `policy(params, states [E, S, ...], key) -> actions [E]` with ε of evaluation.
    evaluation_key: PRNG key for evaluations.
    training_key: PRNG key for the environments and the exploration of training.

  Raises:
    ValueError: for a hyperparameter that is out of range.
  """

  uses_return_to_go: ClassVar[bool] = False
  reads: tuple[str, ...] = ()
  estimates_values: ClassVar[bool] = True

  def __init__(
    self,
    num_actions: int,
    observation_shape: tuple[int, ...] = (84, 84),
    observation_dtype: Any = np.uint8,
    stack_size: int = 4,
    source: Callable[..., DataSource] | None = None,
    *,
    network: type[nn.Module] = NatureCNN,
    gamma: float = 0.99,
    update_horizon: int = 1,
    batch_size: int = 32,
    updates_per_step: float = 0.25,
    min_replay_history: int = 20_000,  # environment steps
    priming_updates: int = 0,
    epsilon_train: float = 0.01,
    epsilon_eval: float = 0.001,
    epsilon_decay_period: int = 250_000,  # environment steps
    value_head: Head | None = None,
    munchausen: Munchausen | None = None,
    target_range: TargetRange | None = None,
    learner: type[Learner] = Learner,
    srank_delta: float = 0.01,
    diagnostics: Mapping[str, Diagnostic] | None = None,
    eval_mode: bool = False,
    seed: int = 0,
    summary_writer: Any = None,
  ):
    del summary_writer
    for name, value, least in (
      ('update_horizon', update_horizon, 1),
      ('batch_size', batch_size, 1),
      ('min_replay_history', min_replay_history, 1),
      ('priming_updates', priming_updates, 0),
      ('epsilon_decay_period', epsilon_decay_period, 0),
    ):
      check_number(f'Agent.{name}', value, least=least, whole=True)
    for name, share in (
      ('gamma', gamma),
      ('epsilon_train', epsilon_train),
      ('epsilon_eval', epsilon_eval),
      ('srank_delta', srank_delta),
    ):
      check_number(f'Agent.{name}', share, least=0, most=1)
    check_number('Agent.updates_per_step', updates_per_step, least=0)
    if not callable(network):
      raise ValueError(f'Agent.network must be a class, such as @NatureCNN, got {network!r}.')
    checks.check_optional(
      type(self).__name__,
      self.reads,
      {'value_head': Head, 'munchausen': Munchausen, 'target_range': TargetRange},
      value_head=value_head,
      munchausen=munchausen,
      target_range=target_range,
    )
    if munchausen is not None and update_horizon != 1:
      raise ValueError(
        f'Agent.update_horizon must be 1 with Agent.munchausen, got {update_horizon}: the rewards '
        'in between would lack their log-policy term.'
      )
    self.num_actions = num_actions
    self.gamma = gamma
    self.gamma_n = gamma**update_horizon
    self.update_horizon = update_horizon
    self.batch_size = batch_size
    self.updates_per_step = updates_per_step
    self.min_replay_history = min_replay_history
    self.priming_updates = priming_updates
    self.epsilon_train = epsilon_train
    self.epsilon_eval = epsilon_eval
    self.epsilon_decay_period = epsilon_decay_period
    self.eval_mode = eval_mode
    self.summary_writer = None  # Dopamine's Runner reads it.
    self.munchausen = munchausen
    self._value_head = value_head

    needs_returns = target_range is not None and target_range.needs_returns
    make_source = source and functools.partial(
      checks.make_source,
      source,
      self.action_shape,
      observation_shape=tuple(observation_shape),
      observation_dtype=observation_dtype,
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
      **({'return_to_go': True} if self.uses_return_to_go or needs_returns else {}),
    )
    # The loss is traced first, since reading the data may take long.
    made = make_source() if make_source and needs_returns else None
    self.target_range = None if target_range is None else target_range.bounds(gamma, made)

    head = self.make_head()
    self._stack = np.zeros((stack_size, *observation_shape), observation_dtype)
    state = self._stack[None].copy()  # For its shape.
    module: Any = self.make_network(network, **({'head': head} if head else {}))
    for remedy in bound_remedies().values():
      if remedy.active:
        module = remedy.wrap(module, state)
    self.network = module
    self.apply: Apply = module.apply
    init_key, learner_key, self._act_key = jax.random.split(jax.random.PRNGKey(seed), 3)
    params = module.init(init_key, state)
    loss = self.make_loss()
    batch = checks.batch_shapes(self._stack, batch_size, self.action_shape)
    checks.trace(loss, params, batch)  # Before the data is read, which may take long.
    context = Context(
      apply=self.apply,
      init=lambda key: module.init(key, state),
      loss=loss,
      discount=self.gamma_n,
      num_actions=num_actions,
      network=module,
      initial=jax.tree.map(np.array, params),
      layers=hidden_layers(module, state),
      batch=batch,
    )
    self.learner = learner(loss, context=context)
    self.state = self.learner.init(params, learner_key)
    self.srank_delta = srank_delta
    self._measure = make_measure(loss, srank_delta)
    self.diagnostics = bound_diagnostics() if diagnostics is None else diagnostics
    self.measurements = Measurements(self.diagnostics, self.learner.context)
    self._select = jax.jit(self._select_next, static_argnames='evaluating')
    self.policy = self.make_policy()
    self.evaluation_key = jax.random.fold_in(self._act_key, np.uint32(2**32 - 1))
    self.training_key = jax.random.fold_in(self._act_key, np.uint32(2**32 - 2))

    self.source = make_source() if make_source and made is None else made
    if self.source is not None and self.source.max_action >= num_actions:
      raise ValueError(
        f'The data holds action {self.source.max_action}, but the environment has {num_actions} '
        'actions: they are not the same game.'
      )

    self._recorder = None if self.source is None else self.source.recorder
    # Drawn once: reading frames takes long, and held-out transitions never change.
    self._held_out = functools.cache(self._draw_held_out)

    self.learnt = RunningMeans()
    self.acted = 0
    self._steps = 0  # environment steps of training
    self._action: Any = 0
    # One worker samples the next chunk of batches while the current one trains.
    self._sampler = futures.ThreadPoolExecutor(1, thread_name_prefix='sampler')

  # --- what a subclass writes -------------------------------------------------------------------

  def make_loss(self) -> Loss:
    """Returns the pure loss that this agent minimises."""
    raise NotImplementedError(f'{type(self).__name__} has no make_loss(); see docs/extending.md.')

  def make_head(self) -> Head | None:
    """Returns the network's head; None keeps the network's own, one value per action."""
    return self._value_head

  def make_network(self, network: type[nn.Module], **settings: Any) -> nn.Module:
    """Returns the network of the class that gin chose; `settings` hold the head, if any."""
    return network(num_actions=self.num_actions, **settings)

  def make_policy(self) -> Callable[[Params, Array, PRNGKey], jax.Array]:
    """Returns the policy of evaluation: ε-greedy with `epsilon_eval`."""
    return functools.partial(self.select_actions, epsilon=self.epsilon_eval)

  @property
  def action_shape(self) -> tuple[int, ...]:
    """Shape of one action: () for discrete actions, (A,) for continuous ones."""
    return ()

  @property
  def blank_state(self) -> np.ndarray:
    """Returns a state [S, *observation_shape] of zeros, in the observations' dtype."""
    return np.zeros_like(self._stack)

  # --- learning ---------------------------------------------------------------------------------

  @property
  def updates(self) -> int:
    """Number of gradient updates done; with several seeds in one program, the smallest number."""
    return int(np.min(self.state.updates))

  def train(
    self,
    num_updates: int,
    progress: Callable[[int], Any] = lambda done: None,
    sums: RunningMeans | None = None,
    done: int = 0,
  ) -> dict[str, float]:
    """Does gradient updates on batches from the source, and samples the next chunk meanwhile.

    Args:
      num_updates: how many.
      progress: called with the size of every finished chunk. If it raises, the agent and `sums`
        are those after that chunk.
      sums: the metrics are added to it; None starts with zeros.
      done: number of updates of an earlier call, which must have ended with a complete chunk.

    Returns:
      The mean of each training metric in `sums`. Raises NonFiniteError if a metric is non-finite.
    """
    if num_updates < 1:
      raise ValueError(f'num_updates must be at least 1, got {num_updates}.')
    if self.source is None:
      raise ValueError(f'{type(self).__name__} has no data source to train from.')
    sums = RunningMeans() if sums is None else sums
    for count in self._updates(num_updates - done, schedules.chunk_size(num_updates), sums):
      progress(count)
    self.state = self.learner.gathered(self.state)
    return sums.means()

  def _updates(self, num_updates: int, chunk: int, sums: RunningMeans) -> Iterator[int]:
    """Does the updates in chunks; yields the size of each finished chunk."""
    source = self.source
    assert source is not None
    rows = source.device_rows
    for start, count, drawn in self._drawn(source, num_updates, chunk):
      if rows is None:
        self.state, info = self.learner.update_many(self.state, drawn)
      else:
        self.state, info = self.learner.update_from(source.fetch, self.state, rows, drawn)
      sums.add(info.metrics, count, start)
      source.update_priorities(info.priority)
      yield count

  def train_step(self) -> None:
    """Does one gradient update."""
    self.train(1)

  def _drawn(
    self, source: DataSource, num_updates: int, chunk: int
  ) -> Iterator[tuple[int, int, Any]]:
    """Yields each chunk's first update and size, and its batches, or rows for data on a device.

    The next chunk is sampled while the current one trains, unless its sampling depends on that
    training.
    """
    draw = source.sample if source.device_rows is None else source.draw
    chunks = schedules.chunks(self.updates, num_updates, 1 if source.prioritized else chunk)
    if source.prioritized:
      for start, count in chunks:
        yield start, count, draw(start, count, self.batch_size)
      return
    pending = None
    for start, count in chunks:
      following = start, count, self._sampler.submit(draw, start, count, self.batch_size)
      if pending is not None:
        yield *pending[:2], pending[2].result()
      pending = following
    if pending is not None:
      yield *pending[:2], pending[2].result()

  def measure(
    self, batch: Batch, iteration: int = 0, measurements: Measurements | None = None
  ) -> dict[str, Any]:
    """Measures the current parameters on a fixed batch [B, ...].

    Args:
      batch: transitions; [N, B, ...] for the seeds that `VmappedMeasuring` measures in one program.
      iteration: number of the iteration, from 0, which determines the due diagnostics.
      measurements: the diagnostics to measure, with their remembered values; None uses the run's.

    Returns:
      Rank metrics, TD error and Q, and what the diagnostics return.
    """
    measured: dict[str, Any] = dict(
      self._measure(self.state.params, self.state.target_params, batch, self.state.key)
    )
    if not self.estimates_values:
      measured['q_data_gap'] = np.full(np.shape(measured['q_data_gap']), np.nan)
    measurements = measurements or self.measurements
    held_out = self._held_out(np.shape(batch.reward)[-1])
    found = measurements.take(iteration, self.state, batch, held_out)
    add_new(measured, found, 'A diagnostic')
    return measured

  def _draw_held_out(self, size: int) -> Batch | None:
    """Returns transitions that no update draws, or None if the source holds none out."""
    return None if self.source is None else self.source.held_out_batch(size)

  def value_bounds(self) -> tuple[float, float]:
    """Returns the smallest and the largest value that the data's rewards allow; ±inf if unknown."""
    known = self.source if self.estimates_values else None
    return value_bounds(None if known is None else known.reward_range, self.gamma)

  # --- acting, in Dopamine's words --------------------------------------------------------------

  def select_actions(
    self, params: Params, states: Array, key: PRNGKey, epsilon: float | jax.Array
  ) -> jax.Array:
    """Returns ε-greedy actions [E] int32 for states [E, S, ...]; pure, for any jitted loop."""
    explore_key, action_key = jax.random.split(key)
    greedy = jnp.argmax(self.apply(params, states).q_values, axis=-1)
    uniform = jax.random.randint(action_key, greedy.shape, 0, self.num_actions)
    explore = jax.random.uniform(explore_key, greedy.shape) < epsilon
    return jnp.where(explore, uniform, greedy).astype(jnp.int32)

  @property
  def epsilon(self) -> float:
    """Returns the ε of the next action."""
    if self.eval_mode:
      return self.epsilon_eval
    return schedules.linearly_decaying_epsilon(
      self._steps, self.min_replay_history, self.epsilon_decay_period, self.epsilon_train
    )

  def begin_episode(self, observation: np.ndarray) -> Any:
    """Starts an episode; returns the first action."""
    if self._recorder is not None and not self.eval_mode:
      self._recorder.end_episode()  # Does nothing unless the last episode is unfinished.
    self._stack[:] = 0
    return self._act(observation)

  def step(self, reward: float, observation: np.ndarray) -> Any:
    """Receives the last action's reward and the next observation; returns an action."""
    self._experience(reward, terminal=False, episode_end=False)
    return self._act(observation)

  def end_episode(self, reward: float, terminal: bool = True) -> None:
    """Receives the last reward; `terminal` is false if a time limit ended the episode."""
    self._experience(reward, terminal=terminal, episode_end=True)

  def _act(self, observation: np.ndarray) -> Any:
    self._stack = np.roll(self._stack, -1, axis=0)
    self._stack[-1] = np.reshape(observation, self._stack.shape[1:])
    acted, self.acted = np.uint32(self.acted), self.acted + 1
    action = self._select(
      self.state.params, self._stack, acted, self.epsilon, evaluating=self.eval_mode
    )
    self._action = np.asarray(action) if self.action_shape else int(action)
    return self._action

  def _select_next(
    self, params: Params, stack: Array, acted: jax.Array, epsilon: jax.Array, *, evaluating: bool
  ) -> jax.Array:
    """Returns the action for one state [S, ...], in one program, since it runs at every step."""
    key = jax.random.fold_in(self._act_key, acted)
    if evaluating:
      return self.policy(params, stack[None], key)[0]
    return self.select_actions(params, stack[None], key, epsilon)[0]

  def _experience(self, reward: float, terminal: bool, episode_end: bool) -> None:
    if self.eval_mode or self._recorder is None:
      return
    self._recorder.add(self._stack[-1], self._action, reward, terminal, episode_end)
    self._steps += 1
    rate, after = schedules.update_rate(self.updates_per_step), self.min_replay_history
    due = [
      schedules.updates_due(rate, after, steps, self.priming_updates)
      for steps in (self._steps - 1, self._steps)
    ]
    if due[1] > due[0]:
      self.train(due[1] - due[0], sums=self.learnt)

  def take_metrics(self) -> dict[str, float]:
    """Returns the mean of each metric over updates done while acting since the last call."""
    learnt, self.learnt = self.learnt, RunningMeans()
    return learnt.means()

  # --- saving -----------------------------------------------------------------------------------

  def bundle_and_checkpoint(self, checkpoint_dir: str, iteration_number: int) -> dict[str, Any]:
    """Returns everything that the agent's future depends on, as nested dicts of arrays."""
    del checkpoint_dir, iteration_number  # The runner writes the returned values.
    bundle = {
      'learner': checkpoints.to_arrays(self.state),
      'acted': self.acted,
      'steps': self._steps,
      'stack': self._stack.copy(),
      'action': self._action,
      'learnt': self.learnt.state_dict(),
      'source': {} if self.source is None else self.source.state_dict(),
      'diagnostics': self.measurements.state_dict(),
    }
    return bundle

  def unbundle(
    self, checkpoint_dir: str, iteration_number: int, bundle_dictionary: dict[str, Any] | None
  ) -> bool:
    """Restores what `bundle_and_checkpoint` returned; false if there is nothing to restore.

    Raises:
      ValueError: if the bundle belongs to another network or agent.
    """
    del checkpoint_dir
    if bundle_dictionary is None:
      return False
    state = checks.restore(self.state, bundle_dictionary['learner'], iteration_number)
    self.state = jax.tree.map(jnp.asarray, state)
    self.acted = int(bundle_dictionary['acted'])
    self._steps = int(bundle_dictionary['steps'])
    self._stack = np.array(bundle_dictionary['stack'])
    self._action = bundle_dictionary['action']
    self.learnt.load_state_dict(bundle_dictionary['learnt'])
    if self.source is not None:  # Checkpoints of finished data have no entry for it.
      self.source.load_state_dict(bundle_dictionary.get('source', {}))
    self.measurements.load_state_dict(bundle_dictionary.get('diagnostics', {}))
    return True

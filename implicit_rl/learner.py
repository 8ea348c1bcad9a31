"""One learner for every agent: loss plus penalty, gradient, optax step, target network.

It depends on no particular agent. An agent passes a pure loss; gin chooses the optimiser, the
penalty and the target network's update.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_rl import optimizers, rank  # noqa: F401  # The optimisers' gin names.
from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context, add_new, named_key
from implicit_rl.logs.running_means import SKIPPED
from implicit_rl.remedies import base as remedies_base
from implicit_rl.remedies.base import Remedy
from implicit_rl.sharding import Placement
from implicit_rl.types import (
  Batch,
  LearnerState,
  Loss,
  Params,
  PRNGKey,
  UpdateInfo,
)

Update = Callable[[LearnerState, Batch], tuple[LearnerState, UpdateInfo]]
Penalty = Callable[[jax.Array], jax.Array]
Fetch = Callable[[Any, jax.Array], Batch]  # (store on the device, rows [B]) -> batch [B, ...]; pure

_INIT_KEYS = 2**32 - 1  # Separates the keys of remedies' first states from those of updates.

# `rank` imports only jax, so its penalty gets its gin name here.
gin.external_configurable(rank.lp_penalty, module='rank')


def make_update(
  loss: Loss,
  optimizer: optax.GradientTransformation,
  *,
  penalty: Penalty | None = None,
  penalty_weight: float = 0.0,
  target_update_period: int = 1,
  target_update_rate: float = 1.0,
  remedies: Mapping[str, Remedy] | None = None,
  context: Context | None = None,
) -> Update:
  """Builds the pure update of one gradient step.

  The minimised objective is loss + penalty_weight · Σ penalty(Φ) over the leaves Φ of the outputs'
  `features` (two for twin critics), plus the remedies' terms. With weight 0 the penalty is not part
  of the program, and neither is an inactive remedy. The parameters then equal those of a learner
  without them bit for bit.

  Args:
    loss: the agent's loss.
    optimizer: an optax transformation.
    penalty: function of features [B, d], such as `rank.lp_penalty`.
    penalty_weight: α in the paper, section 5.
    target_update_period: updates between two changes of the target network.
    target_update_rate: τ in target ← τ·online + (1−τ)·target; 1 copies.
    remedies: by name; their terms are added and their operations applied in this order.
    context: information on the agent for remedies; loss and optimiser are filled in here.

  Returns:
    update(state, batch) -> (state, UpdateInfo).
  """
  active = _active(remedies)
  context = dataclasses.replace(context or Context(), loss=loss, optimizer=optimizer)

  def objective(params, target_params, batch, key, extra, updates):
    now = dataclasses.replace(context, updates=updates)
    loss_value, aux = loss(params, target_params, batch, key)
    metrics = dict(aux.metrics)
    total = loss_value
    if penalty is not None and penalty_weight != 0.0:
      penalty_value = sum(map(penalty, jax.tree.leaves(aux.outputs.features)), jnp.zeros(()))
      metrics['Losses/Penalty'] = penalty_value
      total = loss_value + penalty_weight * penalty_value
    for name, remedy in active.items():
      if type(remedy).loss_term is Remedy.loss_term:
        continue  # Adding a zero would change the program.
      term, found = remedy.loss_term(
        now, params, target_params, batch, aux, named_key(key, name), extra.get(name)
      )
      total = total + term
      add_new(metrics, found, f'Remedies.{name}')
    metrics['Losses/Total'] = total
    priority = jnp.abs(aux.td_error) if aux.priority is None else aux.priority
    return total, UpdateInfo(metrics, jax.lax.stop_gradient(priority))

  def update(state: LearnerState, batch: Batch) -> tuple[LearnerState, UpdateInfo]:
    key = jax.random.fold_in(state.key, state.updates)
    gradients, info = jax.grad(objective, has_aux=True)(
      state.params, state.target_params, batch, key, state.extra, state.updates
    )
    # The barrier stops XLA from keeping the squares that it computes for Adam, as large as the
    # network, until the norm is summed.
    info.metrics['Gradient/Norm'] = optax.tree.norm(jax.lax.optimization_barrier(gradients))
    changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
    if isinstance(optimizer_state, optax.ApplyIfFiniteState):
      info = _without_skipped(info, ~optimizer_state.last_finite)
    params = optax.apply_updates(state.params, _of_trained(changes))
    for name, remedy in active.items():
      params = remedy.project(context, params, state.extra.get(name))
    updates = state.updates + 1
    if target_update_rate == 1.0:
      followed = params
    else:
      followed = optax.incremental_update(params, state.target_params, target_update_rate)
    target_params = jax.lax.cond(
      updates % target_update_period == 0, lambda: followed, lambda: state.target_params
    )
    state = state._replace(
      params=params,
      target_params=target_params,
      optimizer_state=optimizer_state,
      updates=updates,
    )
    for name, remedy in active.items():
      observed = remedy.observe(state.extra.get(name), info.metrics)
      own: Any = state._replace(extra=observed)
      own, found = remedy.after_update(context, own, batch, _operation_key(key, name))
      extra = {**state.extra, name: own.extra} if name in state.extra else state.extra
      state = own._replace(extra=extra)
      add_new(info.metrics, found, f'Remedies.{name}')
    return state, info

  return update


def init_state(
  params: Params,
  key: PRNGKey,
  optimizer: optax.GradientTransformation,
  *,
  remedies: Mapping[str, Remedy] | None = None,
  context: Context | None = None,
) -> LearnerState:
  """Returns the state before the first update; the target network starts as a copy.

  Args:
    params: the online network's parameters.
    key: all randomness of the updates derives from it.
    optimizer: as in `make_update`.
    remedies: by name; their states are kept in `extra`.
    context: information on the agent for remedies.
  """
  context = dataclasses.replace(context or Context(), optimizer=optimizer)
  keys = jax.random.fold_in(key, np.uint32(_INIT_KEYS))
  extra = {
    name: remedy.init(context, params, named_key(keys, name))
    for name, remedy in _active(remedies).items()
  }
  extra = {name: own for name, own in extra.items() if jax.tree.leaves(own)}
  return LearnerState(
    params=params,
    # Copies: donated buffers must not be shared.
    target_params=jax.tree.map(jnp.copy, params),
    optimizer_state=optimizer.init(params),
    key=key,
    updates=jnp.zeros((), jnp.int32),
    extra=jax.tree.map(jnp.copy, extra),
  )


def _active(remedies: Mapping[str, Remedy] | None) -> dict[str, Remedy]:
  return {name: remedy for name, remedy in (remedies or {}).items() if remedy.active}


def _of_trained(changes: Params) -> Params:
  """Sets the changes of Flax collections other than 'params' to 0."""
  if not isinstance(changes, Mapping) or 'params' not in changes:
    return changes
  still = lambda own: jax.tree.map(jnp.zeros_like, own)
  return {name: own if name == 'params' else still(own) for name, own in changes.items()}


def _operation_key(key: PRNGKey, name: str) -> PRNGKey:
  """Returns a remedy's key for its operation; its loss term has another key."""
  return jax.random.fold_in(named_key(key, name), 1)


def _without_skipped(info: UpdateInfo, skipped: jax.Array) -> UpdateInfo:
  """Returns an update's report; for a skipped update zeros, which means leave out."""
  metrics = {name: jnp.where(skipped, 0.0, value) for name, value in info.metrics.items()}
  priority = jnp.where(jnp.isfinite(info.priority), info.priority, 0.0)
  return UpdateInfo({**metrics, SKIPPED: skipped.astype(jnp.float32)}, priority)


class _Program:
  """A function under `jax.jit` that reuses its state's memory, unless the caller transforms it.

  Args:
    function: a pure function.
    donated: index of the argument whose buffers the results may reuse.
    static: index of an argument that is not an array, or None.
  """

  def __init__(self, function: Callable[..., Any], *, donated: int, static: int | None = None):
    statics = () if static is None else (static,)
    self._donating = jax.jit(function, static_argnums=statics, donate_argnums=donated)
    self._plain = jax.jit(function, static_argnums=statics)

  def __call__(self, *arguments: Any) -> Any:
    return (self._plain if _are_traced(arguments) else self._donating)(*arguments)

  def has_convolution(self, *arguments: Any) -> bool:
    """Whether the computation contains a convolution; a later call does not trace it again."""
    return has_convolution(self._donating, *arguments)


def _are_traced(arguments: Any) -> bool:
  """Whether a caller's transformation, such as `jax.jit` or `jax.grad`, is active."""
  return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))


def has_convolution(program: Any, *args) -> bool:
  """Whether `program(*args)`, a function under `jax.jit`, contains a convolution.

  A call with such arguments does not trace it again.
  """
  return any(
    equation.primitive.name == 'conv_general_dilated'
    for equation in _equations(program.trace(*args).jaxpr.jaxpr)
  )


def _equations(jaxpr) -> Iterator:
  """All equations of a jaxpr and of the jaxprs within it."""
  for equation in jaxpr.eqns:
    yield equation
    for parameter in equation.params.values():
      for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from _equations(inner)


@gin.configurable
class Learner:
  """Compiles an update and runs it once or many times.

  `update`, `update_many` and `pure_update` may be used inside functions that the caller transforms:
  `jax.jit`, `jax.lax.scan`, `jax.vmap`, `jax.grad`. No buffers are donated there.

  Args:
    loss: the agent's pure loss.
    optimizer: an optax transformation; None is Dopamine's default, Adam with learning rate 6.25e-5
      and epsilon 1.5e-4.
    penalty: function of features [B, d]; used when `penalty_weight` is not 0.
    penalty_weight: α; the paper uses 0.001.
    target_update_period: gradient updates between two changes of the target network.
    target_update_rate: 1 copies (DQN), smaller values average (Polyak).
    loop: how `update_many` runs. 'scan' is one compiled loop; 'dispatch' calls the compiled update
      from Python. 'auto' is 'scan', except on the CPU backend with a convolution in the program,
      which XLA runs about ten times slower inside a loop.
    devices: number of devices that share an update; each batch is split among them. None is all
      devices on all hosts.
    max_gradient_norm: gradients with a larger global norm are scaled down; None does not clip.
    on_nonfinite: how a non-finite gradient is handled: 'stop' aborts the run with an error that
      says where; 'skip' leaves parameters and optimiser state unchanged, and `Updates/Skipped` is
      the share of skipped updates.
    remedies: interventions by name; None uses those that gin binds as `Remedies.NAME`.
    context: information on the agent for remedies; the agent fills it.

  Attributes:
    devices: as given.
    context: as given, with loss and optimiser.
    remedies: those that are active, by name.
    pure_update: update(state, batch) -> (state, UpdateInfo), not compiled, for your own loop.

  Raises:
    ValueError: for an invalid optimiser, a negative weight, a weight without a penalty, a
      period below 1, a rate outside (0, 1], an unknown loop, or a norm that is not positive.
  """

  def __init__(
    self,
    loss: Loss,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Penalty | None = rank.lp_penalty,
    penalty_weight: float = 0.0,
    target_update_period: int = 2000,  # gradient updates
    target_update_rate: float = 1.0,
    devices: int | None = 1,
    loop: str = 'auto',
    max_gradient_norm: float | None = None,
    on_nonfinite: str = 'stop',
    remedies: Mapping[str, Remedy] | None = None,
    context: Context | None = None,
  ):
    check_number('Learner.penalty_weight', penalty_weight, least=0)
    if penalty_weight and penalty is None:
      raise ValueError(f'Learner.penalty_weight is {penalty_weight}, but Learner.penalty is None.')
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
      raise ValueError(
        f'Learner.optimizer must be an optax transformation, got {optimizer!r}; in gin it is '
        'written with parentheses: @optax.adam().'
      )
    check_number('Learner.target_update_period', target_update_period, least=1)
    check_number('Learner.target_update_rate', target_update_rate, above=0, most=1)
    check_number('Learner.max_gradient_norm', max_gradient_norm, above=0, optional=True)
    if loop not in ('auto', 'scan', 'dispatch'):
      raise ValueError(f"Learner.loop must be 'auto', 'scan' or 'dispatch', got {loop!r}.")
    if on_nonfinite not in ('stop', 'skip'):
      raise ValueError(f"Learner.on_nonfinite must be 'stop' or 'skip', got {on_nonfinite!r}.")
    self._optimizer = optimizer or optax.adam(6.25e-5, eps=1.5e-4)
    if max_gradient_norm is not None:
      self._optimizer = optax.chain(optax.clip_by_global_norm(max_gradient_norm), self._optimizer)
    if on_nonfinite == 'skip':  # Unlimited: runners detect if all updates are skipped.
      self._optimizer = optax.apply_if_finite(self._optimizer, 2**31 - 1)
    self._loop = loop
    if remedies is None:
      remedies = remedies_base.bound_remedies()
    self.remedies = _active(remedies_base.check_remedies(dict(remedies)))
    self.context = dataclasses.replace(context or Context(), loss=loss, optimizer=self._optimizer)
    self.pure_update = make_update(
      loss,
      self._optimizer,
      penalty=penalty,
      penalty_weight=penalty_weight,
      target_update_period=target_update_period,
      target_update_rate=target_update_rate,
      remedies=self.remedies,
      context=self.context,
    )
    self.devices = devices
    self._numbered_update: Callable[..., Any] | None = None
    self._compile(seeds=None)

  def _compile(self, seeds: int | None) -> None:
    """Creates the programs for one state or for `seeds` states, on one device or several."""
    self._seeds = seeds
    self._placement = None
    if self.devices != 1:
      self._placement = Placement(self.devices, seeds)
    elif jax.process_count() > 1:
      raise ValueError('On several hosts bind Learner.devices = None: else each trains for itself.')
    self._one = _Program(self._update, donated=0)
    self._next = _Program(
      lambda state, batches, start: self._update(
        state, jax.tree.map(lambda x: x[_count(state.updates) - start], batches)
      ),
      donated=0,
    )
    self._scan = _Program(
      lambda state, batches: jax.lax.scan(self._update, state, batches), donated=0
    )
    self._one_from = _Program(self._fetch_and_update, donated=1, static=0)
    self._scan_from = _Program(
      lambda fetch, state, store, rows: jax.lax.scan(
        lambda state, rows: self._fetch_and_update(fetch, state, store, rows), state, rows
      ),
      donated=1,
      static=0,
    )

  def over_seeds(
    self,
    seeds: int,
    update: Callable[..., tuple[LearnerState, UpdateInfo]] | None = None,
  ) -> Learner:
    """This learner for N states: batches [K, N, B, ...], rows [K, N, B], info [K, N].

    Args:
      seeds: N.
      update: `update(number, state, batch)`, a pure update of each state by its number; None if all
        states share one.
    """
    other = copy.copy(self)
    other._numbered_update = update
    other._compile(seeds)
    return other

  def check_batch(self, size: int) -> None:
    """Raises ValueError if the devices can't share a batch of this size."""
    if self._placement is not None:
      self._placement.check_batch(size)

  def gathered(self, state: LearnerState) -> LearnerState:
    """Returns an updated state on one device, for acting, measuring and saving."""
    return state if self._placement is None else self._placement.gathered(state)

  def init(self, params: Params, key: PRNGKey) -> LearnerState:
    """The state before the first update; see `init_state`."""
    return init_state(params, key, self._optimizer, remedies=self.remedies, context=self.context)

  def update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, UpdateInfo]:
    """One gradient update on a batch [B, ...]; `state` is donated and must not be used again."""
    if self._placement is not None:
      state, info = self.update_many(state, jax.tree.map(lambda x: x[None], batch))
      return state, jax.tree.map(lambda x: x[0], info)
    return self._one(state, batch)

  def update_many(self, state: LearnerState, batches: Batch) -> tuple[LearnerState, UpdateInfo]:
    """K updates on batches [K, B, ...]: the state, which is donated, and their info [K]."""
    if self._placement is not None:
      state, batches = self._placement.state(state), self._placement.batches(batches)
    if self._choose_loop(self._scan, state, batches) == 'scan':
      return self._scan(state, batches)
    infos = []
    here, start = isinstance(batches.action, jax.Array), _count(state.updates)
    for k in range(batches.action.shape[0]):
      if here:  # The next index stays on the device: no transfer.
        state, info = self._next(state, batches, start)
      else:
        state, info = self._one(state, jax.tree.map(lambda x, k=k: x[k], batches))
      infos.append(info)
    return state, _stacked(infos)

  def update_from(
    self, fetch: Fetch, state: LearnerState, store: Any, rows: jax.Array
  ) -> tuple[LearnerState, UpdateInfo]:
    """K updates on batches that are gathered from device memory within the compiled program.

    Args:
      fetch: the same object at every call, since each new object is compiled again.
      state: donated.
      store: a pytree of device arrays; read only.
      rows: [K, B], the argument of `fetch` for each update.

    Returns:
      The state and the updates' info, with leading axis [K].
    """
    if self._placement is not None:
      state, rows = self._placement.state(state), self._placement.batches(rows)
      store = self._placement.store(store)
    if self._choose_loop(self._scan_from, fetch, state, store, rows) == 'scan':
      return self._scan_from(fetch, state, store, rows)
    infos = []
    for some in rows:
      state, info = self._one_from(fetch, state, store, some)
      infos.append(info)
    return state, _stacked(infos)

  def _fetch_and_update(
    self, fetch: Fetch, state: LearnerState, store: Any, rows: jax.Array
  ) -> tuple[LearnerState, UpdateInfo]:
    if self._seeds is not None:
      fetch = jax.vmap(fetch, in_axes=(None, 0))
    return self._update(state, fetch(store, rows))

  def _update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, UpdateInfo]:
    """`pure_update` for all seeds, with its results on the right devices."""
    if self._seeds is None:
      state, info = self.pure_update(state, batch)
    else:
      # All states have done equally many updates. With one shared count XLA branches when the
      # target network is due; otherwise it would write one at every update and select.
      axes = LearnerState._make((0, 0, 0, 0, None, 0))
      numbered = self._numbered_update or (lambda _, *given: self.pure_update(*given))
      update = jax.vmap(numbered, in_axes=(0, axes, 0), out_axes=(axes, 0))
      numbers = jnp.arange(self._seeds)
      state, info = update(numbers, state._replace(updates=state.updates[0]), batch)
      state = state._replace(updates=jnp.broadcast_to(state.updates, (self._seeds,)))
    if self._placement is not None:
      state, metrics = self._placement.keep(state, info.metrics)
      info = info._replace(metrics=metrics)
    return state, info

  def _choose_loop(self, scan: _Program, *arguments: Any) -> str:
    if _are_traced(arguments):
      return 'scan'  # 'dispatch' would unroll the loop.
    if self._loop == 'auto':
      slow = jax.default_backend() == 'cpu' and scan.has_convolution(*arguments)
      self._loop = 'dispatch' if slow else 'scan'
    return self._loop


@jax.jit
def _count(updates: jax.Array) -> jax.Array:
  """Returns the number of updates of a state, [], or of several states with equal numbers."""
  return updates.ravel()[0]


def _stacked(infos: list[UpdateInfo]) -> UpdateInfo:
  return jax.tree.map(lambda *values: jnp.stack(values), *infos)

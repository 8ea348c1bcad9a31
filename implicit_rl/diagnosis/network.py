"""Diagnoses networks that were not trained here: JAX functions, or activations of any library."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from implicit_rl import metrics
from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.diagnosis import outputs
from implicit_rl.diagnosis.given import NotGiven, is_missing, or_missing, rows, rows_or_missing
from implicit_rl.diagnosis.measuring import every_diagnostic, take
from implicit_rl.diagnosis.result import Diagnosis
from implicit_rl.diagnostics import Diagnostic, bound_diagnostics
from implicit_rl.diagnostics.alarms import value_bounds
from implicit_rl.losses import dqn_loss
from implicit_rl.types import Apply, Batch, LearnerState, Loss, LossAux, Params


def diagnose(
  apply: Callable[..., Any],
  params: Params,
  states: Any,
  *,
  actions: Any = None,
  rewards: Any = None,
  next_states: Any = None,
  next_actions: Any = None,
  terminals: Any = None,
  returns: Any = None,
  gamma: float | None = None,
  reward_range: tuple[float, float] | None = None,
  target_params: Params | None = None,
  loss: Loss | None = None,
  init: Callable[[jax.Array], Params] | None = None,
  optimizer: optax.GradientTransformation | None = None,
  optimizer_state: Any = None,
  features: str | None = None,
  diagnostics: Mapping[str, Diagnostic] | str | None = None,
  delta: float = 0.01,
  key: jax.Array | None = None,
) -> Diagnosis:
  """Measures a JAX network like the runs of this project.

  The first three arguments suffice. Each of the others allows more measures. The result lists the
  missing measures and their arguments.

  Args:
    apply: `apply(params, states)` returns (q_values [B, A], features [B, d]), or a named tuple with
      such fields, or a mapping of layers' activations [B, ..., units], channels last, from input to
      output; an entry 'q_values' holds the values.
    params: the network's parameters, any pytree.
    states: [B, ...], inputs at random from the data; runs take 2048.
    actions: [B], the actions in the states.
    rewards: [B], the reward of each step; by default they determine `reward_range`.
    next_states: [B, ...], one step later.
    next_actions: [B], the actions in the next states; only few measures need them.
    terminals: [B] bool, whether the episode terminated with the step; by default all False.
    returns: [B], the discounted returns in the data; NaN where unknown.
    gamma: γ, discount per step.
    reward_range: the smallest and the largest reward of a step in the data.
    target_params: the target network's parameters.
    loss: an agent's loss, `loss(params, target_params, batch, key) -> (loss, LossAux)`; by default
      DQN's, if its arguments are given.
    init: `init(key)` returns a fresh network's parameters, for comparison.
    optimizer: the network's optax optimiser.
    optimizer_state: the optimiser's state.
    features: the name of the layer that is Φ, in a mapping; by default 'features', or else the last
      one. Give the name if `apply` is compiled, since JAX sorts the outputs of a compiled function.
    diagnostics: by name; 'all' adds the expensive ones, which may take minutes; by default those of
      every run, and those that gin binds as `Diagnostics.NAME`.
    delta: δ of srank.
    key: PRNG key; by default `jax.random.PRNGKey(0)`.

  Returns:
    The scalars by the names of `metrics.jsonl`, with verdicts.

  Raises:
    ValueError: for an empty batch, arrays of the wrong shape, or other outputs.
  """
  check_number('gamma', gamma, least=0, most=1, optional=True)
  if reward_range is not None and not reward_range[0] <= reward_range[1]:
    raise ValueError(f'reward_range must be (smallest, largest), got {reward_range!r}.')
  states = rows('states', states)
  size = len(jax.tree.leaves(states)[0])
  given = functools.partial(rows_or_missing, size=size)
  key = jax.random.PRNGKey(0) if key is None else key
  network = outputs.adapt(apply, features)
  form = outputs.form(network, params, states)
  batch = Batch(
    state=states,
    action=given('actions', actions),
    reward=given('rewards', rewards),
    next_state=given('next_states', next_states),
    next_action=given('next_actions', next_actions),
    discount=1.0 - given('terminals', jnp.zeros(size) if terminals is None else terminals),
    weight=jnp.ones(size),
    return_to_go=None if returns is None else given('returns', returns),
  )
  context = Context(
    apply=network,
    init=or_missing(init, 'init'),
    loss=_dqn_loss(network, gamma) if loss is None else loss,
    optimizer=or_missing(optimizer, 'optimizer'),
    discount=or_missing(gamma, 'gamma'),
    num_actions=form.num_actions,
    layers=form.layers,
  )
  state = LearnerState(
    params=params,
    target_params=or_missing(target_params, 'target_params'),
    optimizer_state=or_missing(optimizer_state, 'optimizer_state'),
    key=key,
    updates=jnp.zeros((), jnp.int32),
  )
  if isinstance(diagnostics, str) and diagnostics != 'all':
    raise ValueError(f"diagnostics must be a mapping, 'all' or None, got {diagnostics!r}.")
  if isinstance(diagnostics, str):
    chosen: Mapping[str, Diagnostic] = every_diagnostic()
  else:
    chosen = bound_diagnostics() if diagnostics is None else diagnostics
  measured, missing = take(chosen, context, state, batch, delta)
  if loss is None:
    measured.pop('loss', None)  # Nothing is known about it.
  if reward_range is None and rewards is not None:
    reward_range = float(np.min(batch.reward)), float(np.max(batch.reward))
  diagnosis = Diagnosis.of(
    measured,
    not_measured=missing,
    about={'states': size, **form._asdict()},
    bounds=value_bounds(reward_range, gamma),
    gamma=gamma,
  )
  if init is None:
    return diagnosis
  fresh = init(jax.random.fold_in(key, 1))
  return diagnosis.compared(fresh_ranks(network, fresh, states, delta))


def diagnose_features(
  layers: Mapping[str, Any],
  *,
  q_values: Any = None,
  fresh: Mapping[str, Any] | None = None,
  actions: Any = None,
  returns: Any = None,
  gamma: float | None = None,
  reward_range: tuple[float, float] | None = None,
  features: str | None = None,
  channels_first: bool = False,
  diagnostics: Mapping[str, Diagnostic] | str | None = None,
  delta: float = 0.01,
) -> Diagnosis:
  """Measures activations of any library, such as PyTorch's.

  Args:
    layers: activations [B, ..., units] of the layers after their activation functions, by name,
      from input to output, on B states at random from the data. Arrays, or tensors on the CPU.
    q_values: [B, A] of the same states.
    fresh: `layers` of a network of the same shape before training, for comparison.
    actions: as in `diagnose`.
    returns: as in `diagnose`, like the following.
    gamma: as above.
    reward_range: as above.
    features: the name of the layer that is Φ; by default 'features', or else the last one.
    channels_first: whether a convolution's activations are [B, units, H, W], as PyTorch's are.
    diagnostics: as above.
    delta: as above.

  Returns:
    See `diagnose`. Measures that need the network itself are not taken.

  Raises:
    ValueError: for no layer, no state, or arrays of the wrong shape.
  """
  for name, given in (('layers', layers), ('fresh', fresh)):
    if given is not None and not isinstance(given, Mapping):
      raise ValueError(
        f"{name} must map layers' names to activations, as {{'features': array}}, got a "
        f'{type(given).__name__}.'
      )
  if not layers:
    raise ValueError('layers must hold the activations of at least one layer.')
  size = len(rows(f'layers[{next(iter(layers))!r}]', next(iter(layers.values()))))
  last = features or (outputs.FEATURES if outputs.FEATURES in layers else list(layers)[-1])

  def read(what: str, layers: Mapping[str, Any], size: int | None) -> dict[str, jax.Array]:
    found = {name: rows(f'{what}[{name!r}]', one, size) for name, one in layers.items()}
    return {
      name: jnp.moveaxis(one, 1, -1) if channels_first and one.ndim > 2 else one
      for name, one in found.items()
    }

  arrays = read('layers', layers, size)
  if q_values is not None:
    arrays[outputs.Q_VALUES] = rows('q_values', q_values, size)
  network = NotGiven('the network itself, to diagnose()')

  def apply(params: Params, states: Any) -> dict[str, jax.Array]:
    if params is not network:  # These are activations of only one network.
      network()
    return {name: one[jnp.asarray(states)] for name, one in arrays.items()}

  measured = diagnose(
    apply,
    network,
    np.arange(size),
    actions=actions,
    returns=returns,
    gamma=gamma,
    reward_range=reward_range,
    features=last,
    diagnostics=diagnostics,
    delta=delta,
  )
  if fresh is None:
    return measured
  before = outputs.adapt(lambda params, states: states, last)
  return measured.compared(fresh_ranks(before, None, read('fresh', fresh, None), delta))


def fresh_ranks(apply: Apply, params: Params, states: Any, delta: float) -> dict[str, jax.Array]:
  """Returns the rank metrics and singular values of a fresh network's features."""
  return metrics.of_features(apply(params, states).features, delta)


def _dqn_loss(apply: Apply, gamma: float | None) -> Loss:
  """Returns DQN's loss; if an argument is missing, a loss that only has outputs."""

  def loss(params: Params, target_params: Params, batch: Batch, key: jax.Array) -> Any:
    needed = (batch.action, batch.reward, batch.next_state, target_params)
    if gamma is not None and not any(map(is_missing, needed)):
      return dqn_loss(params, target_params, batch, key, apply=apply, discount=gamma)
    none: Any = NotGiven('actions, rewards, next_states, gamma and target_params, or a loss')
    if is_missing(params):
      none = params
    return none, LossAux(apply(params, batch.state), none, {})

  return loss

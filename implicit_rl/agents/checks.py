"""Checks of an agent: its settings before it reads data, and a checkpoint that it restores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

from implicit_rl.data.source import DataSource, check_source
from implicit_rl.logs import checkpoints
from implicit_rl.types import Batch, LearnerState, Loss, Params


def batch_shapes(stack: np.ndarray, batch_size: int, action_shape: tuple[int, ...] = ()) -> Batch:
  """Returns the shapes and dtypes of an update's batch.

  Args:
    stack: [S, ...], a state.
    batch_size: B.
    action_shape: () for discrete actions, (A,) for continuous ones.
  """

  def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

  states = array(stack.dtype, *stack.shape)
  fields = dict.fromkeys(Batch._fields, array(np.float32))
  fields |= {'state': states, 'next_state': states}
  action = array(np.float32 if action_shape else np.int32, *action_shape)
  fields |= {'action': action, 'next_action': action}
  return Batch._make(fields.values())


def trace(loss: Loss, params: Params, batch: Batch) -> None:
  """Traces a loss with shapes only, so that errors in its settings are raised at once."""
  jax.eval_shape(loss, params, params, batch, jax.random.PRNGKey(0))


def make_source(
  source: Callable[..., DataSource], action_shape: tuple[int, ...], **settings: Any
) -> DataSource:
  """Creates an agent's data source, and checks that both have the same kind of actions.

  Args:
    source: as `Agent.source`; it gets the shape of an action unless that is ().
    action_shape: () for discrete actions, (A,) for continuous ones.
    **settings: arguments of every source.

  Raises:
    ValueError: if the source lacks a member, or it or its data has another kind of actions.
  """

  def takes(name: str) -> bool:
    parameters = inspect.signature(source).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)

  if 'return_to_go' in settings and not takes('return_to_go'):
    raise ValueError(
      f"{getattr(source, '__name__', source)} can't compute the returns to the episodes' ends, "
      'which this agent or its Agent.target_range needs: bind Agent.source to an offline one, such '
      'as @TFDSReplay.'
    )
  if action_shape:
    if not takes('action_shape'):
      raise ValueError(
        f'{getattr(source, "__name__", source)} holds discrete actions, and the agent has '
        'continuous ones: bind Agent.source to @VectorReplay or @OnlineReplay.'
      )
    settings['action_shape'] = action_shape
  made = source(**settings)
  check_source(made)
  if made.action_shape != action_shape:
    raise ValueError(
      f'An action in the data has the shape {made.action_shape}, one of the agent {action_shape}: '
      'they are not of the same environment.'
    )
  return made


def check_optional(
  agent: str, read: Collection[str], kinds: dict[str, Any], **settings: Any
) -> None:
  """Checks the settings that only some agents' losses read.

  Args:
    agent: the class's name.
    read: names of the settings that its loss reads.
    kinds: what each setting must be an instance of, if it is not None.
    **settings: their values by name.

  Raises:
    ValueError: for a setting of another kind, or one that the loss would ignore.
  """
  for name, value in settings.items():
    if value is None:
      continue
    if not isinstance(value, kinds[name]):
      hint = f': say @{value.__name__}()' if isinstance(value, type) else ''
      raise ValueError(
        f'Agent.{name} must be a {kinds[name].__name__} or None, got {value!r}{hint}.'
      )
    if name not in read:
      raise ValueError(
        f'Agent.{name} must be None for {agent}, whose loss does not use it, got {value!r}.'
      )


def restore(state: LearnerState, saved: dict[str, Any], iteration: int) -> LearnerState:
  """Returns a checkpoint's learner in place of `state`, as host arrays.

  Raises:
    ValueError: if it belongs to another network or agent, or lacks the state of a remedy.
  """
  saved = {'extra': {}, **saved}  # Checkpoints of versions without remedies.
  missing, unknown = state.extra.keys() - saved['extra'], saved['extra'].keys() - state.extra
  if missing or unknown:
    what = 'has no state of' if missing else 'holds the state of'
    names = ', '.join(f'Remedies.{name}' for name in sorted(missing or unknown))
    raise ValueError(
      f'Checkpoint {iteration} {what} {names}; use a new --base_dir or the gin settings it was '
      'made with.'
    )
  try:
    return checkpoints.from_arrays(state, saved)
  except (KeyError, ValueError) as error:
    raise ValueError(
      f'Checkpoint {iteration} was written by another agent or network ({error}); use a new '
      '--base_dir or the gin settings it was made with.'
    ) from error

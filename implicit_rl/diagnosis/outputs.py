"""Converts the outputs of other networks to those of this project's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from implicit_rl.diagnosis.given import NotGiven, is_missing
from implicit_rl.types import Apply, Layer, Params, QOutputs

Q_VALUES, FEATURES = 'q_values', 'features'
_ACCEPTED = (
  'apply must return (q_values [B, A], features [B, d]), a named tuple with these fields, or a '
  "mapping of layers' activations"
)


def adapt(apply: Callable[..., Any], features: str | None = None) -> Apply:
  """Returns `apply` with outputs that have `q_values`, `features` and `layers`.

  Args:
    apply: see `diagnose`.
    features: the name of the layer that is Φ, or None.
  """
  return lambda params, states: _read(apply(params, states), features)


def _read(found: Any, features: str | None) -> Any:
  """Returns named outputs.

  Raises:
    ValueError: for outputs of another kind.
  """
  if isinstance(found, Mapping):
    return _of_layers(found, features)
  if hasattr(found, Q_VALUES) and hasattr(found, FEATURES):
    if getattr(found, 'layers', None):
      return found
    found = (found.q_values, found.features)
  if not isinstance(found, tuple | list) or len(found) != 2:
    raise ValueError(f'{_ACCEPTED}; it returned {type(found).__name__}.')
  return _of_layers({Q_VALUES: found[0], FEATURES: found[1]}, None)


def _of_layers(found: Mapping[str, Any], features: str | None) -> QOutputs:
  layers = {name: _layer(name, value) for name, value in found.items() if name != Q_VALUES}
  if not layers:
    raise ValueError(f'{_ACCEPTED}; it returned no layer.')
  last = features or (FEATURES if FEATURES in layers else list(layers)[-1])
  if last not in layers:
    raise ValueError(f'features must name a layer, one of {list(layers)}, got {last!r}.')
  phi = layers[last].activation
  if phi.ndim != 2:
    raise ValueError(
      f'The features {last!r} must have the shape [B, d], got {phi.shape}: name another layer with '
      'features, or flatten them.'
    )
  q_values: Any = NotGiven(Q_VALUES)
  if found.get(Q_VALUES) is not None:
    q_values = jnp.asarray(found[Q_VALUES], jnp.float32)
    if q_values.ndim != 2 or len(q_values) != len(phi):
      raise ValueError(f'q_values must have the shape [{len(phi)}, A], got {q_values.shape}.')
  return QOutputs(q_values, phi, layers)


def _layer(name: str, value: Any) -> Layer:
  """Returns a layer; only its activation may be known."""
  preactivation, activation = value if isinstance(value, Layer) else (None, value)
  activation = jnp.asarray(activation)
  if not jnp.issubdtype(activation.dtype, jnp.floating):
    raise ValueError(f'Layer {name!r} must hold floating-point numbers, got {activation.dtype}.')
  if activation.ndim < 2 or 0 in activation.shape:
    raise ValueError(
      f'Layer {name!r} must have the shape [B, ..., units] with at least one row and one unit, got '
      f'{activation.shape}.'
    )
  activation = activation.astype(jnp.promote_types(activation.dtype, jnp.float32))
  if preactivation is None:
    preactivation = jnp.full_like(activation, jnp.nan)
  return Layer(jnp.asarray(preactivation), activation)


class Form(NamedTuple):
  """Facts on a network's outputs, from a trace.

  Attributes:
    layers: from input to output.
    num_actions: 0 if there are no values.
    width: d of the features.
  """

  layers: tuple[str, ...]
  num_actions: int
  width: int


def form(apply: Apply, params: Params, states: Any) -> Form:
  """Traces an adapted network on the shapes of a batch.

  Raises:
    ValueError: as in `adapt`, or if there is not one row per state.
  """
  found: list[Form] = []
  size = len(jax.tree.leaves(states)[0])

  def note(states: Any) -> None:
    outputs = apply(params, states)
    phi = jax.tree.leaves(outputs.features)[0]
    if len(phi) != size:
      raise ValueError(f'The network returned {len(phi)} rows of features for {size} states.')
    actions = 0 if is_missing(outputs.q_values) else outputs.q_values.shape[-1]
    found.append(Form(tuple(outputs.layers), actions, phi.shape[-1]))

  jax.eval_shape(note, states)
  return found[0]

"""Information on the agent for remedies and diagnostics."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from implicit_rl.types import Apply, Batch, Loss, Params, PRNGKey


class NotGivenError(ValueError):
  """A remedy or a diagnostic needs something that the caller has not given."""


def _missing(what: str) -> Callable[..., Any]:
  """Returns a function that raises an error, which names the missing part of the context."""

  def fail(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    raise NotGivenError(
      f'This remedy or diagnostic needs `context.{what}`: construct the learner as '
      f'Learner(loss, context=Context({what}=...)).'
    )

  return fail


_NO_APPLY, _NO_INIT, _NO_LOSS = map(_missing, ('apply', 'init', 'loss'))
_NO_OPTIMIZER = optax.identity()


@dataclasses.dataclass(frozen=True)
class Context:
  """The agent's pure functions and constants. An `Agent` fills all of it.

  Attributes:
    apply: `apply(params, states [B, S, ...]) -> outputs`; of actor-critic networks also with
      `method='actor'` or `'critics'`.
    init: `init(key) -> params`, a fresh network.
    loss: the agent's loss, without penalty and remedies.
    optimizer: the optimiser with everything that the learner wraps around it; its state is
      `LearnerState.optimizer_state`.
    discount: γⁿ.
    num_actions: number of actions A, or the length of a continuous one.
    network: the Flax module, or None.
    initial: the run's initial parameters, as NumPy arrays, or None.
    layers: names of the hidden layers from input to output, the keys of `outputs.layers`; empty if
      the network does not name them.
    batch: shapes and dtypes of an update's batch, `jax.ShapeDtypeStruct`s; None if not known.
    updates: [] int32, gradient updates done before this one; None outside a loss term.
  """

  apply: Apply = _NO_APPLY
  init: Callable[[PRNGKey], Params] = _NO_INIT
  loss: Loss = _NO_LOSS
  optimizer: optax.GradientTransformation = _NO_OPTIMIZER
  discount: float = 0.99
  num_actions: int = 0
  network: Any = None
  initial: Params | None = None
  layers: tuple[str, ...] = ()
  batch: Batch | None = None
  updates: jax.Array | None = None


def trained(params: Params) -> Params:
  """Returns what an optimiser trains: Flax's collection 'params', or everything without one."""
  has_collections = isinstance(params, Mapping) and 'params' in params
  return {'params': params['params']} if has_collections else params


def named_key(key: PRNGKey, name: str) -> PRNGKey:
  """Returns a key that depends on a name, but not on other names."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def add_new(metrics: dict[str, Any], found: Mapping[str, Any], who: str) -> None:
  """Adds new scalars to metrics.

  Args:
    metrics: by name; changed in place.
    found: the new scalars, by name.
    who: the name of what reports `found`, for the error.

  Raises:
    ValueError: for a name that already exists.
  """
  for name in found:
    if name in metrics:
      raise ValueError(f'{who} reports {name!r}, which is reported already: rename it.')
  metrics.update(found)

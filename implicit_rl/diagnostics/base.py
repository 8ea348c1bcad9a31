"""Diagnostics: measurements of the trained network at regular iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.types import Batch, Layers, LearnerState, Params, PRNGKey


class Diagnostic:
  """A measurement; a subclass defines `measure`. Make it a frozen `@gin.configurable` dataclass.

  Attributes:
    period: iterations between two measurements, at least 1; the first iteration is measured.
    compiled: whether `measure` is compiled with `jax.jit`; False for computations on the host.
    held_out: whether `measure` gets transitions that no update draws, instead of the fixed ones
      of the training data. It is skipped if the source holds none out.
  """

  period: int = 1
  compiled: ClassVar[bool] = True
  held_out: ClassVar[bool] = False

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> Mapping[str, Any]:
    """Measures the network.

    Args:
      context: see `Context`.
      state: the learner's; `extra` is what `remember` returned at the previous measurement.
      batch: the run's fixed transitions, 2048 by default; see `held_out`. `return_to_go` is NaN
        if the return is unknown, or None.
      key: a PRNG key for this diagnostic, the same at every measurement.

    Returns:
      Scalars, which appear in `metrics.jsonl` under their names, and arrays, in `spectra.jsonl`.
    """
    raise NotImplementedError(f'{type(self).__name__} has no measure(); see docs/extending.md.')

  def remember(self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey) -> Any:
    """Returns the value of `state.extra` at the next measurement, such as this one's masks.

    Args:
      context: as in `measure`.
      state: as in `measure`.
      batch: as in `measure`.
      key: as in `measure`.

    Returns:
      A pytree of floating-point arrays, saved in checkpoints; before the first measurement all are
      NaN. None to keep nothing.
    """
    del context, state, batch, key
    return None


def training_outputs(context: Context, state: LearnerState, batch: Batch) -> Any:
  """Returns the network's outputs on the batch's states, as the agent's loss sees them."""
  _, aux = context.loss(state.params, state.target_params, batch, state.key)
  return aux.outputs


def hidden_layers(context: Context, state: LearnerState, batch: Batch) -> Layers:
  """Returns the hidden layers on the batch's states; empty if the network reports none."""
  return getattr(training_outputs(context, state, batch), 'layers', None) or {}


def q_values(context: Context, params: Params, batch: Batch) -> jax.Array:
  """Returns Q of all actions in the batch's states [B, A]; for K critics, of its actions [B, K]."""
  if jnp.ndim(batch.action) == 1:
    return context.apply(params, batch.state).q_values
  return context.apply(params, batch.state, batch.action, method='critics').q_values


def first(batch: Batch, size: int) -> Batch:
  """Returns the first `size` transitions, or all if there are fewer; they are drawn i.i.d."""
  return jax.tree.map(lambda x: x[:size], batch)

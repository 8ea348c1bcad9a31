"""The TD error on transitions that no update draws."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import gin
import jax

from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first
from implicit_rl.diagnostics.values import root_mean_square
from implicit_rl.types import Batch, LearnerState, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HeldOutError(Diagnostic):
  """The error of the agent's loss on held-out transitions. Far above `td_error` means overfitting.

  Attributes:
    period: iterations between two measurements.
    states: at most this many transitions.
  """

  period: int = 1
  states: int = 2048
  held_out: ClassVar[bool] = True

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `held_out_td_error`, a root mean square as `td_error` is."""
    del key
    batch = first(batch, self.states)
    _, aux = context.loss(state.params, state.target_params, batch, state.key)
    return {'held_out_td_error': root_mean_square(aux.td_error)}

"""What an agent checks of its settings before it reads data, which may take long."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from implicit_rl.types import Batch, Loss, Params


def trace(loss: Loss, params: Params, stack: np.ndarray, batch_size: int) -> None:
  """Traces a loss on shapes alone, so that what is wrong with its settings is raised at once."""

  def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

  states = array(stack.dtype, *stack.shape)
  fields = dict.fromkeys(Batch._fields, array(np.float32))
  fields |= {'state': states, 'next_state': states}
  fields |= {'action': array(np.int32), 'next_action': array(np.int32)}
  jax.eval_shape(loss, params, params, Batch._make(fields.values()), jax.random.PRNGKey(0))


def check_ranges(**ranges: tuple[Any, float, float | None]) -> None:
  """Raises ValueError, naming the gin parameter, for a value that is not within (least, most)."""
  for name, (value, least, most) in ranges.items():
    if not isinstance(value, int | float):
      raise ValueError(f'Agent.{name} is a number, not {value!r}.')
    if most is None and not value >= least:
      raise ValueError(f'Agent.{name} is at least {least}, not {value}.')
    if most is not None and not least <= value <= most:
      raise ValueError(f'Agent.{name} lies in [{least}, {most}], not {value}.')

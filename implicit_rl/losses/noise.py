"""Fresh noise for noisy networks, for any loss."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax

from implicit_rl.types import Apply, Batch, LossAux, Params, PRNGKey


def with_noise(loss: Callable[..., tuple[jax.Array, LossAux]], apply: Apply, **settings: Any):
  """A loss whose every network call draws its own noise (Fortunato et al., 2018, section 3.1).

  Args:
    loss: a loss that takes `apply`.
    apply: a Flax module's `apply`.
    **settings: the loss's other keyword arguments.

  Returns:
    loss(params, target_params, batch, key); the noise derives from the key.
  """

  def noisy(
    params: Params, target_params: Params, batch: Batch, key: PRNGKey
  ) -> tuple[jax.Array, LossAux]:
    calls = itertools.count()

    def noisy_apply(params, states):
      return apply(params, states, rngs={'noise': jax.random.fold_in(key, next(calls))})

    return loss(params, target_params, batch, key, apply=noisy_apply, **settings)

  return functools.wraps(loss)(noisy)

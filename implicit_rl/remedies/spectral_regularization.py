"""Spectral regularisation keeps the largest singular value of each hidden layer near 1."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.remedies.base import LossTerm
from implicit_rl.remedies.kernels import hidden_kernels
from implicit_rl.types import Batch, LearnerState, LossAux, Metrics, Params, PRNGKey

_FIRST = 30  # Power iterations before the first update; afterwards there is one per update.


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SpectralRegularization(LossTerm):
  """Adds weight · Σ_l (σ_max(W_l)^k − 1)² over hidden layers (Lewandowski et al., 2025).

  A convolution's kernel counts as a matrix with a row for each output channel; biases and the head
  are left out. σ_max comes from power iteration, whose vectors are kept from update to update.

  Attributes:
    weight: λ.
    exponent: k.
  """

  weight: float = 1e-4
  exponent: float = 2.0

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('SpectralRegularization.exponent', self.exponent, above=0)

  def init(self, context: Context, params: Params, key: PRNGKey) -> tuple[jax.Array, ...]:
    """Returns a unit vector [out] for each layer, near its first singular vector."""
    kernels = hidden_kernels(context, params, 'SpectralRegularization')
    vectors = []
    for number, kernel in enumerate(kernels):
      vector = _unit(jax.random.normal(jax.random.fold_in(key, number), kernel.shape[1:]))
      for _ in range(_FIRST):
        vector = _iterate(kernel, vector)
      vectors.append(vector)
    return tuple(vectors)

  def term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: tuple[jax.Array, ...],
  ) -> jax.Array:
    """Returns the sum over the layers []."""
    pairs = zip(hidden_kernels(context, params, 'SpectralRegularization'), extra, strict=True)
    values = (_largest(kernel, vector) for kernel, vector in pairs)
    return sum(((value**self.exponent - 1) ** 2 for value in values), jnp.zeros(()))

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Does one power iteration on the new weights; see `Remedy.after_update`."""
    del batch, key
    vectors: Any = state.extra
    kernels = hidden_kernels(context, state.params, 'SpectralRegularization')
    moved: Any = tuple(map(_iterate, kernels, vectors))
    return state._replace(extra=moved), {}


def _unit(vector: jax.Array) -> jax.Array:
  return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def _iterate(kernel: jax.Array, vector: jax.Array) -> jax.Array:
  """One power iteration of Wᵀ·W with Wᵀ [fan_in, out]: a unit vector [out] -> another."""
  return _unit(_unit(kernel @ vector) @ kernel)


def _largest(kernel: jax.Array, vector: jax.Array) -> jax.Array:
  """Returns σ_max [], with its singular vectors as constants under differentiation."""
  left = jax.lax.stop_gradient(_unit(kernel @ vector))
  right = jax.lax.stop_gradient(_unit(left @ kernel))
  return left @ kernel @ right

"""Parseval regularisation keeps the rows of each hidden layer's weights orthogonal."""

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
from implicit_rl.types import Batch, LossAux, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Parseval(LossTerm):
  """Adds weight · Σ_l (64 / d_l)² · ‖W_l·W_lᵀ − s·I‖_F² over hidden layers (Chung et al., 2024).

  W_l [d_l, fan_in] holds the weights of a hidden layer, of a convolution with a row for each output
  channel; the head is left out. The factor is the authors', who chose the weight at width 64.

  Attributes:
    weight: λ.
    scale: s, the squared singular values that weights are pulled to; 2 suits ReLU.
  """

  weight: float = 1e-3
  scale: float = 2.0

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('Parseval.scale', self.scale, above=0)

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks the network; returns no state."""
    hidden_kernels(context, params, 'Parseval')

  def term(
    self,
    context: Context,
    params: Params,
    target_params: Params,
    batch: Batch,
    aux: LossAux,
    key: PRNGKey,
    extra: Any,
  ) -> jax.Array:
    """Returns the sum over the layers []."""
    kernels = hidden_kernels(context, params, 'Parseval')
    return sum(map(self._distance, kernels), jnp.zeros(()))

  def _distance(self, kernel: jax.Array) -> jax.Array:
    """Wᵀ [fan_in, out] -> (64 / out)² · ‖W·Wᵀ − s·I‖²."""
    fan_in, out = kernel.shape
    small = kernel if fan_in < out else kernel.T  # The smaller one of W·Wᵀ and Wᵀ·W.
    gram = jnp.matmul(small, small.T, precision='highest')
    apart = jnp.sum(jnp.square(gram - self.scale * jnp.eye(len(gram))))
    return (64 / out) ** 2 * (apart + self.scale**2 * (out - len(gram)))

"""Terms of the features alone: nuclear norm, stable rank and decorrelation.

Φ [B, d] holds the features of a minibatch; the terms of several critics are added.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl import rank
from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.remedies.base import LossTerm
from implicit_rl.remedies.forward import features_of
from implicit_rl.types import Batch, LossAux, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class FeatureTerm(LossTerm, abc.ABC):
  """A term that is a function of Φ; a subclass defines it.

  Attributes:
    period: gradient updates from one that has the term to the next; the first has it. There the
      term is multiplied by `period`, and in between it is 0: the same mean at less cost, known as
      lazy regularisation (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN",
      CVPR 2020).

  Raises:
    ValueError: if `period` is below 1 or not a whole number, or for an invalid weight.
  """

  period: int = dataclasses.field(default=1, kw_only=True)  # gradient updates

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number(f'{type(self).__name__}.period', self.period, least=1, whole=True)

  @abc.abstractmethod
  def of_features(self, features: jax.Array) -> jax.Array:
    """Φ [B, d] -> the term [] before its weight."""

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
    """Returns the sum over the critics, [], times `period` where it is due, else 0.

    Raises:
      ValueError: if there is a period, and the context has no number of updates.
    """
    total = lambda: sum(map(self.of_features, features_of(aux.outputs)), jnp.zeros(()))
    if self.period == 1:
      return total()
    if context.updates is None:
      raise ValueError(f'{type(self).__name__}.period = {self.period} needs `context.updates`.')
    due = context.updates % self.period == 0
    return jax.lax.cond(due, lambda: self.period * total(), lambda: jnp.zeros(()))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NuclearNorm(FeatureTerm):
  """Subtracts weight · ‖Φ‖_* / ‖Φ‖_F, which lies between 1 and the root of the rank.

  The nuclear norm ‖Φ‖_* is Σ σ_i. It alone is unbounded, since growing features increase it.

  Attributes:
    weight: α.
    relative: divide by the Frobenius norm ‖Φ‖_F; False uses ‖Φ‖_* itself.
  """

  weight: float = 1e-3
  relative: bool = True

  def of_features(self, features: jax.Array) -> jax.Array:
    """Φ [B, d] -> −Σ σ_i / √Σ σ_i², 0 for a zero matrix.

    σ² are the eigenvalues of the smaller Gram matrix. √σ² is replaced by a line where σ² is only
    rounding.
    """
    wide = features if features.shape[0] <= features.shape[1] else features.T
    squares = jnp.linalg.eigvalsh(jnp.matmul(wide, wide.T, precision='highest'))  # Ascending.
    zero = squares[-1] <= 0
    largest = jax.lax.stop_gradient(jnp.where(zero, 1, squares[-1]))
    rounding = max(wide.shape) * jnp.finfo(wide.dtype).eps * largest
    roots = jnp.sqrt(jnp.maximum(squares, rounding))
    total = jnp.sum(jnp.where(squares > rounding, roots, squares / jnp.sqrt(rounding)))
    if not self.relative:
      return -total
    return -total / jnp.sqrt(jnp.where(zero, 1, jnp.sum(wide**2)))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class StableRank(FeatureTerm):
  """Subtracts weight · ‖Φ‖_F² / σ_max², which lies between 1 and the rank.

  Attributes:
    weight: α.
  """

  weight: float = 1e-3

  def of_features(self, features: jax.Array) -> jax.Array:
    """Φ [B, d] -> −Σ σ_i² / σ_max²."""
    return -rank.stable_rank(features)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Decorrelation(FeatureTerm):
  """Adds weight · (covariance · c + variance · v), two terms of VICReg (Bardes et al., 2022).

  With C [d, d] the features' covariance over the minibatch, c = Σ_{i≠j} C_ij² / d and
  v = mean_i max(0, 1 − √(C_ii + 10⁻⁴)).

  Attributes:
    weight: α.
    covariance: share of c; the authors' is 1.
    variance: share of v; the authors' is 25.
  """

  weight: float = 1e-3
  covariance: float = 1.0
  variance: float = 25.0

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('Decorrelation.covariance', self.covariance, least=0)
    check_number('Decorrelation.variance', self.variance, least=0)

  def of_features(self, features: jax.Array) -> jax.Array:
    """Φ [B, d] -> covariance · c + variance · v. Raises ValueError for a single row."""
    size, width = features.shape
    if size < 2:
      raise ValueError('Decorrelation needs Agent.batch_size of at least 2, got 1.')
    centred = features - jnp.mean(features, axis=0, keepdims=True)
    variance = jnp.sum(centred**2, axis=0) / (size - 1)  # [d], the diagonal of C.
    product = functools.partial(jnp.matmul, precision='highest')
    if size < width:  # It has C's norm. With so few rows C is far from diagonal.
      gram = product(centred, centred.T) / (size - 1)
      squares = jnp.sum(gram**2) - jnp.sum(variance**2)
    else:
      squares = jnp.sum((product(centred.T, centred) / (size - 1) - jnp.diag(variance)) ** 2)
    missing = jnp.mean(jax.nn.relu(1 - jnp.sqrt(variance + 1e-4)))
    return self.covariance * squares / width + self.variance * missing

"""Heads turn a network's features into values, distributions, histograms or quantiles.

A head is a plain function with settings, called inside a Flax module's `__call__`, so its layers
belong to the module. A network with a `QHead` has the same parameters as one that ends in a dense
layer. A head computes in the dtype of its features and returns float32.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, TypeAlias

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from implicit_rl.compat.settings import check_number
from implicit_rl.layers import NoisyDense, RowDense, at_least_float32, dense
from implicit_rl.types import (
  CategoricalOutputs,
  CriticOutputs,
  HistogramOutputs,
  QOutputs,
  QuantileOutputs,
)

Outputs: TypeAlias = QOutputs | CategoricalOutputs | HistogramOutputs | QuantileOutputs


@dataclasses.dataclass(frozen=True)
class Head(abc.ABC):
  """Base of the heads: layers, dueling streams, noise.

  Attributes:
    dueling: separate streams for value and advantages on the same features (Wang et al., 2016). The
      output is value + advantages − mean of the advantages, as in Dopamine.
    noisy: whether the hidden layers and the head are `NoisyDense`.
  """

  dueling: bool = False
  noisy: bool = False

  def dense(self, width: int, large: bool = False, dtype: Any = None) -> nn.Module:
    """Returns a fully connected layer of the kind that this head's settings require.

    Args:
      width: outputs.
      large: the kernel has millions of weights (`RowDense`).
      dtype: of the layer's computation; None is float32.
    """
    if self.noisy:
      return NoisyDense(width, dtype)
    return RowDense(width, dtype) if large else dense(width, dtype)

  def per_action(self, features: jax.Array, num_actions: int, width: int) -> jax.Array:
    """Returns `width` numbers for each action: [B, d] -> [B, A, width] float32."""
    layer = self.dense(num_actions * width, dtype=features.dtype)
    advantage = at_least_float32(layer(features)).reshape(-1, num_actions, width)
    if not self.dueling:
      return advantage
    value = at_least_float32(self.dense(width, dtype=features.dtype)(features))[:, None, :]
    return value + advantage - jnp.mean(advantage, axis=1, keepdims=True)

  @abc.abstractmethod
  def __call__(self, features: jax.Array, num_actions: int) -> Outputs:
    """Features [B, d] -> outputs, which include `q_values` [B, A] and the features."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class QHead(Head):
  """One value for each action."""

  def __call__(self, features: jax.Array, num_actions: int) -> QOutputs:
    """Features [B, d] -> QOutputs."""
    q_values = self.per_action(features, num_actions, 1)[..., 0]
    return QOutputs(q_values=q_values, features=at_least_float32(features))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class C51Head(Head):
  """A distribution over fixed, evenly spaced returns for each action (Bellemare et al., 2017).

  Attributes:
    num_atoms: K, returns.
    v_max: the largest return; ±10 suits clipped Atari rewards and γ = 0.99.
    v_min: the smallest return; None is −v_max.
  """

  num_atoms: int = 51
  v_max: float = 10.0
  v_min: float | None = None

  def __post_init__(self):
    """Raises ValueError for an invalid support."""
    if self.num_atoms < 2:
      raise ValueError(f'C51Head.num_atoms must be at least 2, got {self.num_atoms}.')
    if self.low >= self.v_max:
      raise ValueError(f'C51Head.v_min ({self.low}) must be below C51Head.v_max ({self.v_max}).')

  @property
  def low(self) -> float:
    """The smallest return."""
    return -self.v_max if self.v_min is None else self.v_min

  def __call__(self, features: jax.Array, num_actions: int) -> CategoricalOutputs:
    """Features [B, d] -> CategoricalOutputs."""
    logits = self.per_action(features, num_actions, self.num_atoms)
    support = jnp.linspace(self.low, self.v_max, self.num_atoms)
    q_values = _means(logits, support)
    return CategoricalOutputs(q_values, at_least_float32(features), logits, support)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HLGaussHead(Head):
  """A histogram of the value for each action, trained by classification (Farebrother et al., 2024).

  The losses that regress a value (`losses.regression_loss`: DQN, CQL on it, FQE, Monte Carlo)
  recognise its outputs and use the cross-entropy to the smoothed target instead. Bins, range and
  smoothing are the paper's for Atari (its tables B.2 and B.3).

  Attributes:
    num_bins: K.
    v_max: the end of the last bin; targets beyond the bins are clipped to their edge.
    v_min: the start of the first bin; None is −v_max.
    smoothing: the Gaussian's standard deviation, in bin widths.

  Raises:
    ValueError: for fewer than two bins, an empty range or a smoothing that is not positive.
  """

  num_bins: int = 51
  v_max: float = 10.0
  v_min: float | None = None
  smoothing: float = 0.75

  def __post_init__(self):
    """Checks the settings."""
    check_number('HLGaussHead.num_bins', self.num_bins, least=2, whole=True)
    check_number('HLGaussHead.smoothing', self.smoothing, above=0)
    if not self.low < self.v_max:
      raise ValueError(
        f'HLGaussHead.v_min ({self.low}) must be below HLGaussHead.v_max ({self.v_max}).'
      )

  @property
  def low(self) -> float:
    """The start of the first bin."""
    return -self.v_max if self.v_min is None else self.v_min

  def __call__(self, features: jax.Array, num_actions: int) -> HistogramOutputs:
    """Features [B, d] -> HistogramOutputs."""
    logits = self.per_action(features, num_actions, self.num_bins)
    edges = jnp.linspace(self.low, self.v_max, self.num_bins + 1)
    q_values = _means(logits, _centres(edges))
    sigma = jnp.float32(self.smoothing * (self.v_max - self.low) / self.num_bins)
    return HistogramOutputs(q_values, at_least_float32(features), logits, edges, sigma)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class QuantileHead(Head):
  """Quantiles of the return for each action (Dabney et al., 2018).

  Attributes:
    num_quantiles: N.
  """

  num_quantiles: int = 200

  def __post_init__(self):
    """Raises ValueError for fewer than one quantile."""
    if self.num_quantiles < 1:
      raise ValueError(f'QuantileHead.num_quantiles must be at least 1, got {self.num_quantiles}.')

  def __call__(self, features: jax.Array, num_actions: int) -> QuantileOutputs:
    """Features [B, d] -> QuantileOutputs."""
    quantiles = self.per_action(features, num_actions, self.num_quantiles)
    return QuantileOutputs(jnp.mean(quantiles, axis=-1), at_least_float32(features), quantiles)


def numbers_of(outputs: Any) -> jax.Array:
  """Returns the last layer's outputs: logits, quantiles, or the values themselves.

  Raises:
    ValueError: for outputs that no head here makes.
  """
  if isinstance(outputs, CategoricalOutputs | HistogramOutputs):
    return outputs.logits
  if isinstance(outputs, QuantileOutputs):
    return outputs.quantiles
  if isinstance(outputs, QOutputs | CriticOutputs):
    return outputs.q_values
  raise ValueError(
    f"A network's outputs must be those of a head in implicit_rl.heads, got {type(outputs)}."
  )


def with_numbers(outputs: Any, numbers: jax.Array) -> Any:
  """Returns outputs with other numbers in place of those of the last layer; see `numbers_of`."""
  if isinstance(outputs, CategoricalOutputs):
    return outputs._replace(logits=numbers, q_values=_means(numbers, outputs.support))
  if isinstance(outputs, HistogramOutputs):
    return outputs._replace(logits=numbers, q_values=_means(numbers, _centres(outputs.edges)))
  if isinstance(outputs, QuantileOutputs):
    return outputs._replace(quantiles=numbers, q_values=jnp.mean(numbers, axis=-1))
  return outputs._replace(q_values=numbers)


def _means(logits: jax.Array, values: jax.Array) -> jax.Array:
  """Means [...] of distributions [..., K] over values [K]."""
  return nn.softmax(logits) @ values


def _centres(edges: jax.Array) -> jax.Array:
  """Edges [K + 1] of bins -> their centres [K]."""
  return (edges[1:] + edges[:-1]) / 2

"""Heads: what a network does with its features. Values, C51's distributions, or quantiles.

A head is a plain function with settings, called inside a Flax module's `__call__`, so its layers
are the module's own: a network with a `QHead` has the parameters of one that ends in a dense layer.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TypeAlias

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from implicit_rl.cpu import matmul
from implicit_rl.types import CategoricalOutputs, QOutputs, QuantileOutputs

# Dopamine's initialisation for its JAX networks.
KERNEL_INIT = nn.initializers.xavier_uniform()

Outputs: TypeAlias = QOutputs | CategoricalOutputs | QuantileOutputs


def dense(width: int) -> nn.Dense:
  """A dense layer that keeps the weights of each input together."""
  return nn.Dense(width, kernel_init=KERNEL_INIT, dot_general=matmul.dot_general)


class RowDense(nn.Module):
  """A dense layer that keeps the weights of each output together, as rows of its kernel.

  The same function as `nn.Dense`. XLA's CPU backend is faster so with millions of weights
  (docs/performance.md); within the caches `nn.Dense` is.

  Attributes:
    width: outputs.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, p] float32 -> [B, width] float32."""
    kernel = self.param('kernel', KERNEL_INIT, (self.width, x.shape[-1]))
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    return matmul.rows(x, kernel) + bias[None, :]


class NoisyDense(nn.Module):
  """A dense layer with factorised Gaussian noise on its weights (Fortunato et al., 2018, eq. 8-11).

  Applied with `rngs={'noise': key}` it draws one noise for the whole batch; without, it uses the
  mean weights. Initialised as in Dopamine: μ uniform in ±1/√p and σ = 0.1/√p for p inputs. Kernels
  are kept by rows, as `RowDense` does.

  Attributes:
    width: outputs.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, p] float32 -> [B, width] float32."""
    inputs = x.shape[-1]
    bound = inputs**-0.5

    def mu_init(key, shape):
      return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    def weight(name: str, shape: tuple[int, ...], noise: jax.Array) -> jax.Array:
      mu = self.param(f'{name}_mu', mu_init, shape)
      sigma = self.param(f'{name}_sigma', nn.initializers.constant(0.1 * bound), shape)
      return mu + sigma * noise

    def draw(key):
      drawn = jax.random.normal(key, (inputs + self.width,))
      return jnp.sign(drawn) * jnp.sqrt(jnp.abs(drawn))

    drawn = jnp.zeros(inputs + self.width)
    if self.has_rng('noise'):  # Else XLA draws anew for each of a kernel's weights.
      drawn = matmul.apart(draw, self.make_rng('noise'))
    noise_in, noise_out = drawn[:inputs], drawn[inputs:]
    kernel = weight('kernel', (self.width, inputs), jnp.outer(noise_out, noise_in))
    bias = weight('bias', (self.width,), noise_out)
    return matmul.rows(x, kernel) + bias[None, :]


@dataclasses.dataclass(frozen=True)
class Head(abc.ABC):
  """What the heads share: their layers, dueling streams, noise.

  Attributes:
    dueling: value and advantages apart, on the same features (Wang et al., 2016); their sum, with
      the advantages' mean taken off, as in Dopamine.
    noisy: the hidden layers and the head are `NoisyDense`.
  """

  dueling: bool = False
  noisy: bool = False

  def dense(self, width: int, large: bool = False) -> nn.Module:
    """A fully connected layer of the kind that this head asks for.

    Args:
      width: outputs.
      large: the kernel has millions of weights (`RowDense`).
    """
    if self.noisy:
      return NoisyDense(width)
    return RowDense(width) if large else dense(width)

  def per_action(self, features: jax.Array, num_actions: int, width: int) -> jax.Array:
    """`width` numbers for each action: [B, d] -> [B, A, width]."""
    advantage = self.dense(num_actions * width)(features).reshape(-1, num_actions, width)
    if not self.dueling:
      return advantage
    value = self.dense(width)(features)[:, None, :]  # [B, 1, width]
    return value + advantage - jnp.mean(advantage, axis=1, keepdims=True)

  @abc.abstractmethod
  def __call__(self, features: jax.Array, num_actions: int) -> Outputs:
    """Features [B, d] -> outputs, `q_values` [B, A] and the features among them."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class QHead(Head):
  """One value for each action."""

  def __call__(self, features: jax.Array, num_actions: int) -> QOutputs:
    """Features [B, d] -> QOutputs."""
    q_values = self.per_action(features, num_actions, 1)[..., 0]
    return QOutputs(q_values=q_values, features=features)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class C51Head(Head):
  """A distribution over fixed, evenly spaced returns for each action (Bellemare et al., 2017).

  Attributes:
    num_atoms: K, returns.
    v_max: the largest return; ±10 suits clipped Atari rewards and γ = 0.99.
    v_min: the smallest; None is −v_max.
  """

  num_atoms: int = 51
  v_max: float = 10.0
  v_min: float | None = None

  def __post_init__(self):
    """Raises ValueError for a support that is none."""
    if self.num_atoms < 2:
      raise ValueError(f'C51Head.num_atoms is at least 2, not {self.num_atoms}.')
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
    q_values = nn.softmax(logits) @ support
    return CategoricalOutputs(q_values, features, logits, support)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class QuantileHead(Head):
  """Quantiles of the return for each action (Dabney et al., 2018).

  Attributes:
    num_quantiles: N.
  """

  num_quantiles: int = 200

  def __post_init__(self):
    """Raises ValueError for no quantile."""
    if self.num_quantiles < 1:
      raise ValueError(f'QuantileHead.num_quantiles is at least 1, not {self.num_quantiles}.')

  def __call__(self, features: jax.Array, num_actions: int) -> QuantileOutputs:
    """Features [B, d] -> QuantileOutputs."""
    quantiles = self.per_action(features, num_actions, self.num_quantiles)
    return QuantileOutputs(jnp.mean(quantiles, axis=-1), features, quantiles)

"""SimBa: residual blocks with layer normalisation, for flat observations (Lee et al., 2025).

    x₀ = W·s;   xₖ₊₁ = xₖ + W₂·relu(W₁·norm(xₖ));   φ = norm(x_K)

The authors also normalise observations by their running mean and deviation. Here this is left to
the data. Blocks report their inner layers, the only ones with an activation.
"""

from __future__ import annotations

from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from implicit_rl.compat.settings import check_number
from implicit_rl.heads import Head, Outputs, QHead
from implicit_rl.layers import Hidden
from implicit_rl.networks import ActorCritic, flat, outputs_of
from implicit_rl.types import Layer, Layers


class ResidualBlock(nn.Module):
  """x + W₂·activation(W₁·norm(x)), He-initialised.

  Attributes:
    expansion: how many times wider than x the inner layer is.
    activation: one of `layers.ACTIVATIONS`.
    dtype: of the computation; None is float32.
  """

  expansion: int
  activation: str
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, Layers]:
    """[B, d] -> [B, d], and the inner layer."""
    dense = lambda width: nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.he_normal())
    hidden = Hidden('SimBa', self.activation, False, self.dtype)
    width = x.shape[-1]
    inner = hidden(dense(self.expansion * width), nn.LayerNorm(dtype=self.dtype)(x))
    return x + dense(width)(inner), hidden.layers


class Encoder(nn.Module):
  """A dense layer, residual blocks and a normalisation.

  Attributes:
    width: d.
    blocks: K, at least 1.
    expansion: see `ResidualBlock`.
    activation: as above.
    dtype: as above.

  Raises:
    ValueError: for a size below 1.
  """

  width: int
  blocks: int
  expansion: int = 4
  activation: str = 'relu'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, Layers]:
    """[B, p] -> features [B, d], and the blocks' inner layers."""
    for name in ('width', 'blocks', 'expansion'):
      check_number(f'SimBa {name}', getattr(self, name), least=1, whole=True)
    embed = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.orthogonal(1.0))
    x, layers = embed(x), dict[str, Layer]()
    for _ in range(self.blocks):
      x, inner = ResidualBlock(self.expansion, self.activation, self.dtype)(x)
      layers |= inner
    return nn.LayerNorm(dtype=self.dtype)(x), layers


@gin.configurable
class SimBa(nn.Module):
  """A value network of residual blocks over the flattened state.

  Attributes:
    num_actions: number of actions A.
    width: d.
    blocks: number of residual blocks; the defaults of `width` and `blocks` are those of the
      authors' critics.
    expansion: how many times wider a block's inner layer is.
    head: what turns features into values.
    activation: of the inner layers, one of `layers.ACTIVATIONS`.
    dtype: what the layers compute in; None is float32.

  Raises:
    ValueError: for frames of bytes, or a noisy head.
  """

  num_actions: int
  width: int = 512
  blocks: int = 2
  expansion: int = 4
  head: Head = QHead()
  activation: str = 'relu'
  dtype: Any = None

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, ...] of any numeric dtype -> outputs."""
    if state.ndim == 4 and state.dtype == jnp.uint8:
      raise ValueError(
        f'SimBa takes flat observations, got frames {state.shape[2:]}: bind Agent.network = '
        '@NatureCNN for them.'
      )
    if self.head.noisy:
      raise ValueError('SimBa has no noisy layers: bind RainbowAgent.noisy = False.')
    encoder = Encoder(self.width, self.blocks, self.expansion, self.activation, self.dtype)
    features, layers = encoder(flat(state))
    return outputs_of(self.head, features, self.num_actions, layers)


@gin.configurable
class SimBaActorCritic(ActorCritic):
  """An `ActorCritic` whose policy and critics are residual blocks.

  `hidden_units`, `layer_norm`, `feature_norm` and `spectral_norm` must keep their defaults.

  Attributes:
    actor_width: d of the policy; all default sizes are the authors'.
    actor_blocks: its residual blocks.
    critic_width: d of each critic.
    critic_blocks: its residual blocks.

  Raises:
    ValueError: for a setting of `ActorCritic` that residual blocks do not have.
  """

  actor_width: int = 128
  actor_blocks: int = 1
  critic_width: int = 512
  critic_blocks: int = 2

  def _make_hidden(self, critic: bool) -> nn.Module:
    for name in ('hidden_units', 'layer_norm', 'feature_norm', 'spectral_norm'):
      value, default = getattr(self, name), getattr(ActorCritic, name)
      if value != default:
        raise ValueError(
          f'SimBaActorCritic.{name} must be {default!r}, since residual blocks have none, '
          f'got {value!r}.'
        )
    width, blocks = (
      (self.critic_width, self.critic_blocks) if critic else (self.actor_width, self.actor_blocks)
    )
    return Encoder(width, blocks, activation=self.activation, dtype=self.dtype)

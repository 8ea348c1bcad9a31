"""Flax networks. Every one returns named outputs, the penultimate `features` among them.

Inputs are state stacks with the frames first, [B, S, *observation_shape], as the data sources serve
them: gathering frames first on the host costs a tenth of gathering them last, so each network does
its own transpose on the device.

A network is a torso and one hidden layer of its own, and a head from `heads`, which turns features
into values or distributions. The agent chooses the head; gin chooses the network. `ActorCritic` is
for continuous actions: a policy and critics that share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from implicit_rl.cpu import conv, matmul
from implicit_rl.cpu.conv import stack_to_channels
from implicit_rl.heads import KERNEL_INIT, Head, Outputs, QHead, dense
from implicit_rl.types import CriticOutputs, GaussianOutputs


def _activate(
  x: jax.Array, layer_norm: bool, activation: Callable[[jax.Array], jax.Array] = nn.relu
) -> jax.Array:
  """A layer's activation, after layer normalisation if asked for.

  Normalised are all units that a state has in the layer (Ba et al., 2016); their gain and bias are
  one for each channel.
  """
  if layer_norm:
    x = nn.LayerNorm(reduction_axes=tuple(range(1, x.ndim)), feature_axes=-1)(x)
  return activation(x)


class Conv(nn.Module):  # Flax names layers in saved networks after the class.
  """`nn.Conv`, with its parameters, and if asked for what comes before and after; fast on a CPU.

  Attributes:
    width: output channels.
    size: side of the square kernel.
    stride: places between two outputs.
    padding: 'SAME' or 'VALID'.
    frames: it reads a state stack [B, S, H, W, ...] of bytes, as shares of 255.
    rectify: it ends in a rectifier.
  """

  width: int
  size: int
  stride: int = 1
  padding: str = 'SAME'
  frames: bool = False
  rectify: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] float32, or a state stack -> [B, H', W', width] float32."""
    channels = jax.eval_shape(stack_to_channels, x).shape[-1] if self.frames else x.shape[-1]
    shape = (self.size, self.size, channels, self.width)
    kernel = self.param('kernel', KERNEL_INIT, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.width,), jnp.float32)
    convolve = conv.of_frames if self.frames else conv.of_images
    y = convolve(x, kernel, self.stride, self.padding)
    return conv.rectified(y, bias) if self.rectify else y + bias[None, None, None, :]


def _convolve(
  state: jax.Array, layers: Sequence[tuple[int, int, int]], padding: str, layer_norm: bool
) -> jax.Array:
  """A state stack through convolutions of (width, size, stride), flat: [B, p]."""
  x = state
  for i, layer in enumerate(layers):
    x = Conv(*layer, padding, frames=i == 0, rectify=not layer_norm)(x)
    x = _activate(x, layer_norm) if layer_norm else x
  return x.reshape(x.shape[0], -1)


@gin.configurable
class NatureCNN(nn.Module):
  """The network of Mnih et al. (2015), three convolutions and one hidden layer.

  Attributes:
    num_actions: number of actions A.
    hidden_units: width d of the penultimate layer.
    padding: 'SAME' as in Dopamine's networks (7744 inputs to the hidden layer) or 'VALID' as in the
      original (3136 inputs). Their speeds and ranks are not comparable.
    layer_norm: normalise each hidden layer before its activation.
    head: what turns features into values.
  """

  num_actions: int
  hidden_units: int = 512
  padding: str = 'SAME'
  layer_norm: bool = False
  head: Head = QHead()

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, 84, 84] uint8 -> outputs."""
    layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    x = _convolve(state, layers, self.padding, self.layer_norm)
    features = _activate(self.head.dense(self.hidden_units, large=True)(x), self.layer_norm)
    return self.head(features, self.num_actions)


@gin.configurable
class SmallCNN(nn.Module):
  """Two convolutions on Atari frames at half their size: a tenth of NatureCNN's work, for a CPU.

  Attributes:
    num_actions: number of actions A.
    hidden_units: width d of the penultimate layer.
    layer_norm: normalise each hidden layer before its activation.
    head: what turns features into values.
  """

  num_actions: int
  hidden_units: int = 256
  layer_norm: bool = False
  head: Head = QHead()

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, 84, 84] uint8 -> outputs."""
    x = jnp.maximum(state[:, :, ::2], state[:, :, 1::2])  # The largest of four neighbours, so that
    x = jnp.maximum(x[..., ::2], x[..., 1::2])  # nothing small is lost. [B, S, 42, 42]
    x = _convolve(x, ((16, 6, 3), (32, 4, 2)), 'VALID', self.layer_norm)
    features = _activate(self.head.dense(self.hidden_units)(x), self.layer_norm)
    return self.head(features, self.num_actions)


class PatchConv(nn.Module):
  """A stride-1 VALID convolution written as shifted slices and one matrix product.

  The same function and parameters as `nn.Conv`. XLA's CPU backend runs a convolution inside a
  compiled loop many times slower than outside it; a matrix product does not suffer, so networks for
  small images use this to train in one compiled loop.

  Attributes:
    width: output channels.
    size: side of the square kernel.
  """

  width: int
  size: int = 3

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] float32 -> [B, H-size+1, W-size+1, width] float32."""
    height, breadth, channels = x.shape[1:]
    kernel = self.param('kernel', KERNEL_INIT, (self.size, self.size, channels, self.width))
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    rows, columns = height - self.size + 1, breadth - self.size + 1
    patches = jnp.concatenate(
      [x[:, i : i + rows, j : j + columns] for i in range(self.size) for j in range(self.size)],
      axis=-1,
    )  # [B, rows, columns, size²·C], ordered as the kernel's first three axes
    y = matmul.columns(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, self.width))
    return (y + bias[None, :]).reshape(-1, rows, columns, self.width)


@gin.configurable
class MinAtarCNN(nn.Module):
  """The network of Young and Tian (2019) for MinAtar: one 3×3 convolution, one hidden layer.

  Attributes:
    num_actions: number of actions A.
    hidden_units: width d of the penultimate layer.
    layer_norm: normalise each hidden layer before its activation.
    head: what turns features into values.
  """

  num_actions: int
  hidden_units: int = 128
  layer_norm: bool = False
  head: Head = QHead()

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, 10, 10, C] of zeros and ones -> outputs."""
    x = stack_to_channels(state).astype(jnp.float32)
    x = _activate(PatchConv(16)(x), self.layer_norm)
    x = x.reshape(x.shape[0], -1)
    features = _activate(self.head.dense(self.hidden_units)(x), self.layer_norm)
    return self.head(features, self.num_actions)


@gin.configurable
class MLP(nn.Module):
  """Fully connected layers over the flattened state.

  Attributes:
    num_actions: number of actions A.
    hidden_units: widths of the hidden layers; the last is d. (64, 64) is the paper's gridworld.
    activation: 'relu', 'tanh', 'gelu' or 'linear' (a deep linear network).
    layer_norm: normalise each hidden layer before its activation.
    head: what turns features into values.
  """

  num_actions: int
  hidden_units: Sequence[int] = (64, 64)
  activation: str = 'relu'
  layer_norm: bool = False
  head: Head = QHead()

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, ...] of any numeric dtype -> outputs."""
    if self.activation not in _ACTIVATIONS:
      raise ValueError(f'MLP.activation is one of {sorted(_ACTIVATIONS)}, not {self.activation!r}.')
    activation = _ACTIVATIONS[self.activation]
    features = _flat(state)
    for width in self.hidden_units:
      features = _activate(self.head.dense(width)(features), self.layer_norm, activation)
    return self.head(features, self.num_actions)


class _HiddenLayers(nn.Module):
  """Fully connected layers with activations; the last ones are the features."""

  widths: Sequence[int]
  layer_norm: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for width in self.widths:
      x = _activate(dense(width)(x), self.layer_norm)
    return x


@gin.configurable
class ActorCritic(nn.Module):
  """A tanh-Gaussian policy and K critics for flat observations and continuous actions.

  The methods `actor`, `critics`, `log_temperature` and `log_multiplier` are what losses apply.

  Attributes:
    num_actions: A, length of an action.
    hidden_units: widths of the hidden layers of policy and critics; a critic's last is d.
    num_critics: K.
    layer_norm: normalise each hidden layer before its activation.
    initial_temperature: α before the first update, where it is learnt.
    least_log_std: the policy's log standard deviation is cut off below this.
    most_log_std: and above this.
    lagrange: there is a multiplier to learn, which starts at 1 (CQL with a threshold).
  """

  num_actions: int
  hidden_units: Sequence[int] = (256, 256)
  num_critics: int = 2
  layer_norm: bool = False
  initial_temperature: float = 1.0
  least_log_std: float = -20.0
  most_log_std: float = 2.0
  lagrange: bool = False

  def setup(self):
    """Makes the layers."""
    widths, normalise = tuple(self.hidden_units), self.layer_norm
    self.actor_hidden = _HiddenLayers(widths, normalise)
    self.actor_mean = dense(self.num_actions)
    self.actor_log_std = dense(self.num_actions)
    self.critic_hidden = [_HiddenLayers(widths, normalise) for _ in range(self.num_critics)]
    self.critic_value = [dense(1) for _ in range(self.num_critics)]
    log_alpha = jnp.log(self.initial_temperature)
    self.log_alpha = self.param('log_temperature', nn.initializers.constant(log_alpha), ())
    if self.lagrange:
      self.log_lambda = self.param('log_multiplier', nn.initializers.zeros, ())

  def actor(self, state: jax.Array) -> GaussianOutputs:
    """State [B, S, D] -> the Gaussian [B, A] that tanh squashes to actions in (−1, 1)."""
    hidden = self.actor_hidden(_flat(state))
    log_std = jnp.clip(self.actor_log_std(hidden), self.least_log_std, self.most_log_std)
    return GaussianOutputs(self.actor_mean(hidden), log_std)

  def critics(self, state: jax.Array, action: jax.Array) -> CriticOutputs:
    """State [B, S, D] and action [B, A] -> each critic's value and features."""
    x = jnp.concatenate([_flat(state), action], axis=-1)
    features = tuple(hidden(x) for hidden in self.critic_hidden)
    values = [value(phi) for value, phi in zip(self.critic_value, features, strict=True)]
    return CriticOutputs(jnp.concatenate(values, axis=-1), features)

  def log_temperature(self) -> jax.Array:
    """Log α [], the entropy's weight where it is learnt."""
    return self.log_alpha

  def log_multiplier(self) -> jax.Array:
    """Log λ [], the conservative term's multiplier."""
    return self.log_lambda

  def __call__(self, state: jax.Array) -> CriticOutputs:
    """State [B, S, D] -> the critics on the policy's own mean action."""
    return self.critics(state, jnp.tanh(self.actor(state).mean))


def _flat(state: jax.Array) -> jax.Array:
  """[B, ...] of any numeric dtype -> [B, D] float32."""
  return state.reshape(state.shape[0], -1).astype(jnp.float32)


_ACTIVATIONS = {'relu': nn.relu, 'tanh': nn.tanh, 'gelu': nn.gelu, 'linear': lambda x: x}

"""Flax networks. Each returns named outputs, which include the features and every hidden layer.

Inputs are state stacks with the frames first, [B, S, *observation_shape], as the data sources serve
them. Gathering frames first on the host costs a tenth of gathering them last, so each network
transposes them on the device.

A network has a torso, one hidden layer, and a head from `heads`, which turns features into values
or distributions. The agent chooses the head; gin chooses the network. `ActorCritic` is for
continuous actions: its policy and critics share no parameters.

Settings that all networks share, bound by gin:
  activation: of every hidden layer, one of `layers.ACTIVATIONS`.
  layer_norm: normalise each hidden layer before its activation: True, or 'rms' for the root mean
    square alone.
  dtype: what the layers compute in, such as 'bfloat16'; None is float32. Parameters and outputs
    are float32 in any case.
  feature_norm: features are scaled to length 1, φ/‖φ‖; in `ActorCritic` those of critics, not of
    the policy.
  spectral_norm: number of power iterations that find σ₁ of the weights that lead to the features;
    these weights are divided by σ₁. 0 switches this off. In `ActorCritic` it applies to critics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from implicit_rl.cpu.conv import stack_to_channels
from implicit_rl.heads import Head, Outputs, QHead
from implicit_rl.layers import Conv, Hidden, PatchConv, at_least_float32, dense
from implicit_rl.types import Array, CriticOutputs, GaussianOutputs, Layer, Layers

_ATARI = 84  # pixels, the side of a frame
NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # width, size, stride (Mnih et al., 2015)


def hidden_layers(network: nn.Module, state: Array) -> tuple[str, ...]:
  """Returns the names of a network's hidden layers, from input to output.

  The network is only traced on the state's shape; it computes nothing.

  Args:
    network: a module whose `__call__` takes a state.
    state: [B, S, ...], an array or a `jax.ShapeDtypeStruct`.

  Returns:
    The keys of the outputs' `layers`, such as ('Conv_0', 'Conv_1', 'RowDense_0'); () for a network
    that reports none.
  """
  names: list[str] = []

  def note(state: jax.Array) -> None:
    outputs, _ = network.init_with_output(jax.random.key(0), state)
    names.extend(getattr(outputs, 'layers', None) or ())

  jax.eval_shape(note, state)
  return tuple(names)


def _hidden(module: Any, name: str | None = None) -> Hidden:
  """Returns the `HiddenLayers` for a module's settings; `name` is for errors."""
  return Hidden(
    name or type(module).__name__,
    module.activation,
    module.layer_norm,
    module.dtype,
    module.feature_norm,
    module.spectral_norm,
  )


def _dense_layers(
  hidden: Hidden, make: Callable[[int], nn.Module], widths: Sequence[int], x: jax.Array
) -> jax.Array:
  """Applies fully connected layers, the last of them as the features': [B, p] -> [B, d]."""
  for width in widths[:-1]:
    x = hidden(make(width), x)
  return hidden.features(make(widths[-1]), x) if widths else x


def outputs_of(head: Head, features: jax.Array, num_actions: int, layers: Layers) -> Outputs:
  """Returns the head's outputs for the features, with the hidden layers."""
  outputs = head(features, num_actions)
  has_layers = 'layers' in outputs._fields  # Outputs of a user's head may have no layers.
  return outputs._replace(layers=layers) if has_layers else outputs


def convolve(
  hidden: Hidden, state: jax.Array, layers: Sequence[tuple[int, int, int]], padding: str
) -> jax.Array:
  """Applies convolutions of (width, size, stride) to a state stack: -> [B, H, W, C]."""
  x = state
  for i, layer in enumerate(layers):
    convolution = Conv(*layer, padding, frames=i == 0, rectify=hidden.rectify, dtype=hidden.dtype)
    x = hidden(convolution, x)
  return x


def _check_frames(
  network: str, state: jax.Array, layers: Sequence[tuple[int, int, int]], shrink: int = 1
) -> None:
  """Raises ValueError if convolutions without padding would ignore pixels of the frames.

  Args:
    network: its name.
    state: [B, S, H, W, ...].
    layers: (width, size, stride) of each.
    shrink: factor by which the frames are made smaller first.
  """
  for size in state.shape[2:4]:
    seen, ok = size // shrink, size % shrink == 0
    for _, kernel, stride in layers:
      ok = ok and seen >= kernel and (seen - kernel) % stride == 0
      seen = (seen - kernel) // stride + 1
    if not ok and size != _ATARI:
      height, width = state.shape[2:4]
      raise ValueError(
        f'{network} takes frames of {_ATARI} × {_ATARI}; of {height} × {width} it would ignore '
        "the last rows or columns. Resize them, or bind Agent.network = @NatureCNN, whose 'SAME' "
        'padding accepts every size.'
      )


@gin.configurable
class NatureCNN(nn.Module):
  """The network of Mnih et al. (2015), three convolutions and one hidden layer.

  Attributes:
    num_actions: number of actions A.
    hidden_units: width d of the penultimate layer.
    padding: 'SAME' as in Dopamine's networks (7744 inputs to the hidden layer) or 'VALID' as in the
      original (3136 inputs). Their speeds and ranks are not comparable. 'VALID' refuses frames
      whose last rows or columns it would ignore.
    layer_norm: True or 'rms' normalises each hidden layer before its activation.
    head: what turns features into values.
    activation: of every hidden layer, one of `layers.ACTIVATIONS`.
    dtype: what the layers compute in, such as 'bfloat16'; None is float32.
    feature_norm: whether features are scaled to length 1.
    spectral_norm: power iterations that find σ₁ of the last hidden weights, by which they are
      divided; 0 leaves them.
  """

  num_actions: int
  hidden_units: int = 512
  padding: str = 'SAME'
  layer_norm: bool | str = False
  head: Head = QHead()
  activation: str = 'relu'
  dtype: Any = None
  feature_norm: bool = False
  spectral_norm: int = 0

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, 84, 84] uint8 -> outputs."""
    hidden = _hidden(self)
    if self.padding == 'VALID':
      _check_frames('NatureCNN with padding VALID', state, NATURE_LAYERS)
    x = convolve(hidden, state, NATURE_LAYERS, self.padding)
    dense = self.head.dense(self.hidden_units, large=True, dtype=self.dtype)
    features = hidden.features(dense, x.reshape(x.shape[0], -1))
    return outputs_of(self.head, features, self.num_actions, hidden.layers)


@gin.configurable
class SmallCNN(nn.Module):
  """Two convolutions on Atari frames at half their size: a tenth of NatureCNN's work, for a CPU.

  Of 84 × 84 pixels it ignores the last six rows and columns, since the second convolution's stride
  leaves a remainder. Other sizes that would leave a remainder are refused.

  Attributes:
    num_actions: number of actions A.
    hidden_units: width d of the penultimate layer.
    layer_norm: True or 'rms' normalises each hidden layer before its activation.
    head: what turns features into values.
    activation: of every hidden layer, one of `layers.ACTIVATIONS`.
    dtype: what the layers compute in, such as 'bfloat16'; None is float32.
    feature_norm: whether features are scaled to length 1.
    spectral_norm: power iterations that find σ₁ of the last hidden weights, by which they are
      divided; 0 leaves them.
  """

  num_actions: int
  hidden_units: int = 256
  layer_norm: bool | str = False
  head: Head = QHead()
  activation: str = 'relu'
  dtype: Any = None
  feature_norm: bool = False
  spectral_norm: int = 0

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, 84, 84] uint8 -> outputs."""
    hidden = _hidden(self)
    layers = ((16, 6, 3), (32, 4, 2))
    _check_frames('SmallCNN', state, layers, shrink=2)
    x = jnp.maximum(state[:, :, ::2], state[:, :, 1::2])  # The maximum of four neighbours, so that
    x = jnp.maximum(x[:, :, :, ::2], x[:, :, :, 1::2])  # small objects remain. [B, S, 42, 42, ...]
    x = convolve(hidden, x, layers, 'VALID')
    dense = self.head.dense(self.hidden_units, dtype=self.dtype)
    features = hidden.features(dense, x.reshape(x.shape[0], -1))
    return outputs_of(self.head, features, self.num_actions, hidden.layers)


@gin.configurable
class MinAtarCNN(nn.Module):
  """The network of Young and Tian (2019) for MinAtar: one 3×3 convolution, one hidden layer.

  Attributes:
    num_actions: number of actions A.
    hidden_units: width d of the penultimate layer.
    layer_norm: True or 'rms' normalises each hidden layer before its activation.
    head: what turns features into values.
    activation: of every hidden layer, one of `layers.ACTIVATIONS`.
    dtype: what the layers compute in, such as 'bfloat16'; None is float32.
    feature_norm: whether features are scaled to length 1.
    spectral_norm: power iterations that find σ₁ of the last hidden weights, by which they are
      divided; 0 leaves them.
  """

  num_actions: int
  hidden_units: int = 128
  layer_norm: bool | str = False
  head: Head = QHead()
  activation: str = 'relu'
  dtype: Any = None
  feature_norm: bool = False
  spectral_norm: int = 0

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, 10, 10, C] of zeros and ones -> outputs."""
    hidden = _hidden(self)
    x = stack_to_channels(state).astype(jnp.float32)
    x = hidden(PatchConv(16, dtype=self.dtype), x)
    x = x.reshape(x.shape[0], -1)
    dense = self.head.dense(self.hidden_units, dtype=self.dtype)
    return outputs_of(self.head, hidden.features(dense, x), self.num_actions, hidden.layers)


@gin.configurable
class MLP(nn.Module):
  """Fully connected layers over the flattened state.

  Attributes:
    num_actions: number of actions A.
    hidden_units: widths of the hidden layers; the last is d. (64, 64) is the paper's gridworld.
    activation: of every hidden layer, one of `layers.ACTIVATIONS`.
    layer_norm: True or 'rms' normalises each hidden layer before its activation.
    head: what turns features into values.
    dtype: what the layers compute in, such as 'bfloat16'; None is float32.
    feature_norm: whether features are scaled to length 1.
    spectral_norm: power iterations that find σ₁ of the last hidden weights, by which they are
      divided; 0 leaves them.
    observation_max: largest value of an observation; states are divided by it. None is 1, except
      for uint8 images, [B, S, H, W] or with 1 or 3 channels last, where it is 255, as in the
      convolutional networks. MinAtar's zeros and ones have more channels and stay as they are.

  Raises:
    ValueError: for uint8 vectors [B, S, D] without `observation_max`, which may hold bytes or zeros
      and ones.
  """

  num_actions: int
  hidden_units: Sequence[int] = (64, 64)
  activation: str = 'relu'
  layer_norm: bool | str = False
  head: Head = QHead()
  dtype: Any = None
  feature_norm: bool = False
  spectral_norm: int = 0
  observation_max: float | None = None

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, ...] of any numeric dtype -> outputs."""
    hidden = _hidden(self)
    features = flat(state)
    if (largest := self._largest(state)) != 1:
      features = features / largest
    if not self.hidden_units and (self.feature_norm or self.spectral_norm):
      raise ValueError('MLP.hidden_units must not be empty with feature_norm or spectral_norm.')
    make = functools.partial(self.head.dense, dtype=self.dtype)
    features = _dense_layers(hidden, make, self.hidden_units, features)
    return outputs_of(self.head, features, self.num_actions, hidden.layers)

  def _largest(self, state: jax.Array) -> float:
    if self.observation_max is not None:
      if self.observation_max <= 0:
        raise ValueError(f'MLP.observation_max must be above 0, got {self.observation_max}.')
      return self.observation_max
    if state.dtype != jnp.uint8:
      return 1
    if state.ndim == 3:
      raise ValueError(
        f'MLP got uint8 observations of shape {state.shape[2:]}. Bind MLP.observation_max = 255 if '
        'they are bytes, or MLP.observation_max = 1 if they are zeros and ones.'
      )
    is_image = state.ndim == 4 or (state.ndim == 5 and state.shape[-1] in (1, 3))
    return 255 if is_image else 1


class _HiddenLayers(nn.Module):
  """Fully connected layers with activations; the last activations are the features."""

  widths: Sequence[int]
  layer_norm: bool | str
  activation: str
  dtype: Any
  feature_norm: bool = False
  spectral_norm: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, Layers]:
    hidden = _hidden(self, type(self.parent).__name__)
    make = functools.partial(dense, dtype=self.dtype)
    return _dense_layers(hidden, make, self.widths, x), hidden.layers


@gin.configurable
class ActorCritic(nn.Module):
  """A tanh-Gaussian policy and K critics for flat observations and continuous actions.

  Losses apply the methods `actor`, `critics`, `log_temperature` and `log_multiplier`.

  Attributes:
    num_actions: A, length of an action.
    hidden_units: widths of the hidden layers of policy and critics; a critic's last is d.
    num_critics: K.
    layer_norm: True or 'rms' normalises each hidden layer before its activation.
    initial_temperature: α before the first update, if it is learnt.
    least_log_std: lower bound at which the policy's log standard deviation is clipped.
    most_log_std: upper bound at which it is clipped.
    lagrange: whether a multiplier is learnt, which starts at 1 (CQL with a threshold).
    activation: of the hidden layers of policy and critics, one of `layers.ACTIVATIONS`.
    dtype: what the layers compute in, such as 'bfloat16'; None is float32.
    feature_norm: whether features are scaled to length 1.
    spectral_norm: power iterations that find σ₁ of the last hidden weights, by which they are
      divided; 0 leaves them.
  """

  num_actions: int
  hidden_units: Sequence[int] = (256, 256)
  num_critics: int = 2
  layer_norm: bool | str = False
  initial_temperature: float = 1.0
  least_log_std: float = -20.0
  most_log_std: float = 2.0
  lagrange: bool = False
  activation: str = 'relu'
  dtype: Any = None
  feature_norm: bool = False
  spectral_norm: int = 0

  def setup(self):
    """Makes the layers."""
    self.actor_hidden = self._make_hidden(critic=False)
    self.actor_mean = dense(self.num_actions, self.dtype)
    self.actor_log_std = dense(self.num_actions, self.dtype)
    self.critic_hidden = [self._make_hidden(critic=True) for _ in range(self.num_critics)]
    self.critic_value = [dense(1, self.dtype) for _ in range(self.num_critics)]
    log_alpha = jnp.log(self.initial_temperature)
    self.log_alpha = self.param('log_temperature', nn.initializers.constant(log_alpha), ())
    if self.lagrange:
      self.log_lambda = self.param('log_multiplier', nn.initializers.zeros, ())

  def _make_hidden(self, critic: bool) -> nn.Module:
    """Returns the hidden layers of the policy or of a critic: [B, p] -> features [B, d], layers."""
    norms = (self.feature_norm, self.spectral_norm) if critic else ()
    settings = (self.layer_norm, self.activation, self.dtype, *norms)
    return _HiddenLayers(tuple(self.hidden_units), *settings)

  def actor(self, state: jax.Array) -> GaussianOutputs:
    """State [B, S, D] -> the Gaussian [B, A] that tanh squashes to actions in (−1, 1)."""
    hidden, layers = self.actor_hidden(flat(state))
    mean = at_least_float32(self.actor_mean(hidden))
    log_std = at_least_float32(self.actor_log_std(hidden))
    return GaussianOutputs(mean, jnp.clip(log_std, self.least_log_std, self.most_log_std), layers)

  def critics(self, state: jax.Array, action: jax.Array) -> CriticOutputs:
    """State [B, S, D] and action [B, A] -> each critic's value and features."""
    x = jnp.concatenate([flat(state), action], axis=-1)
    values, features, layers = [], [], dict[str, Layer]()
    for hidden, value in zip(self.critic_hidden, self.critic_value, strict=True):
      phi, own = hidden(x)
      values.append(at_least_float32(value(phi)))
      features.append(at_least_float32(phi))
      layers |= own
    return CriticOutputs(jnp.concatenate(values, axis=-1), tuple(features), layers)

  def log_temperature(self) -> jax.Array:
    """Log α [], the entropy's weight if it is learnt."""
    return self.log_alpha

  def log_multiplier(self) -> jax.Array:
    """Log λ [], the conservative term's multiplier."""
    return self.log_lambda

  def __call__(self, state: jax.Array) -> CriticOutputs:
    """State [B, S, D] -> the critics on the policy's own mean action."""
    return self.critics(state, jnp.tanh(self.actor(state).mean))


def flat(state: jax.Array) -> jax.Array:
  """[B, ...] of any numeric dtype -> [B, D] float32."""
  return state.reshape(state.shape[0], -1).astype(jnp.float32)

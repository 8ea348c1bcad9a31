"""Layers of networks, and their common settings: activation, dtype, names.

Dense layers and convolutions have the parameters of Flax's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes

from implicit_rl.compat.settings import check_number
from implicit_rl.cpu import conv, matmul
from implicit_rl.cpu.conv import stack_to_channels
from implicit_rl.normalisations import LAYER_NORMS, normalise, spectral_norm, unit_length
from implicit_rl.types import Layer

# Dopamine's initialisation for its JAX networks.
KERNEL_INIT = nn.initializers.xavier_uniform()

Activation = Callable[[jax.Array], jax.Array]

ACTIVATIONS: dict[str, Activation] = {
  'relu': nn.relu,
  'leaky_relu': nn.leaky_relu,
  # Twice as many outputs (Abbas et al., 2023; Lewandowski et al., 2025).
  'crelu': lambda x: jnp.concatenate([nn.relu(x), nn.relu(-x)], axis=-1),
  'fourier': lambda x: jnp.concatenate([jnp.sin(x), jnp.cos(x)], axis=-1),
  # The product of two layers' outputs, which are concatenated in x (Kooi et al., 2024).
  'hadamard': lambda x: jnp.multiply(*map(nn.tanh, jnp.split(x, 2, axis=-1))),
  'tanh': nn.tanh,
  'sigmoid': nn.sigmoid,
  'elu': nn.elu,
  'gelu': nn.gelu,
  'silu': nn.silu,
  'linear': lambda x: x,  # A deep linear network.
}


class Hidden:
  """Applies hidden layers inside a module's `__call__` and records each layer's activations.

  Args:
    network: its name, for errors.
    activation: one of `ACTIVATIONS`.
    layer_norm: normalise each layer before its activation: True or 'rms', see
      `normalisations.normalise`.
    dtype: what the layers compute in; None is float32.
    feature_norm: whether `features` are scaled to length 1 (Hussing et al., 2024).
    spectral_norm: number of power iterations that find the largest singular value of the weights
      that lead to `features`. The weights are divided by it (Gogianu et al., 2021); 0 switches this
      off.

  Attributes:
    layers: a `Layer` by its path in the parameters, in the order of the calls.

  Raises:
    ValueError: for an unknown activation or normalisation, a dtype that is not a floating-point
      one, or a negative number of iterations.
  """

  def __init__(
    self,
    network: str,
    activation: str,
    layer_norm: bool | str,
    dtype: Any,
    feature_norm: bool = False,
    spectral_norm: int = 0,
  ):
    if activation not in ACTIVATIONS:
      raise ValueError(
        f'{network}.activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}.'
      )
    if dtype is not None and not _is_floating(dtype):
      raise ValueError(
        f"{network}.dtype must be a floating-point type such as 'bfloat16', or None for float32, "
        f'got {dtype!r}.'
      )
    if layer_norm not in LAYER_NORMS:
      raise ValueError(f"{network}.layer_norm must be True, False or 'rms', got {layer_norm!r}.")
    check_number(f'{network}.spectral_norm', spectral_norm, least=0, whole=True)
    self._network = network
    self._activation = ACTIVATIONS[activation]
    self._twofold = activation == 'hadamard'
    self._layer_norm = layer_norm
    self._feature_norm = feature_norm
    self._spectral_norm = spectral_norm
    self.dtype = dtype
    self.rectify = activation == 'relu' and not layer_norm
    self.layers: dict[str, Layer] = {}

  def __call__(self, layer: nn.Module, x: jax.Array) -> jax.Array:
    """Applies `layer`, its normalisation and activation: [B, ...] -> [B, ...] in `dtype`."""
    return self._hide(layer, x, iterations=0)

  def features(self, layer: nn.Module, x: jax.Array) -> jax.Array:
    """Applies the penultimate layer, whose outputs the head gets: [B, p] -> [B, d]."""
    features = self._hide(layer, x, self._spectral_norm)
    return unit_length(features) if self._feature_norm else features

  def _hide(self, layer: nn.Module, x: jax.Array, iterations: int) -> jax.Array:
    layers = [layer, layer.clone(parent=layer.parent, name=None)] if self._twofold else [layer]
    made = [one(x) for one in layers]
    if isinstance(made[0], Layer):  # A `Conv` that applies its rectifier itself.
      return self._keep(layer, made[0])
    if iterations:
      made = [self._divided(*pair, iterations) for pair in zip(layers, made, strict=True)]
    if self._layer_norm:
      made = [normalise(y, self._layer_norm, self.dtype) for y in made]
    x = jnp.concatenate(made, axis=-1) if self._twofold else made[0]
    return self._keep(layer, Layer(x, self._activation(x)))

  def _divided(self, layer: nn.Module, y: jax.Array, iterations: int) -> jax.Array:
    """Returns the output of a dense layer with W/σ₁(W) in place of W, given its output y [B, d]."""
    own = layer.variables['params']
    if 'kernel' not in own:
      raise ValueError(
        f'{self._network}.spectral_norm must be 0 with noisy layers, whose weights are redrawn '
        f'for each batch, got {iterations}.'
      )
    bias = own['bias'][None, :].astype(y.dtype)
    return (y - bias) / spectral_norm(own['kernel'], iterations).astype(y.dtype) + bias

  def _keep(self, layer: nn.Module, done: Layer) -> jax.Array:
    self.layers['/'.join(layer.path)] = Layer(*map(at_least_float32, done))
    return done.activation


def _is_floating(dtype: Any) -> bool:
  try:
    return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
  except TypeError:
    return False


def at_least_float32(x: jax.Array) -> jax.Array:
  """Converts float16 and bfloat16 to float32; wider types are unchanged."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dense(width: int, dtype: Any = None) -> nn.Dense:
  """Returns a dense layer that keeps the weights of each input together; computes in `dtype`."""
  return nn.Dense(width, dtype=dtype, kernel_init=KERNEL_INIT, dot_general=matmul.dot_general)


class RowDense(nn.Module):
  """A dense layer that keeps the weights of each output together, as rows of its kernel.

  It computes the same function as `nn.Dense`. XLA's CPU backend is faster with this layout for
  millions of weights (docs/performance_details.md), and with `nn.Dense` if the weights fit into the
  caches.

  Attributes:
    width: outputs.
    dtype: of the computation; None is the widest of input and parameters, as in `nn.Dense`.
  """

  rows: ClassVar[bool] = True  # Read by `layer_graph`: the kernel is [out, in].

  width: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, p] -> [B, width]."""
    kernel = self.param('kernel', KERNEL_INIT, (self.width, x.shape[-1]))
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return matmul.rows(x, kernel) + bias[None, :]


class NoisyDense(nn.Module):
  """A dense layer with factorised Gaussian noise on its weights (Fortunato et al., 2018, eq. 8-11).

  With `rngs={'noise': key}` it draws one noise for the whole batch; otherwise it uses the mean
  weights. Initialised as in Dopamine: μ uniform in ±1/√p and σ = 0.1/√p for p inputs. Kernels are
  stored by rows, as in `RowDense`.

  Attributes:
    width: outputs.
    dtype: of the products, see `RowDense`; the noise is drawn in float32.
  """

  rows: ClassVar[bool] = True  # Read by `layer_graph`: the kernel is [out, in].

  width: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, p] -> [B, width]."""
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
    if self.has_rng('noise'):  # Otherwise XLA would draw anew for each of a kernel's weights.
      drawn = matmul.apart(draw, self.make_rng('noise'))
    noise_in, noise_out = drawn[:inputs], drawn[inputs:]
    kernel = weight('kernel', (self.width, inputs), jnp.outer(noise_out, noise_in))
    bias = weight('bias', (self.width,), noise_out)
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return matmul.rows(x, kernel) + bias[None, :]


class Conv(nn.Module):  # Flax names layers in saved networks after the class.
  """`nn.Conv`, with the same parameters; optionally scales its input and rectifies. Fast on a CPU.

  Attributes:
    width: output channels.
    size: side of the square kernel.
    stride: distance of two neighbouring outputs.
    padding: 'SAME' or 'VALID'.
    frames: the input is a state stack [B, S, H, W, ...] of bytes, divided by 255 here.
    rectify: apply relu too and return a `Layer`.
    dtype: of the computation; None is the widest of input and parameters, as in `nn.Conv`.
  """

  width: int
  size: int
  stride: int = 1
  padding: str = 'SAME'
  frames: bool = False
  rectify: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array | Layer:
    """[B, H, W, C], or a state stack -> [B, H', W', width], or a `Layer` of such arrays."""
    channels = jax.eval_shape(stack_to_channels, x).shape[-1] if self.frames else x.shape[-1]
    shape = (self.size, self.size, channels, self.width)
    kernel = self.param('kernel', KERNEL_INIT, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.width,), jnp.float32)
    convolve = conv.of_frames if self.frames else conv.of_images
    y = convolve(x, kernel, self.stride, self.padding, self.dtype)
    if self.dtype is not None:
      bias = bias.astype(self.dtype)
    preactivation = y + bias[None, None, None, :]
    return Layer(preactivation, conv.rectified(y, bias)) if self.rectify else preactivation


class PatchConv(nn.Module):
  """A stride-1 VALID convolution written as shifted slices and one matrix product.

  It has the same function and parameters as `nn.Conv`. XLA's CPU backend runs a convolution many
  times slower inside a compiled loop than outside it, but not a matrix product. Networks for small
  images therefore use this layer to train in one compiled loop.

  Attributes:
    width: output channels.
    size: side of the square kernel.
    dtype: of the computation; None is the widest of input and parameters, as in `nn.Conv`.
  """

  width: int
  size: int = 3
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H-size+1, W-size+1, width]."""
    height, breadth, channels = x.shape[1:]
    kernel = self.param('kernel', KERNEL_INIT, (self.size, self.size, channels, self.width))
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    rows, columns = height - self.size + 1, breadth - self.size + 1
    patches = jnp.concatenate(
      [x[:, i : i + rows, j : j + columns] for i in range(self.size) for j in range(self.size)],
      axis=-1,
    )  # [B, rows, columns, size²·C], ordered as the kernel's first three axes
    y = matmul.columns(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, self.width))
    return (y + bias[None, :]).reshape(-1, rows, columns, self.width)

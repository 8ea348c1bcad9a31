"""Soft mixture of experts in place of the penultimate layer (Obando-Ceron et al., 2024).

Tokens X [m, C] are the positions of the last convolution's output. With a router W [C, n·p] for n
experts of p slots each (Puigcerver et al., 2023):

    D = softmax over tokens of X·W,   C = softmax over slots of X·W
    slots = Dᵀ·X,   each expert f_i(x) = V_i·relu(U_i·x) on its p slots,   tokens' = C·f(slots)

Φ is the concatenation of all m tokens', which the head reads.
"""

from __future__ import annotations

import math
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from implicit_rl.compat.settings import check_number
from implicit_rl.cpu.conv import stack_to_channels
from implicit_rl.heads import Head, Outputs, QHead
from implicit_rl.layers import Hidden, PatchConv
from implicit_rl.networks import NATURE_LAYERS, convolve, outputs_of

_EACH = nn.initializers.xavier_uniform(batch_axis=(0,))  # [n, inputs, outputs]


class Experts(nn.Module):
  """A dense layer for each of n experts: [B, p, n·d] -> [B, p, n·width].

  Its kernel concatenates the experts along the axis of the hidden units, where remedies expect
  them: the outputs, [d, n·width], or the inputs, [n·d, width].

  Attributes:
    experts: n.
    width: outputs of each.
    hidden: whether the outputs are the hidden units, rather than the inputs.
  """

  experts: int
  width: int
  hidden: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """See the class."""
    n, inputs = self.experts, x.shape[-1] // self.experts

    def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
      each = _EACH(key, (n, inputs, self.width))
      return (jnp.moveaxis(each, 0, 1) if self.hidden else each).reshape(shape)

    shape = (inputs, n * self.width) if self.hidden else (n * inputs, self.width)
    kernel = self.param('kernel', init, shape).astype(x.dtype)
    bias = self.param('bias', nn.initializers.zeros, (n * self.width,)).astype(x.dtype)
    of_expert = 'dne' if self.hidden else 'nde'
    kernel = kernel.reshape((inputs, n, -1) if self.hidden else (n, inputs, -1))
    x = x.reshape(*x.shape[:-1], n, inputs)
    y = jnp.einsum(f'bpnd,{of_expert}->bpne', x, kernel)
    return y.reshape(*y.shape[:-2], -1) + bias[None, None, :]


@gin.configurable
class SoftMoE(nn.Module):
  """A network for frames of Atari or MinAtar, with the convolutions of `NatureCNN` or `MinAtarCNN`.

  Attributes:
    num_actions: number of actions A.
    num_experts: n.
    hidden_units: width of each expert's hidden layer.
    head: what turns features into values; only the head can be noisy.
    activation: of all hidden layers, one of `layers.ACTIVATIONS` with an output for each unit.
    dtype: what the layers compute in; None is float32.

  Raises:
    ValueError: for a size below 1, or an activation with two outputs for a unit.
  """

  num_actions: int
  num_experts: int = 8
  hidden_units: int = 512
  head: Head = QHead()
  activation: str = 'relu'
  dtype: Any = None

  @nn.compact
  def __call__(self, state: jax.Array) -> Outputs:
    """State [B, S, H, W] of bytes, or [B, S, H, W, C] of zeros and ones -> outputs."""
    for name in ('num_experts', 'hidden_units'):
      check_number(f'SoftMoE.{name}', getattr(self, name), least=1, whole=True)
    hidden = Hidden('SoftMoE', self.activation, False, self.dtype)
    if state.ndim == 4:
      x = convolve(hidden, state, NATURE_LAYERS, 'SAME')
    else:
      images = stack_to_channels(state).astype(jnp.float32)
      x = hidden(PatchConv(16, dtype=self.dtype), images)
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, m, C]
    m, n = tokens.shape[1], self.num_experts
    p = math.ceil(m / n)
    router = nn.Dense(n * p, use_bias=False, dtype=self.dtype, name='Router')
    logits = router(tokens).reshape(-1, m, p, n)
    dispatch = nn.softmax(logits, axis=1)
    combine = nn.softmax(logits, axis=(2, 3))
    slots = jnp.einsum('bmpn,bmc->bpnc', dispatch, tokens)
    flat = slots.reshape(-1, p, n * x.shape[-1])
    inner = hidden(Experts(n, self.hidden_units, hidden=True), flat)
    if inner.shape[-1] != n * self.hidden_units:  # The experts would mix.
      raise ValueError(
        f'SoftMoE.activation must have one output for a unit, got {self.activation!r}.'
      )
    done = Experts(n, x.shape[-1], hidden=False)(inner).reshape(slots.shape)
    features = jnp.einsum('bmpn,bpnc->bmc', combine, done).reshape(-1, m * x.shape[-1])
    return outputs_of(self.head, features, self.num_actions, hidden.layers)

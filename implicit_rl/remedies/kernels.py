"""The kernels of hidden layers as matrices, in one orientation for all kinds of layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.layer_graph import Kernel, LayerGraph, array_at, layer_graph
from implicit_rl.remedies.forward import check_layers
from implicit_rl.types import Params


def hidden_kernels(context: Context, params: Params, who: str) -> list[jax.Array]:
  """Returns each hidden layer's kernel as a matrix [fan_in, out], from input to output.

  A convolution's places and input channels are one axis. For noisy layers these are the mean
  weights, for actor-critic networks the kernels of all critics in order.

  Args:
    context: its `layers` and `init` describe the network.
    params: the network's.
    who: the remedy's name, for the error.

  Raises:
    ValueError: for a network that does not report its hidden layers.
  """
  layers = read_graph(context, who).layers
  return [
    kernel.matrix(array_at(params, kernel.path))
    for name in context.layers
    if name in layers  # Absent: a sum of layers.
    for kernel in means(layers[name].incoming)
  ]


def squared_norm(params: Params, kernels: tuple[Kernel, ...]) -> jax.Array:
  """Returns the sum of squares [] of kernels; for noisy layers that of their mean weights."""
  squares = [jnp.sum(jnp.square(array_at(params, one.path))) for one in means(kernels)]
  return sum(squares, jnp.zeros(()))


def read_graph(context: Context, who: str) -> LayerGraph:
  """Returns the network's graph; see `hidden_kernels`."""
  check_layers(context, who)
  return layer_graph(context.init)


def means(kernels: tuple[Kernel, ...]) -> list[Kernel]:
  """Returns the kernels without those that scale a noise."""
  return [kernel for kernel in kernels if not kernel.path[-1].endswith('_sigma')]

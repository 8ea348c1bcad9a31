"""Normalisations of hidden layers, of features and of a layer's weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

LAYER_NORMS = (True, False, 'rms')  # Valid values of a network's `layer_norm`.
_TINY = 1e-12


def normalise(x: jax.Array, kind: bool | str, dtype: Any = None) -> jax.Array:
  """Normalises all units of a layer for each state; called inside a module's `__call__`.

  Args:
    x: [B, ...].
    kind: True subtracts the mean and divides by the standard deviation (Ba et al., 2016), with a
      gain and a bias for each channel; 'rms' divides by the root mean square (Zhang and Sennrich,
      2019), with a gain.
    dtype: see `nn.LayerNorm`.
  """
  norm = nn.RMSNorm if kind == 'rms' else nn.LayerNorm
  return norm(reduction_axes=tuple(range(1, x.ndim)), feature_axes=-1, dtype=dtype)(x)


def unit_length(x: jax.Array) -> jax.Array:
  """Returns x/‖x‖ along the last axis; zeros stay zeros, and their gradient is finite."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  squares = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
  return (wide * jax.lax.rsqrt(jnp.maximum(squares, _TINY))).astype(x.dtype)


def spectral_norm(kernel: jax.Array, iterations: int) -> jax.Array:
  """Estimates a kernel's largest singular value by power iteration (Miyato et al., 2018).

  The start is fixed, so no vector is kept between updates. The estimate is a lower bound: 5
  iterations find 93% of the value for random 512 × 7744 weights, and nearly all of it for weights
  with a leading direction.

  Args:
    kernel: [p, q], inputs or outputs first.
    iterations: at least 1; each multiplies twice with the kernel.

  Returns:
    [] float32. Its gradient is that of u·W·v, with the found vectors held fixed.
  """
  kernel = kernel.astype(jnp.float32)
  fixed = jax.lax.stop_gradient(kernel)
  v = jnp.asarray(np.random.default_rng(0).normal(size=kernel.shape[1]), jnp.float32)
  for _ in range(iterations):
    u = unit_length(fixed @ v)
    v = unit_length(u @ fixed)
  return jnp.maximum(u @ kernel @ v, _TINY)

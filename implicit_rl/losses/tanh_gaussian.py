"""The tanh-Gaussian policy: a Gaussian with independent components, squashed into (−1, 1).

It is written here because the libraries that have it (distrax, based on TensorFlow Probability)
need seconds and 100 MB to import, and fail with current JAX unless patched. Tests integrate the
density with SciPy.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from implicit_rl.types import GaussianOutputs


def sample(gaussian: GaussianOutputs, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Actions and their log-probabilities, differentiable in the Gaussian (reparameterised).

  With u = μ + σ·noise and a = tanh(u), log π(a) = log N(u) − Σ log(1 − tanh²(u)) (Haarnoja et al.,
  2018, eq. 26); 1 − tanh²(u) is written so that it does not cancel where |u| is large.

  Args:
    gaussian: [B, A] each.
    noise: [B, A], or [N, B, A] for N actions of each; standard normal.

  Returns:
    actions of the noise's shape, and log-probabilities of that shape without its last axis.
  """
  mean, log_std = (jnp.broadcast_to(x, noise.shape) for x in (gaussian.mean, gaussian.log_std))
  u = mean + jnp.exp(log_std) * noise
  log_normal = -0.5 * jnp.square(noise) - log_std - 0.5 * math.log(2 * math.pi)
  size = jnp.abs(u)
  log_slope = 2 * (math.log(2) - size - jnp.log(1 + jnp.exp(-2 * size)))  # log(1 − tanh²(u))
  return jnp.tanh(u), jnp.sum(log_normal - log_slope, axis=-1)


def mode(gaussian: GaussianOutputs) -> jax.Array:
  """tanh(μ) [B, A], the action without exploration."""
  return jnp.tanh(gaussian.mean)

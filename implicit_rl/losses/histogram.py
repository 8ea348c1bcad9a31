"""Regression as classification: HL-Gauss, the histogram loss with Gaussian targets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from implicit_rl.types import Array


def gaussian_histogram(targets: Array, edges: Array, sigma: Array | float) -> jax.Array:
  """Returns each bin's share of N(y, σ²), truncated to the bins' range (Imani and White, 2018).

  Args:
    targets: [B], y; targets beyond the bins are clipped to their edge.
    edges: [K + 1], increasing.
    sigma: σ, above 0.

  Returns:
    [B, K] probabilities (Farebrother et al., 2024, section 3.1).
  """
  edges = jnp.asarray(edges)
  inside = jnp.clip(targets, edges[0], edges[-1])
  below = jax.scipy.stats.norm.cdf((edges[None, :] - inside[:, None]) / sigma)  # [B, K + 1]
  return jnp.diff(below, axis=-1) / (below[:, -1:] - below[:, :1])


def histogram_loss(logits: Array, targets: Array, edges: Array, sigma: Array | float) -> jax.Array:
  """Cross-entropy of a histogram to the smoothed targets: [B, K] and [B] -> [B]."""
  probabilities = jax.lax.stop_gradient(gaussian_histogram(targets, edges, sigma))
  return optax.softmax_cross_entropy(logits, probabilities)

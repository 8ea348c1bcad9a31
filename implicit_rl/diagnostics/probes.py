"""Linear probes: what ridge regression can predict from the features."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp
from jax import lax

from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first, training_outputs
from implicit_rl.types import Batch, LearnerState, PRNGKey


def ridge(
  features: jax.Array, targets: jax.Array, weights: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """Returns coefficients [d, k] and intercepts [k] of a ridge regression with free intercept.

  Args:
    features: [n, d].
    targets: [n, k].
    weights: [n], 1 for rows that count, otherwise 0.
    alpha: the penalty on the squared coefficients.
  """
  share = weights[:, None] / jnp.maximum(jnp.sum(weights), 1)
  x_mean, y_mean = (
    jnp.sum(share * values, axis=0, keepdims=True) for values in (features, targets)
  )
  x, y = weights[:, None] * (features - x_mean), weights[:, None] * (targets - y_mean)
  product = lambda a, b: jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
  gram = product(x.T, x) + alpha * jnp.eye(x.shape[1], dtype=x.dtype)
  coefficients = jax.scipy.linalg.solve(gram, product(x.T, y), assume_a='pos')
  return coefficients, (y_mean - product(x_mean, coefficients))[0]


def explained(predicted: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  """Returns R² [k] over the rows that count; NaN if the targets are all equal."""
  total = jnp.maximum(jnp.sum(weights), 1)
  mean = jnp.sum(weights[:, None] * targets, axis=0, keepdims=True) / total
  rest = jnp.sum(weights[:, None] * jnp.square(targets - predicted), axis=0)
  spread = jnp.sum(weights[:, None] * jnp.square(targets - mean), axis=0)
  return jnp.where(spread == 0, jnp.nan, 1 - rest / jnp.where(spread == 0, 1, spread))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LinearProbes(Diagnostic):
  """Ridge regression on half of the fixed transitions, tested on the other half.

  Features are divided by the root of their mean variance, so that α has the same meaning at every
  scale.

  Attributes:
    period: iterations between two measurements.
    alpha: of the ridge.
    states: at most this many transitions.
  """

  period: int = 1
  alpha: float = 1.0
  states: int = 2048

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `probe_return_r2` if returns are known, and `probe_action_accuracy` or `_r2`."""
    del key
    batch = first(batch, self.states)
    phi = jax.tree.leaves(training_outputs(context, state, batch).features)[0]
    spread = jnp.sqrt(jnp.mean(jnp.var(phi, axis=0)))
    phi = phi / jnp.where(spread == 0, 1, spread)
    found = {}
    if batch.return_to_go is not None:
      known = ~jnp.isnan(batch.return_to_go)
      returns = jnp.where(known, batch.return_to_go, 0.0)[:, None]
      predicted, targets, weights = self._predict(phi, returns, known.astype(phi.dtype))
      found['probe_return_r2'] = explained(predicted, targets, weights)[0]
    every = jnp.ones(len(phi), phi.dtype)
    if jnp.ndim(batch.action) == 1:
      chosen = jax.nn.one_hot(batch.action, context.num_actions, dtype=phi.dtype)
      predicted, targets, _ = self._predict(phi, chosen, every)
      right = jnp.argmax(predicted, axis=1) == jnp.argmax(targets, axis=1)
      sound = jnp.all(jnp.isfinite(predicted))
      found['probe_action_accuracy'] = jnp.where(sound, jnp.mean(right), jnp.nan)
    else:
      predicted, targets, weights = self._predict(phi, jnp.asarray(batch.action), every)
      found['probe_action_r2'] = jnp.mean(explained(predicted, targets, weights))
    return found

  def _predict(
    self, phi: jax.Array, targets: jax.Array, weights: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Fits the first half; returns predictions, targets and weights of the second."""
    half = len(phi) // 2
    coefficients, intercepts = ridge(phi[:half], targets[:half], weights[:half], self.alpha)
    return phi[half:] @ coefficients + intercepts[None], targets[half:], weights[half:]

"""Distance to the target network, and similarity of the features of successive states."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp

from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first, q_values, training_outputs
from implicit_rl.types import Batch, LearnerState, PRNGKey


def root_mean_square(x: jax.Array) -> jax.Array:
  """Returns √(mean x²): []."""
  return jnp.sqrt(jnp.mean(jnp.square(x)))


def coadaptation(
  features: jax.Array, next_features: jax.Array, discount: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the means of φ(s, a)·φ(s′, a′) and of its cosine (Kumar et al., "DR3", ICLR 2022).

  Args:
    features: [B, d].
    next_features: [B, d], of the next states and actions.
    discount: [B], 0 where there is no next state; those are left out.

  Returns:
    Two scalars, NaN if no transition has a next state.
  """
  products = jnp.sum(features * next_features, axis=1)
  sizes = jnp.linalg.norm(features, axis=1) * jnp.linalg.norm(next_features, axis=1)
  cosines = jnp.where(sizes == 0, 0, products / jnp.where(sizes == 0, 1, sizes))
  weight = jnp.where(discount > 0, 1.0, 0.0)
  return jnp.sum(weight * products) / jnp.sum(weight), jnp.sum(weight * cosines) / jnp.sum(weight)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Values(Diagnostic):
  """The distance to the target network's values, and feature co-adaptation.

  Attributes:
    period: iterations between two measurements.
    states: at most this many transitions.
  """

  period: int = 1
  states: int = 2048

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `q_target_gap`, `coadaptation` and `coadaptation_cosine`; means over critics."""
    del key
    batch = first(batch, self.states)
    apart = q_values(context, state.params, batch) - q_values(context, state.target_params, batch)
    following = batch._replace(state=batch.next_state, action=batch.next_action)
    pairs = zip(
      jax.tree.leaves(training_outputs(context, state, batch).features),
      jax.tree.leaves(training_outputs(context, state, following).features),
      strict=True,
    )
    both = [coadaptation(phi, after, jnp.asarray(batch.discount)) for phi, after in pairs]
    products, cosines = zip(*both, strict=True)
    return {
      'q_target_gap': root_mean_square(apart),
      'coadaptation': sum(products) / len(both),
      'coadaptation_cosine': sum(cosines) / len(both),
    }

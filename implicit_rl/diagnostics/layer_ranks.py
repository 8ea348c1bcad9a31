"""Ranks of every hidden layer, and of the target network's features of the next states."""

from __future__ import annotations

import dataclasses

import gin
import jax

from implicit_rl import rank
from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first, hidden_layers, training_outputs
from implicit_rl.types import Batch, LearnerState, PRNGKey

NAMES = ('srank', 'effective_rank', 'stable_rank', 'pca_rank')


def ranks(features: jax.Array, suffix: str) -> dict[str, jax.Array]:
  """Returns the ranks of features [B, ...], raw and centred, by names that end in `suffix`."""
  found = rank.rank_metrics(features.reshape(len(features), -1))
  every = [*NAMES, *(f'centred_{name}' for name in NAMES)]
  return {f'{name}/{suffix}': found[name] for name in every}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LayerRanks(Diagnostic):
  """Ranks of all hidden layers, of target features, and srank by eigenvalues (Appendix A.7, D).

  Attributes:
    period: iterations between two measurements.
    states: number of states to measure on. A convolution's outputs at all positions are columns.
  """

  period: int = 1
  states: int = 512

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `srank/LAYER` and so on, `srank/target` and so on, and `eigenvalue_srank`."""
    del key
    some = first(batch, self.states)
    found: dict[str, jax.Array] = {}
    for name, layer in hidden_layers(context, state, some).items():
      found |= ranks(layer.activation, name)
    target = state._replace(params=state.target_params)
    following = some._replace(state=some.next_state, action=some.next_action)
    features = jax.tree.leaves(training_outputs(context, target, following).features)
    for number, phi in enumerate(features, 1):
      found |= ranks(phi, 'target' if len(features) == 1 else f'target_{number}')
    square = first(batch, features[0].shape[1])  # It needs as many states as features.
    phi = jax.tree.leaves(training_outputs(context, state, square).features)[0]
    if len(phi) == phi.shape[1]:
      found['eigenvalue_srank'] = rank.eigenvalue_srank(phi)
    return found

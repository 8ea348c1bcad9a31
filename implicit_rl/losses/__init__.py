"""Pure losses. A loss is all that an agent adds to the shared learner.

Time index: `tm1` marks the state in which the action is taken, `t` the state n steps later.
Elementwise losses come from optax; rlax, which has these targets too, is the reference in the tests
(importing it here would import TensorFlow Probability into every process).
"""

from implicit_rl.losses.actor_critic import SACNoise, sac_loss, sac_terms
from implicit_rl.losses.conservative import cql_loss
from implicit_rl.losses.continuous_cql import (
  CQLNoise,
  conservative_gap,
  conservative_terms,
  continuous_cql_loss,
)
from implicit_rl.losses.distributional import (
  c51_loss,
  project_categorical,
  qr_dqn_loss,
  quantile_huber_loss,
  rem_loss,
)
from implicit_rl.losses.evaluation import fqe_loss, monte_carlo_loss, policy_probabilities
from implicit_rl.losses.histogram import gaussian_histogram, histogram_loss
from implicit_rl.losses.imitation import behaviour_cloning_loss
from implicit_rl.losses.munchausen import Munchausen
from implicit_rl.losses.noise import with_noise
from implicit_rl.losses.temporal_difference import (
  TargetRange,
  bellman_target,
  dqn_loss,
  regression_loss,
  take_actions,
  value_regression,
)

__all__ = [
  'CQLNoise',
  'Munchausen',
  'SACNoise',
  'TargetRange',
  'behaviour_cloning_loss',
  'bellman_target',
  'c51_loss',
  'conservative_gap',
  'conservative_terms',
  'continuous_cql_loss',
  'cql_loss',
  'dqn_loss',
  'fqe_loss',
  'gaussian_histogram',
  'histogram_loss',
  'monte_carlo_loss',
  'policy_probabilities',
  'project_categorical',
  'qr_dqn_loss',
  'quantile_huber_loss',
  'regression_loss',
  'rem_loss',
  'sac_loss',
  'sac_terms',
  'take_actions',
  'value_regression',
  'with_noise',
]

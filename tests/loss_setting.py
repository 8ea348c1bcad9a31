"""Random batches and networks that the tests of losses share."""

import jax
import numpy as np

from implicit_rl import networks
from implicit_rl.heads import QHead
from implicit_rl.types import Batch

B, A = 32, 5
KEY = jax.random.PRNGKey(0)


def random_batch() -> Batch:
  """B transitions, weights and both kinds of ends among them."""
  rng = np.random.default_rng(0)
  return Batch(
    state=rng.normal(size=(B, 1, 7)).astype(np.float32),
    action=rng.integers(0, A, B).astype(np.int32),
    reward=rng.normal(size=B).astype(np.float32),
    next_state=rng.normal(size=(B, 1, 7)).astype(np.float32),
    next_action=rng.integers(0, A, B).astype(np.int32),
    discount=rng.integers(0, 2, B).astype(np.float32),
    weight=rng.uniform(0.5, 2, B).astype(np.float32),
    return_to_go=rng.normal(size=B).astype(np.float32),
  )


def make_network(head=None):
  """(apply, online parameters, target parameters) of a small MLP."""
  network = networks.MLP(num_actions=A, hidden_units=(16, 8), head=head or QHead())
  params, target = (network.init(jax.random.PRNGKey(i), np.zeros((1, 1, 7))) for i in (0, 1))
  return network.apply, params, target

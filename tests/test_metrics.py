"""What an iteration measures, against NumPy on the same features."""

import functools

import jax
import numpy as np

from implicit_rl import losses, networks
from implicit_rl.metrics import make_measure, value_gap
from implicit_rl.types import Batch


def test_measure_equals_numpy():
  rng = np.random.default_rng(0)
  size, actions = 300, 4
  batch = Batch(
    state=rng.normal(size=(size, 1, 6)).astype(np.float32),
    action=rng.integers(0, actions, size).astype(np.int32),
    reward=rng.normal(size=size).astype(np.float32),
    next_state=rng.normal(size=(size, 1, 6)).astype(np.float32),
    next_action=np.zeros(size, np.int32),
    discount=rng.integers(0, 2, size).astype(np.float32),
    weight=np.ones(size, np.float32),
  )
  network = networks.MLP(num_actions=actions, hidden_units=(32, 16))
  params, target = (network.init(jax.random.PRNGKey(i), batch.state) for i in (0, 1))
  measure = make_measure(functools.partial(losses.dqn_loss, apply=network.apply, discount=0.9))
  found = measure(params, target, batch, jax.random.PRNGKey(0))

  outputs = jax.tree.map(np.asarray, network.apply(params, batch.state))
  sigma = np.linalg.svd(np.float64(outputs.features), compute_uv=False)
  share = np.cumsum(sigma) / sigma.sum()
  assert float(found['srank']) == 1 + np.argmax(share >= 0.99)
  np.testing.assert_allclose(found['singular_values'], sigma, rtol=1e-4, atol=1e-4)
  centred = np.float64(outputs.features) - np.float64(outputs.features).mean(axis=0)
  sigma_centred = np.linalg.svd(centred, compute_uv=False)
  np.testing.assert_allclose(found['centred_singular_values'], sigma_centred, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found['sigma_max'], sigma[0], rtol=1e-5)
  np.testing.assert_allclose(found['q_mean'], outputs.q_values.mean(), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found['q_max'], outputs.q_values.max(), rtol=1e-5)
  q_t = np.asarray(network.apply(target, batch.next_state).q_values).max(1)
  error = batch.reward + 0.9 * batch.discount * q_t
  error -= outputs.q_values[np.arange(size), batch.action]
  np.testing.assert_allclose(found['td_error'], np.sqrt(np.mean(error**2)), rtol=1e-4)


def test_q_data_gap_is_over_the_steps_whose_return_is_known():
  q_values = np.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
  nothing = np.zeros(4, np.float32)
  returns = np.float32([0.5, np.nan, 7, np.nan])
  batch = Batch(nothing, np.array([1, 0, 0, 1]), nothing, nothing, nothing, nothing, nothing)
  assert np.isnan(value_gap(q_values, batch))
  known = batch._replace(return_to_go=returns)
  assert value_gap(q_values, known) == ((2 - 0.5) + (5 - 7)) / 2
  critics = known._replace(action=np.zeros((4, 3), np.float32))
  assert value_gap(q_values, critics) == ((1.5 - 0.5) + (5.5 - 7)) / 2
  few = known._replace(return_to_go=np.float32([np.nan] * 4))
  assert np.isnan(value_gap(q_values, few))

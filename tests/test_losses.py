"""Losses against rlax, Dopamine's conventions by hand, and the reductions that must hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from implicit_rl import losses
from implicit_rl.types import Batch
from tests.loss_setting import B, make_network, random_batch


@pytest.fixture(name='batch')
def batch_of_all_kinds() -> Batch:
  return random_batch()


@pytest.fixture(name='setting')
def online_and_target_network():
  return make_network()


@pytest.mark.parametrize('double', [False, True])
def test_td_errors_equal_rlax(batch, setting, double):
  apply, params, target = setting
  _, aux = losses.dqn_loss(
    params, target, batch, jax.random.PRNGKey(0), apply=apply, discount=0.9, double=double
  )
  q_tm1 = apply(params, batch.state).q_values
  q_t = apply(target, batch.next_state).q_values
  selector = apply(params, batch.next_state).q_values
  discount = 0.9 * batch.discount
  if double:
    expected = jax.vmap(rlax.double_q_learning)(
      q_tm1, batch.action, batch.reward, discount, q_t, selector
    )
  else:
    expected = jax.vmap(rlax.q_learning)(q_tm1, batch.action, batch.reward, discount, q_t)
  np.testing.assert_allclose(aux.td_error, expected, rtol=1e-5, atol=1e-6)


def test_target_equals_dopamines(batch, setting):
  """Dopamine's `target_q` of 3-step returns; the target is our TD error plus the prediction."""
  from dopamine.jax.agents.dqn import dqn_agent

  apply, params, target = setting
  expected = dqn_agent.target_q(
    lambda state: jax.tree.map(lambda x: x[0], apply(target, state[None])),
    batch.next_state,
    batch.reward,
    1 - batch.discount,
    0.9**3,
  )
  key = jax.random.PRNGKey(0)
  _, aux = losses.dqn_loss(params, target, batch, key, apply=apply, discount=0.9**3)
  q_tm1 = np.asarray(apply(params, batch.state).q_values)[np.arange(B), batch.action]
  np.testing.assert_allclose(aux.td_error + q_tm1, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('error_loss', ['huber', 'mse'])
def test_loss_is_the_weighted_mean_in_numpy(batch, setting, error_loss):
  apply, params, target = setting
  loss, aux = losses.dqn_loss(
    params,
    target,
    batch,
    jax.random.PRNGKey(0),
    apply=apply,
    discount=0.9,
    error_loss=error_loss,
  )
  x = np.abs(np.asarray(aux.td_error, np.float64))
  assert (x > 1).any() and (x < 1).any(), 'both arms of the Huber loss must be reached'
  elementwise = np.where(x <= 1, 0.5 * x**2, x - 0.5) if error_loss == 'huber' else x**2
  np.testing.assert_allclose(loss, np.mean(batch.weight * elementwise), rtol=1e-5)


def test_gradient_flows_through_the_prediction_only(batch, setting):
  """The gradient equals that of a regression on targets computed outside."""
  apply, params, target = setting
  loss = functools.partial(losses.dqn_loss, apply=apply, discount=0.9, double=True)

  def regression(params, fixed):
    q = jnp.take_along_axis(apply(params, batch.state).q_values, batch.action[:, None], 1)[:, 0]
    return losses.value_regression(q, fixed, batch.weight, 'huber')

  best = jnp.argmax(apply(params, batch.next_state).q_values, 1)[:, None]
  q_t = apply(target, batch.next_state).q_values
  value = jnp.take_along_axis(q_t, best, 1)[:, 0]
  fixed = batch.reward + 0.9 * batch.discount * value
  ours = jax.grad(lambda p: loss(p, target, batch, jax.random.PRNGKey(0))[0])(params)
  expected = jax.grad(regression)(params, fixed)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, expected)


def test_with_gamma_zero_the_target_is_the_reward(batch, setting):
  apply, params, target = setting
  _, aux = losses.dqn_loss(params, target, batch, jax.random.PRNGKey(0), apply=apply, discount=0.0)
  q = np.asarray(aux.outputs.q_values)[np.arange(B), batch.action]
  np.testing.assert_allclose(aux.td_error + q, batch.reward, rtol=1e-5, atol=1e-6)


def test_unknown_error_loss_is_named(batch, setting):
  apply, params, target = setting
  with pytest.raises(ValueError, match="'huber' or 'mse', got 'hubris'"):
    losses.dqn_loss(
      params,
      target,
      batch,
      jax.random.PRNGKey(0),
      apply=apply,
      discount=0.9,
      error_loss='hubris',
    )

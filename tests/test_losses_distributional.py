"""C51 and QR-DQN against rlax and Dopamine, and their reductions."""

import functools

import jax
import numpy as np
import pytest
import rlax

from implicit_rl import losses
from implicit_rl.heads import C51Head, QuantileHead
from tests.loss_setting import KEY, A, B, make_network, random_batch

# rlax's distributions are to move to another package.
pytestmark = pytest.mark.filterwarnings('ignore:Rlax .* will be deprecated')

BATCH = random_batch()


def dopamine_rainbow():
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.agents.rainbow import rainbow_agent

  return rainbow_agent


def test_projection_equals_dopamines():
  rng = np.random.default_rng(1)
  support = np.linspace(-3, 3, 51).astype(np.float32)
  returns = rng.normal(scale=3, size=(B, 51)).astype(np.float32)  # Some beyond the support.
  returns[0], returns[1] = support, 0.7
  p = rng.dirichlet(np.ones(51), B).astype(np.float32)
  with jax.numpy_rank_promotion('allow'):
    expected = jax.vmap(dopamine_rainbow().project_distribution, (0, 0, None))(returns, p, support)
  found = losses.project_categorical(returns, p, support)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(np.sum(found, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(found[0], p[0], atol=1e-5)
  inside = np.abs(returns).max(1) <= 3  # There a projection keeps the mean.
  assert inside.sum() >= 2
  np.testing.assert_allclose(
    (found @ support)[inside], np.sum(p * returns, 1)[inside], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('double', [False, True])
def test_c51_equals_rlax(double):
  apply, params, target = make_network(C51Head(num_atoms=21, v_max=2.0))
  loss, aux = losses.c51_loss(params, target, BATCH, KEY, apply=apply, discount=0.9, double=double)
  now, following = apply(params, BATCH.state), apply(target, BATCH.next_state)
  selector = apply(params, BATCH.next_state).q_values if double else following.q_values
  each = jax.vmap(rlax.categorical_double_q_learning, (None, 0, 0, 0, 0, None, 0, 0))(
    now.support,
    now.logits,
    BATCH.action,
    BATCH.reward,
    0.9 * BATCH.discount,
    now.support,
    following.logits,
    selector,
  )
  np.testing.assert_allclose(loss, np.mean(BATCH.weight * each), rtol=1e-5)
  mean = np.sum(jax.nn.softmax(now.logits) * np.asarray(now.support)[None, None], -1)
  np.testing.assert_allclose(aux.outputs.q_values, mean, rtol=1e-4, atol=1e-5)


def test_c51_target_and_loss_equal_dopamines_rainbow():
  """Dopamine's `target_distribution` and the loss in its `train`, on the same parameters."""
  rainbow = dopamine_rainbow()
  apply, params, target = make_network(C51Head(num_atoms=21, v_max=2.0))
  now, following = apply(params, BATCH.state), apply(target, BATCH.next_state)
  each = {
    i: type('Out', (), {'q_values': following.q_values[i], 'probabilities': p})
    for i, p in enumerate(jax.nn.softmax(following.logits))
  }
  with jax.numpy_rank_promotion('allow'):
    expected = np.stack(
      [
        rainbow.target_distribution.__wrapped__(
          lambda state: each[state],
          i,
          BATCH.reward[i],
          1 - BATCH.discount[i],
          now.support,
          0.9**3,
        )
        for i in range(B)
      ]
    )
    logits = np.asarray(now.logits)[np.arange(B), BATCH.action]
    cross_entropy = jax.vmap(rainbow.losses.softmax_cross_entropy_loss_with_logits)(
      expected, logits
    )
  loss, aux = losses.c51_loss(params, target, BATCH, KEY, apply=apply, discount=0.9**3)
  np.testing.assert_allclose(loss, np.mean(BATCH.weight * cross_entropy), rtol=1e-5)
  q = np.asarray(now.q_values)[np.arange(B), BATCH.action]
  np.testing.assert_allclose(aux.td_error, expected @ np.asarray(now.support) - q, atol=1e-5)


@pytest.mark.parametrize('kappa', [1.0, 0.3])
@pytest.mark.parametrize('double', [False, True])
def test_qr_dqn_equals_rlax(double, kappa):
  n = 11
  apply, params, target = make_network(QuantileHead(num_quantiles=n))
  loss, aux = losses.qr_dqn_loss(
    params, target, BATCH, KEY, apply=apply, discount=0.9, double=double, kappa=kappa
  )
  now, following = apply(params, BATCH.state), apply(target, BATCH.next_state)
  selector = apply(params, BATCH.next_state) if double else following
  levels = np.float32((np.arange(n) + 0.5) / n)
  # rlax lays distributions out as [N, A].
  with jax.numpy_rank_promotion('allow'):
    each = jax.vmap(
      functools.partial(rlax.quantile_q_learning, huber_param=kappa), (0, None, 0, 0, 0, 0, 0)
    )(
      now.quantiles.swapaxes(1, 2),
      levels,
      BATCH.action,
      BATCH.reward,
      0.9 * BATCH.discount,
      selector.quantiles.swapaxes(1, 2),
      following.quantiles.swapaxes(1, 2),
    )
  np.testing.assert_allclose(loss, np.mean(BATCH.weight * each), rtol=1e-5)
  np.testing.assert_allclose(aux.outputs.q_values, np.mean(now.quantiles, -1), rtol=1e-4, atol=1e-6)


def test_one_quantile_is_half_of_huber_regression():
  """At the level ½ the quantile Huber loss is half the Huber loss."""
  apply, params, target = make_network(QuantileHead(num_quantiles=1))
  quantile, aux = losses.qr_dqn_loss(params, target, BATCH, KEY, apply=apply, discount=0.9)
  huber, expected = losses.dqn_loss(params, target, BATCH, KEY, apply=apply, discount=0.9)
  np.testing.assert_allclose(2 * quantile, huber, rtol=1e-5)
  np.testing.assert_allclose(aux.td_error, expected.td_error, atol=1e-6)


def test_rem_is_q_learning_on_a_mixture_drawn_from_the_key():
  apply, params, target = make_network(QuantileHead(num_quantiles=6))
  now, following = apply(params, BATCH.state), apply(target, BATCH.next_state)
  share = np.asarray(jax.random.uniform(KEY, (6,)), np.float64)
  share /= share.sum()
  mixed_tm1, mixed_t = (np.asarray(o.quantiles, np.float64) @ share for o in (now, following))
  expected = BATCH.reward + 0.9 * BATCH.discount * mixed_t.max(1)
  expected -= mixed_tm1[np.arange(B), BATCH.action]
  loss, aux = losses.rem_loss(params, target, BATCH, KEY, apply=apply, discount=0.9)
  np.testing.assert_allclose(aux.td_error, expected, rtol=1e-4, atol=1e-5)
  x = np.abs(expected)
  huber = np.where(x <= 1, 0.5 * x**2, x - 0.5)
  np.testing.assert_allclose(loss, np.mean(BATCH.weight * huber), rtol=1e-5)
  np.testing.assert_array_equal(aux.outputs.q_values, now.q_values)
  other, _ = losses.rem_loss(
    params, target, BATCH, jax.random.PRNGKey(1), apply=apply, discount=0.9
  )
  assert other != loss


def test_rem_with_one_head_is_dqn():
  apply, params, target = make_network(QuantileHead(num_quantiles=1))
  settings = {'apply': apply, 'discount': 0.9}
  rem, aux = losses.rem_loss(params, target, BATCH, KEY, **settings)
  dqn, expected = losses.dqn_loss(params, target, BATCH, KEY, **settings)
  np.testing.assert_allclose(rem, dqn, rtol=1e-6)
  np.testing.assert_allclose(aux.td_error, expected.td_error, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('head', 'loss'),
  [(C51Head(v_max=5.0), losses.c51_loss), (QuantileHead(7), losses.qr_dqn_loss)],
)
def test_with_gamma_zero_the_target_is_the_reward(head, loss):
  apply, params, target = make_network(head)
  _, aux = loss(params, target, BATCH, KEY, apply=apply, discount=0.0)
  q = np.asarray(aux.outputs.q_values)[np.arange(B), BATCH.action]
  np.testing.assert_allclose(aux.td_error + q, BATCH.reward, atol=1e-5)


@pytest.mark.parametrize(
  ('head', 'loss'),
  [(C51Head(v_max=5.0), losses.c51_loss), (QuantileHead(7), losses.qr_dqn_loss)],
)
def test_no_gradient_flows_through_the_target(head, loss):
  apply, params, target = make_network(head)
  gradient = jax.grad(
    lambda t: loss(params, t, BATCH, KEY, apply=apply, discount=0.9, double=True)[0]
  )(target)
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_noise_is_drawn_from_the_key_for_each_call():
  apply, params, target = make_network(C51Head(noisy=True, dueling=True))
  loss = losses.with_noise(losses.c51_loss, apply=apply, discount=0.9, double=True)
  values = [float(loss(params, target, BATCH, key)[0]) for key in jax.random.split(KEY, 2)]
  again = float(loss(params, target, BATCH, jax.random.split(KEY, 2)[0])[0])
  quiet = float(losses.c51_loss(params, target, BATCH, KEY, apply=apply, discount=0.9)[0])
  assert values[0] == again and len({*values, quiet}) == 3
  with_itself = losses.with_noise(
    lambda p, t, b, k, apply: apply(p, b.state).q_values - apply(t, b.state).q_values, apply=apply
  )(params, params, BATCH, KEY)
  assert with_itself.shape == (B, A) and np.abs(with_itself).max() > 1e-4

"""HL-Gauss, Munchausen and clipped targets, against SciPy and NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from implicit_rl import losses
from implicit_rl.heads import C51Head, HLGaussHead, QHead, QuantileHead
from tests.loss_setting import KEY, B, make_network, random_batch

DISCOUNT = 0.9
RANGE = (-0.4, 0.3)


def applied(loss, head=None, **settings):
  """[] loss, LossAux, batch, and the values of states and next states in float64."""
  apply, params, target = make_network(head)
  batch = random_batch()
  value, aux = loss(params, target, batch, KEY, apply=apply, discount=DISCOUNT, **settings)
  outputs = apply(params, batch.state), apply(target, batch.state), apply(target, batch.next_state)
  return value, aux, batch, *(np.asarray(one.q_values, np.float64) for one in outputs)


@pytest.mark.parametrize(('bins', 'low', 'high', 'sigma'), [(51, -10, 10, 0.294), (7, 0, 2, 1.5)])
def test_a_target_is_the_truncated_gaussians_mass_in_each_bin(bins, low, high, sigma):
  edges = np.linspace(low, high, bins + 1)
  targets = np.random.default_rng(0).uniform(low, high, 40)
  found = losses.gaussian_histogram(targets, edges, sigma)
  expected = [
    np.diff(scipy.stats.truncnorm.cdf(edges, (low - y) / sigma, (high - y) / sigma, y, sigma))
    for y in targets
  ]
  np.testing.assert_allclose(found, expected, atol=2e-6)
  np.testing.assert_allclose(np.sum(found, axis=-1), 1, rtol=1e-5)


def test_targets_beyond_the_bins_are_finite_and_count_as_at_the_edge():
  edges = np.linspace(-1, 1, 6)
  found = losses.gaussian_histogram(np.array([-50.0, -1.0, 1.0, 50.0]), edges, 0.01)
  np.testing.assert_allclose(found[0], [1, 0, 0, 0, 0], atol=1e-6)
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[2], found[3])


def test_the_papers_histogram_has_the_targets_mean():
  """With 51 bins in ±10 and σ = ¾ of a bin, far from the edges."""
  head = HLGaussHead()
  edges = np.linspace(-10, 10, 52)
  sigma = 0.75 * 20 / 51
  assert (head.num_bins, head.low, head.v_max, head.smoothing) == (51, -10.0, 10.0, 0.75)
  targets = np.linspace(-7, 7, 100)
  probabilities = np.asarray(losses.gaussian_histogram(targets, edges, sigma), np.float64)
  np.testing.assert_allclose(probabilities @ (edges[1:] + edges[:-1]) / 2, targets, atol=1e-4)
  # Most of a target's mass lies within six bins.
  assert (np.sort(probabilities, axis=-1)[:, -6:].sum(-1) > 0.98).all()


def test_an_hl_gauss_heads_values_are_the_means_of_its_histograms():
  apply, params, _ = make_network(HLGaussHead(num_bins=5, v_min=-2.0, v_max=3.0))
  outputs = apply(params, random_batch().state)
  np.testing.assert_allclose(outputs.edges, [-2, -1, 0, 1, 2, 3], atol=1e-6)
  probabilities = scipy.special.softmax(np.asarray(outputs.logits, np.float64), axis=-1)
  np.testing.assert_allclose(
    outputs.q_values, probabilities @ [-1.5, -0.5, 0.5, 1.5, 2.5], rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(outputs.sigma, 0.75)


@pytest.mark.parametrize('loss', ['dqn', 'fqe', 'monte_carlo', 'cql'])
def test_losses_on_an_hl_gauss_head_are_its_cross_entropy_in_numpy(loss):
  head = HLGaussHead(num_bins=9, v_max=1.5)
  apply, params, target = make_network(head)
  batch = random_batch()
  outputs = apply(params, batch.state)
  q_t = np.asarray(apply(target, batch.next_state).q_values, np.float64)
  rows = np.arange(B)
  value_t = q_t[rows, batch.next_action] if loss == 'fqe' else q_t.max(-1)
  targets = batch.reward + DISCOUNT * batch.discount * value_t
  settings = {'apply': apply, 'discount': DISCOUNT}
  function = {'dqn': losses.dqn_loss, 'fqe': losses.fqe_loss}.get(loss)
  name, more = 'TD', 0.0
  if loss == 'monte_carlo':
    function, targets, name = losses.monte_carlo_loss, batch.return_to_go, 'MonteCarlo'
    settings = {'apply': apply}
  if loss == 'cql':
    value_loss = functools.partial(losses.dqn_loss, **settings)
    function, settings = losses.cql_loss, {'loss': value_loss, 'weight': 0.5}
    q = np.asarray(outputs.q_values, np.float64)
    gap = scipy.special.logsumexp(q, axis=-1) - q[rows, batch.action]
    more = 0.5 * np.mean(batch.weight * gap)
  found, aux = function(params, target, batch, KEY, **settings)
  edges, sigma = np.linspace(-1.5, 1.5, 10), 0.75 * 3 / 9
  below = scipy.stats.norm.cdf((edges - np.clip(targets, -1.5, 1.5)[:, None]) / sigma)
  expected = np.diff(below) / (below[:, -1:] - below[:, :1])
  logits = np.asarray(outputs.logits, np.float64)[rows, batch.action]
  cross_entropy = -np.sum(expected * scipy.special.log_softmax(logits, axis=-1), axis=-1)
  mean = np.mean(batch.weight * cross_entropy)
  np.testing.assert_allclose(aux.metrics[f'Losses/{name}'], mean, rtol=1e-5)
  np.testing.assert_allclose(found, mean + more, rtol=1e-5)
  beyond = np.mean(np.abs(targets) > 1.5)
  assert 0 < beyond < 1
  np.testing.assert_allclose(aux.metrics['Targets/BeyondBins'], beyond, rtol=1e-6)
  # TD errors and values stay in units of reward.
  q_tm1 = np.asarray(outputs.q_values, np.float64)[rows, batch.action]
  np.testing.assert_allclose(aux.td_error, targets - q_tm1, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_hl_gauss_is_softmax_minus_target():
  """Of the mean cross-entropy by the logits, in closed form."""
  rng = np.random.default_rng(0)
  logits, targets, edges = rng.normal(size=(6, 5)), rng.normal(size=6), np.linspace(-2, 2, 6)
  loss = lambda x: jnp.sum(losses.histogram_loss(x, targets, edges, 0.6))
  below = scipy.stats.norm.cdf((edges - np.clip(targets, -2, 2)[:, None]) / 0.6)
  expected = np.diff(below) / (below[:, -1:] - below[:, :1])
  np.testing.assert_allclose(
    jax.grad(loss)(jnp.asarray(logits)),
    scipy.special.softmax(logits, axis=-1) - expected,
    atol=1e-5,
  )


@pytest.mark.parametrize(('alpha', 'tau', 'low'), [(0.9, 0.03, -1.0), (0.5, 0.7, -1.1)])
def test_munchausens_target_is_the_papers_sum_in_float64(alpha, tau, low):
  settings = losses.Munchausen(alpha, tau, low)
  _, aux, batch, q_online, q_tm1, q_t = applied(losses.dqn_loss, munchausen=settings)
  log_policy = scipy.special.log_softmax(q_tm1 / tau, axis=-1)
  next_log_policy = scipy.special.log_softmax(q_t / tau, axis=-1)
  rows = np.arange(B)
  log_taken = tau * log_policy[rows, batch.action]
  assert (log_taken < low).any() and (log_taken > low).any(), 'both sides of the cut are reached'
  bonus = alpha * np.clip(log_taken, low, 0)
  value_t = np.sum(np.exp(next_log_policy) * (q_t - tau * next_log_policy), axis=-1)
  target = batch.reward + bonus + DISCOUNT * batch.discount * value_t
  np.testing.assert_allclose(
    aux.td_error, target - q_online[rows, batch.action], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(aux.metrics['Munchausen/Bonus'], bonus.mean(), rtol=1e-4)


def test_munchausen_without_bonus_and_temperature_is_dqn():
  cold = losses.Munchausen(alpha=0.0, tau=1e-6)
  found, aux, *_ = applied(losses.dqn_loss, munchausen=cold)
  expected, plain, *_ = applied(losses.dqn_loss)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(aux.td_error, plain.td_error, rtol=1e-4, atol=1e-5)


def test_munchausen_passes_no_gradient_to_the_target_network():
  apply, params, target = make_network()
  loss = functools.partial(
    losses.dqn_loss, apply=apply, discount=DISCOUNT, munchausen=losses.Munchausen()
  )
  gradient = jax.grad(lambda t: loss(params, t, random_batch(), KEY)[0])(target)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_munchausen_refuses_double():
  with pytest.raises(ValueError, match='double must be False'):
    applied(losses.dqn_loss, double=True, munchausen=losses.Munchausen())


VALUE_LOSSES = {
  'dqn': (losses.dqn_loss, QHead(), {}),
  'double dqn': (losses.dqn_loss, QHead(), {'double': True}),
  'fqe': (losses.fqe_loss, QHead(), {}),
  'munchausen': (losses.dqn_loss, QHead(), {'munchausen': losses.Munchausen()}),
  'hl-gauss': (losses.dqn_loss, HLGaussHead(v_max=1.0), {}),
  'rem': (losses.rem_loss, QuantileHead(num_quantiles=4), {}),
  'qr-dqn': (losses.qr_dqn_loss, QuantileHead(num_quantiles=4), {}),
  'c51': (losses.c51_loss, C51Head(num_atoms=11, v_max=1.0), {}),
}


@pytest.mark.parametrize('name', VALUE_LOSSES)
def test_targets_are_clipped(name):
  """The prediction plus the TD error is the target; of quantiles and atoms its mean."""
  loss, head, settings = VALUE_LOSSES[name]
  wide, near = (applied(loss, head, target_range=one, **settings) for one in ((-1e6, 1e6), RANGE))
  plain = applied(loss, head, **settings)
  assert 'Targets/Clipped' not in plain[1].metrics
  np.testing.assert_array_equal(wide[0], plain[0])
  assert wide[1].metrics['Targets/Clipped'] == 0
  targets = []
  for _, aux, batch, q_online, *_ in (plain, near):
    predicted = q_online[np.arange(B), batch.action]
    if name == 'rem':  # Its prediction is a random mixture's: compared by what changed.
      predicted = -np.asarray(plain[1].td_error, np.float64)
    targets.append(predicted + aux.td_error)
  assert 0 < near[1].metrics['Targets/Clipped'] <= 1
  if name in ('dqn', 'double dqn', 'fqe', 'munchausen', 'hl-gauss'):
    np.testing.assert_allclose(targets[1], np.clip(targets[0], *RANGE), rtol=1e-4, atol=1e-5)
    share = np.mean((targets[0] < RANGE[0]) | (targets[0] > RANGE[1]))
    np.testing.assert_allclose(near[1].metrics['Targets/Clipped'], share, rtol=1e-6)
  elif name != 'rem':
    assert (targets[1] >= RANGE[0] - 0.1).all() and (targets[1] <= RANGE[1] + 0.1).all()
    assert (np.abs(targets[0]) > 0.5).any()
  assert near[0] != plain[0]


def test_quantiles_of_a_target_are_clipped_one_by_one():
  apply, params, target = make_network(QuantileHead(num_quantiles=4))
  batch = random_batch()
  next_outputs = apply(target, batch.next_state)
  z_t = np.asarray(next_outputs.quantiles)[np.arange(B), np.argmax(next_outputs.q_values, -1)]
  expected = np.clip(batch.reward[:, None] + (DISCOUNT * batch.discount)[:, None] * z_t, *RANGE)
  z_tm1 = np.asarray(apply(params, batch.state).quantiles)[np.arange(B), batch.action]
  found, aux = losses.qr_dqn_loss(
    params, target, batch, KEY, apply=apply, discount=DISCOUNT, target_range=RANGE
  )
  loss = np.mean(batch.weight * np.asarray(losses.quantile_huber_loss(z_tm1, expected)))
  np.testing.assert_allclose(found, loss, rtol=1e-5)
  np.testing.assert_allclose(aux.td_error, expected.mean(-1) - z_tm1.mean(-1), atol=1e-5)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: losses.Munchausen(alpha=1.5), r'Munchausen.alpha must be a number in \[0, 1\]'),
    (lambda: losses.Munchausen(tau=0), 'Munchausen.tau must be a number above 0, got 0'),
    (lambda: losses.Munchausen(low=0.1), 'Munchausen.low must be a number of at most 0'),
    (lambda: HLGaussHead(num_bins=1), 'HLGaussHead.num_bins must be a whole number of at least 2'),
    (lambda: HLGaussHead(smoothing=0), 'HLGaussHead.smoothing must be a number above 0'),
    (lambda: HLGaussHead(v_max=-1.0), r'HLGaussHead.v_min \(1.0\) must be below'),
  ],
)
def test_settings_out_of_range_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()

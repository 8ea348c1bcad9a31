"""CQL, FQE, Monte Carlo and behaviour cloning against NumPy, rlax and d3rlpy; their reductions."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import rlax

from implicit_rl import losses
from implicit_rl.heads import C51Head, QHead, QuantileHead
from implicit_rl.types import QOutputs, QuantileOutputs
from tests.loss_setting import KEY, A, B, make_network, random_batch

# rlax's distributions are to move to another package.
pytestmark = pytest.mark.filterwarnings('ignore:Rlax .* will be deprecated')

BATCH = random_batch()
CASES = [
  (QHead(), losses.dqn_loss),
  (C51Head(num_atoms=11, v_max=3.0), losses.c51_loss),
  (QuantileHead(num_quantiles=7), losses.qr_dqn_loss),
]


@pytest.mark.parametrize(('head', 'value_loss'), CASES)
def test_cql_is_its_equation_in_numpy(head, value_loss):
  """Equation 4 of the CQL paper with the maximum-entropy regulariser, in float64."""
  apply, params, target = make_network(head)
  base = functools.partial(value_loss, apply=apply, discount=0.9)
  loss, aux = losses.cql_loss(params, target, BATCH, KEY, loss=base, weight=1.7)
  q = np.asarray(apply(params, BATCH.state).q_values, np.float64)
  gap = np.log(np.exp(q).sum(1)) - q[np.arange(B), BATCH.action]
  value, _ = base(params, target, BATCH, KEY)
  np.testing.assert_allclose(loss, float(value) + 1.7 * np.mean(BATCH.weight * gap), rtol=1e-5)
  np.testing.assert_allclose(aux.metrics['Losses/CQL'], np.mean(BATCH.weight * gap), rtol=1e-5)
  np.testing.assert_allclose(aux.metrics['Losses/TD'], value, rtol=1e-6)


@pytest.mark.parametrize(
  ('head', 'value_loss'), [('mean', losses.dqn_loss), ('qr', losses.qr_dqn_loss)]
)
def test_cql_equals_d3rlpys(head, value_loss):
  """Losses and gradient of d3rlpy 2.8.1; golden/make_d3rlpy_cql.py says how they were recorded."""
  with np.load(pathlib.Path(__file__).parent / 'golden' / 'd3rlpy_cql.npz') as file:
    golden = {name.split('/')[-1]: file[name] for name in file if name.startswith(head)}
    weight, discount = float(file['alpha']), float(file['discount'])

  def apply(params, state):  # A network that says what d3rlpy's said: params[t-1 or t].
    said = params[state]
    if head == 'mean':
      return QOutputs(q_values=said, features=said)
    return QuantileOutputs(q_values=said.mean(-1), features=said, quantiles=said)

  batch = BATCH._replace(
    state=0,
    action=golden['action'],
    reward=golden['reward'],
    next_state=1,
    discount=1 - golden['terminal'],
    weight=np.ones_like(golden['reward']),
  )
  base = functools.partial(value_loss, apply=apply, discount=discount, double=True)
  (loss, aux), gradient = jax.value_and_grad(
    lambda q: losses.cql_loss(
      (q, golden['online_t']), (None, golden['target_t']), batch, KEY, loss=base, weight=weight
    ),
    has_aux=True,
  )(golden['online_tm1'])
  np.testing.assert_allclose(aux.metrics['Losses/TD'], golden['td_loss'], rtol=1e-5)
  np.testing.assert_allclose(aux.metrics['Losses/CQL'], golden['conservative_loss'], rtol=1e-5)
  np.testing.assert_allclose(loss, golden['loss'], rtol=1e-5)
  np.testing.assert_allclose(gradient.sum(0), golden['gradient'], atol=1e-5)


@pytest.mark.parametrize(('head', 'value_loss'), CASES)
def test_cql_with_weight_zero_is_the_value_loss(head, value_loss):
  apply, params, target = make_network(head)
  base = functools.partial(value_loss, apply=apply, discount=0.9)
  cql = functools.partial(losses.cql_loss, loss=base, weight=0.0)
  gradients = [jax.grad(lambda p, f=f: f(p, target, BATCH, KEY)[0])(params) for f in (base, cql)]
  jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_fqe_of_the_logged_policy_equals_rlax_sarsa():
  apply, params, target = make_network()
  loss, aux = losses.fqe_loss(params, target, BATCH, KEY, apply=apply, discount=0.9)
  q_tm1, q_t = apply(params, BATCH.state).q_values, apply(target, BATCH.next_state).q_values
  expected = jax.vmap(rlax.sarsa)(
    q_tm1, BATCH.action, BATCH.reward, 0.9 * BATCH.discount, q_t, BATCH.next_action
  )
  np.testing.assert_allclose(aux.td_error, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(loss, np.mean(BATCH.weight * np.square(expected)), rtol=1e-5)
  q = np.asarray(q_tm1)[np.arange(B), BATCH.action]
  np.testing.assert_allclose(aux.metrics['Q/Policy'], q.mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('kind', 'settings'), [('epsilon_greedy', {'epsilon': 0.3}), ('softmax', {'temperature': 0.4})]
)
def test_fqe_of_a_given_policy_equals_rlax_expected_sarsa(kind, settings):
  apply, params, target = make_network()
  other = make_network()[2]
  probabilities = functools.partial(losses.policy_probabilities, kind=kind, **settings)
  policy = lambda states: probabilities(apply(other, states).q_values)
  _, aux = losses.fqe_loss(params, target, BATCH, KEY, apply=apply, discount=0.9, policy=policy)
  q_tm1, q_t = apply(params, BATCH.state).q_values, apply(target, BATCH.next_state).q_values
  decided = apply(other, BATCH.next_state).q_values
  reference = {
    'epsilon_greedy': lambda q: rlax.epsilon_greedy(0.3).probs(q),
    'softmax': lambda q: rlax.softmax(0.4).probs(q),
  }[kind]
  expected = jax.vmap(rlax.expected_sarsa)(
    q_tm1, BATCH.action, BATCH.reward, 0.9 * BATCH.discount, q_t, reference(decided)
  )
  np.testing.assert_allclose(aux.td_error, expected, rtol=1e-5, atol=1e-6)
  value = np.mean(np.sum(np.asarray(policy(BATCH.state)) * np.asarray(q_tm1), 1))
  np.testing.assert_allclose(aux.metrics['Q/Policy'], value, rtol=1e-5, atol=1e-6)


def test_fqe_of_the_targets_own_greedy_policy_is_dqn():
  apply, params, target = make_network()
  policy = lambda states: losses.policy_probabilities(apply(target, states).q_values, 'greedy')
  settings = {'apply': apply, 'discount': 0.9, 'error_loss': 'huber'}
  fqe, aux = losses.fqe_loss(params, target, BATCH, KEY, policy=policy, **settings)
  dqn, expected = losses.dqn_loss(params, target, BATCH, KEY, **settings)
  np.testing.assert_allclose(fqe, dqn, rtol=1e-6)
  np.testing.assert_allclose(aux.td_error, expected.td_error, rtol=1e-6, atol=1e-6)


def test_probabilities_of_known_values():
  q = np.array([[1.0, 3.0, 3.0, 0.0]], np.float32)
  probabilities = losses.policy_probabilities
  np.testing.assert_array_equal(probabilities(q, 'greedy'), [[0, 1, 0, 0]])
  np.testing.assert_allclose(
    probabilities(q, 'epsilon_greedy', epsilon=0.2), [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6
  )
  exponentials = np.exp(q / 2)
  np.testing.assert_allclose(
    probabilities(q, 'softmax', temperature=2.0), exponentials / exponentials.sum(), rtol=1e-6
  )
  with pytest.raises(ValueError, match="got 'gredy'"):
    probabilities(q, 'gredy')


@pytest.mark.parametrize('policy', [None, lambda states: np.full((B, A), 1 / A, np.float32)])
def test_fqe_with_gamma_zero_has_the_reward_as_target(policy):
  apply, params, target = make_network()
  _, aux = losses.fqe_loss(params, target, BATCH, KEY, apply=apply, discount=0.0, policy=policy)
  q = np.asarray(aux.outputs.q_values)[np.arange(B), BATCH.action]
  np.testing.assert_allclose(aux.td_error + q, BATCH.reward, rtol=1e-5, atol=1e-6)


def test_monte_carlo_is_regression_to_the_return():
  apply, params, target = make_network()
  loss, aux = losses.monte_carlo_loss(params, target, BATCH, KEY, apply=apply)
  q = np.asarray(apply(params, BATCH.state).q_values, np.float64)[np.arange(B), BATCH.action]
  np.testing.assert_allclose(aux.td_error, BATCH.return_to_go - q, atol=1e-5)
  expected = np.mean(BATCH.weight * (BATCH.return_to_go - q) ** 2)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  with pytest.raises(ValueError, match='return_to_go'):
    losses.monte_carlo_loss(params, target, BATCH._replace(return_to_go=None), KEY, apply=apply)


def test_behaviour_cloning_is_the_negative_log_likelihood():
  apply, params, target = make_network()
  loss, aux = losses.behaviour_cloning_loss(params, target, BATCH, KEY, apply=apply)
  logits = np.asarray(apply(params, BATCH.state).q_values, np.float64)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  nll = -np.log(p[np.arange(B), BATCH.action])
  np.testing.assert_allclose(loss, np.mean(BATCH.weight * nll), rtol=1e-5)
  np.testing.assert_allclose(aux.td_error, nll, rtol=1e-5)
  agreement = np.mean(logits.argmax(1) == BATCH.action)
  np.testing.assert_allclose(aux.metrics['Policy/Agreement'], agreement, rtol=1e-6)

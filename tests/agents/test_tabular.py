"""Five states: the losses reach what dynamic programming says, each in one compiled scan."""

import functools

import jax
import numpy as np
import optax
import pytest

from implicit_rl import losses
from implicit_rl.data import source, transitions
from implicit_rl.data.store import frame_store
from implicit_rl.heads import C51Head, QHead, QuantileHead
from implicit_rl.learner import Learner
from implicit_rl.networks import MLP
from implicit_rl.types import Batch

S, A, GAMMA = 5, 2, 0.9
# A corridor: action 0 goes left and action 1 right, at the left end it stays. From the right end
# either action ends the episode.
NEXT = np.array([[0, 1], [0, 2], [1, 3], [2, 4], [0, 0]])
ENDS = np.array([[False] * A] * 4 + [[True] * A])
REWARD = np.array([[0.2, 0.0], [0.5, 0.0], [0.0, -0.3], [0.1, 0.0], [3.0, 1.0]])
POLICY = np.array([[0.3, 0.7], [0.5, 0.5], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
ONE_HOT = np.eye(S, dtype=np.float32)[:, None]  # [S, 1, S]: one frame a state.


def optimal_values():
  """Q* by value iteration, in float64."""
  q = np.zeros((S, A))
  for _ in range(500):
    q = REWARD + GAMMA * ~ENDS * q.max(1)[NEXT]
  return q


def policy_values(policy):
  """Q^π by solving Q = R + γ P^π Q."""
  transition = np.zeros((S * A, S * A))
  for s, a in np.ndindex(S, A):
    if not ENDS[s, a]:
      transition[s * A + a, NEXT[s, a] * A : NEXT[s, a] * A + A] = policy[NEXT[s, a]]
  return np.linalg.solve(np.eye(S * A) - GAMMA * transition, REWARD.ravel()).reshape(S, A)


def every_transition() -> Batch:
  """All (s, a, a'), weighted by the probability of a' under POLICY: the exact expectation."""
  s, a, following = (x.ravel() for x in np.indices((S, A, A)))
  return Batch(
    state=ONE_HOT[s],
    action=a.astype(np.int32),
    reward=REWARD[s, a].astype(np.float32),
    next_state=ONE_HOT[NEXT[s, a]],
    next_action=following.astype(np.int32),
    discount=(~ENDS[s, a]).astype(np.float32),
    weight=(A * POLICY[NEXT[s, a], following]).astype(np.float32),
  )


def learnt(loss, head=None, batches=None, steps=3000):
  """Q after `steps` updates of a table: a linear network on one-hot states."""
  network = MLP(num_actions=A, hidden_units=(), head=head or QHead())
  if batches is None:
    whole = every_transition()
    batches = jax.tree.map(lambda x: np.broadcast_to(x, (steps, *x.shape)), whole)
  learner = Learner(
    functools.partial(loss, apply=network.apply),
    optimizer=optax.adam(optax.exponential_decay(0.1, steps // 6, 0.5)),
    target_update_period=30,
  )
  state = learner.init(network.init(jax.random.PRNGKey(0), ONE_HOT), jax.random.PRNGKey(1))
  state, _ = learner.update_many(state, batches)
  assert learner._loop == 'scan'
  return np.asarray(network.apply(state.params, ONE_HOT).q_values)


@pytest.mark.parametrize(
  ('loss', 'head', 'tolerance'),
  [
    (functools.partial(losses.dqn_loss, error_loss='mse'), None, 1e-3),
    (functools.partial(losses.dqn_loss, double=True), None, 1e-3),
    (losses.c51_loss, C51Head(num_atoms=51, v_max=5.0), 2e-2),
    (losses.qr_dqn_loss, QuantileHead(num_quantiles=8), 2e-2),
    (losses.rem_loss, QuantileHead(num_quantiles=8), 2e-2),
  ],
)
def test_control_reaches_the_optimal_values(loss, head, tolerance):
  found = learnt(functools.partial(loss, discount=GAMMA), head)
  np.testing.assert_allclose(found, optimal_values(), atol=tolerance)


def test_cql_with_weight_zero_learns_dqns_table():
  dqn = functools.partial(losses.dqn_loss, discount=GAMMA)

  def cql(params, target_params, batch, key, apply):
    base = functools.partial(dqn, apply=apply)
    return losses.cql_loss(params, target_params, batch, key, loss=base, weight=0.0)

  np.testing.assert_allclose(learnt(cql, steps=500), learnt(dqn, steps=500), rtol=1e-5)


def test_fqe_reaches_the_value_of_the_logged_policy():
  found = learnt(functools.partial(losses.fqe_loss, discount=GAMMA))
  np.testing.assert_allclose(found, policy_values(POLICY), atol=1e-3)
  assert np.abs(policy_values(POLICY) - optimal_values()).max() > 0.3


def test_fqe_reaches_the_value_of_a_given_policy():
  """Of another policy than the data's, from values as a saved agent has them."""
  q = np.random.default_rng(0).normal(size=(S, A)).astype(np.float32)
  probabilities = functools.partial(losses.policy_probabilities, kind='softmax', temperature=0.5)
  policy = lambda states: probabilities(states[:, 0] @ q)
  found = learnt(functools.partial(losses.fqe_loss, discount=GAMMA, policy=policy))
  expected = policy_values(np.asarray(probabilities(q)))
  np.testing.assert_allclose(found, expected, atol=1e-3)


def test_monte_carlo_reaches_the_exact_returns():
  """Episodes from every state and first action, then always right, through the offline source."""
  right = np.tile([0.0, 1.0], (S, 1))
  rows = []
  for s, a in np.ndindex(S, A):
    while True:
      rows.append((s, a, REWARD[s, a], ENDS[s, a]))
      if ENDS[s, a]:
        break
      s, a = NEXT[s, a], 1
  states, actions, rewards, ends = map(np.array, zip(*rows, strict=True))
  data = source.StoredSource(
    transitions.make_columns(actions, rewards, ends, ends),
    frame_store.RawFrames(np.eye(S, dtype=np.float32)[states]),
    stack_size=1,
    update_horizon=1,
    gamma=GAMMA,
    return_to_go=transitions.returns_to_go(rewards, ends, ends, GAMMA),
  )
  found = learnt(losses.monte_carlo_loss, batches=data.sample(0, 3000, 16))
  np.testing.assert_allclose(found, policy_values(right), atol=1e-2)


def test_behaviour_cloning_reaches_the_logged_policy():
  batch = every_transition()
  state = np.argmax(batch.state[:, 0], 1)
  batch = batch._replace(weight=(A * POLICY[state, batch.action]).astype(np.float32))
  batches = jax.tree.map(lambda x: np.broadcast_to(x, (1000, *x.shape)), batch)
  logits = learnt(losses.behaviour_cloning_loss, batches=batches)
  np.testing.assert_allclose(jax.nn.softmax(logits), POLICY, atol=1e-3)

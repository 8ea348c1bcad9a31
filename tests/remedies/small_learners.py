"""Small learners of every kind of network and loss, for tests of remedies."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from implicit_rl import heads, losses, networks, optimizers
from implicit_rl.context import Context
from implicit_rl.learner import Learner
from implicit_rl.types import Batch

A, B = 3, 8
VECTOR, MINATAR = (1, 5), (1, 10, 10, 4)


class Case(NamedTuple):
  """A network and what it is trained with."""

  network: object
  shape: tuple[int, ...] = VECTOR
  loss: object = losses.dqn_loss
  make: object = functools.partial
  settings: tuple[tuple[str, float], ...] = ()


CASES = {
  'DQN': Case(networks.MLP(A, (16, 8))),
  'Rainbow': Case(
    networks.MLP(A, (6, 6), 'crelu', True, heads.C51Head(True, True, 5)),
    loss=losses.c51_loss,
    make=losses.with_noise,
  ),
  'MinAtar': Case(
    networks.MinAtarCNN(A, 8, head=heads.QuantileHead(num_quantiles=3)),
    MINATAR,
    losses.qr_dqn_loss,
  ),
  'Atari': Case(networks.NatureCNN(A, 8), (2, 12, 12)),
  'SAC': Case(
    networks.ActorCritic(A, (8, 6)), loss=losses.sac_loss, settings=(('target_entropy', -A),)
  ),
}


def make(name, remedies, **settings):
  """Returns a learner with remedies: its `context` has everything."""
  case = CASES[name]
  network, state = case.network, np.zeros((1, *case.shape), np.float32)
  for remedy in remedies.values():  # As an agent does.
    network = remedy.wrap(network, state)
  loss = case.make(case.loss, apply=network.apply, discount=0.9, **dict(case.settings))
  context = Context(
    apply=network.apply,
    init=lambda key: network.init(key, state),
    discount=0.9,
    num_actions=A,
    network=network,
  )
  if name == 'SAC':
    settings = {'optimizer': optimizers.actor_critic_adam()} | settings
  return Learner(loss, remedies=remedies, context=context, **settings)


def start(learner, seed=0):
  """Returns the state before the first update."""
  key = jax.random.PRNGKey(seed)
  return learner.init(jax.jit(learner.context.init)(key), key)


def batches(name, count=None, seed=7):
  """Returns random batches [count, B, ...], or one [B, ...]."""
  rng = np.random.default_rng(seed)
  lead = (B,) if count is None else (count, B)
  shape = (*lead, *CASES[name].shape)
  if name == 'SAC':
    actions = lambda: rng.uniform(-1, 1, (*lead, A)).astype(np.float32)
  else:
    actions = lambda: rng.integers(0, A, lead).astype(np.int32)
  return Batch(
    state=rng.normal(size=shape).astype(np.float32),
    action=actions(),
    reward=rng.normal(size=lead).astype(np.float32),
    next_state=rng.normal(size=shape).astype(np.float32),
    next_action=actions(),
    discount=rng.integers(0, 2, lead).astype(np.float32),
    weight=np.ones(lead, np.float32),
  )


def outputs(name, learner, params, batch):
  """Returns what the network says on a batch, without noise: values, distributions."""
  apply = learner.context.apply
  if name == 'SAC':
    return apply(params, batch.state, batch.action, method='critics').q_values
  found = apply(params, batch.state)
  return [x for field, x in found._asdict().items() if field not in ('features', 'layers')]


def assert_equal(one, other):
  """Asserts that two trees are equal, bit for bit."""
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)

"""The numbers that the authors' own code, or a peer's, gives on shared weights and states.

Each was run once in PyTorch or JAX at the commit that is named, on the arrays that the test draws.
ReDo's and plasticity injection's are in the tests of those.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import losses, networks
from implicit_rl.context import Context
from implicit_rl.layer_graph import layer_graph
from implicit_rl.learner import Learner
from implicit_rl.rank import dormancy_scores
from implicit_rl.remedies.c_chain import CChain
from implicit_rl.remedies.continual_backprop import ContinualBackprop
from implicit_rl.remedies.dr3 import DR3
from implicit_rl.remedies.grama import ReGraMa
from implicit_rl.remedies.infer import InFeR, InitialFeatures
from implicit_rl.remedies.pfo import PFO
from implicit_rl.simba import ResidualBlock
from implicit_rl.types import Batch, LearnerState

KEY = jax.random.PRNGKey(0)
MLP = networks.MLP(3, (6, 4))


def drawer(seed, scale=0.5):
  rng = np.random.default_rng(seed)
  return lambda *shape: (rng.normal(size=shape) * scale).astype(np.float32)


def mlp(draw, *widths):
  """Parameters of an MLP, in the order in which the authors' networks were given them."""
  pairs = enumerate(itertools.pairwise(widths))
  layer = lambda a, b: {'kernel': draw(a, b), 'bias': draw(b)}
  return {'params': {f'Dense_{i}': layer(*pair) for i, pair in pairs}}


def setting(network, shape, loss=losses.dqn_loss, **settings):
  """A loss and the context that remedies are given."""
  stack = np.zeros((1, 1, *shape), np.float32)
  loss = functools.partial(loss, apply=network.apply, discount=0.99, **settings)
  context = Context(
    apply=network.apply,
    init=lambda key: network.init(key, stack),
    loss=loss,
    network=network,
    layers=networks.hidden_layers(network, stack),
  )
  return loss, context


def batch_of(states, **fields):
  zeros = np.zeros(len(states), np.float32)
  named = dict.fromkeys(Batch._fields, zeros) | {'return_to_go': None, 'weight': zeros + 1}
  named |= {'state': states, 'next_state': states, 'action': zeros.astype(np.int32)}
  return Batch(**named | fields)


def term_and_slope(remedy, params, batch, target_params=None, extra=None):
  """A remedy's weighted term, and its gradient in the first row of the first kernel."""
  loss, context = setting(MLP, (5,))

  @jax.jit
  def term(kernel):
    first = params['params']['Dense_0'] | {'kernel': kernel}
    moved = {'params': params['params'] | {'Dense_0': first}}
    _, aux = loss(moved, target_params or params, batch, KEY)
    return remedy.loss_term(context, moved, target_params or params, batch, aux, KEY, extra)[0]

  value, slope = jax.value_and_grad(term)(params['params']['Dense_0']['kernel'])
  return value, slope[0]


@pytest.mark.parametrize(
  'all_layers, value, slope',
  [
    (False, 1.5530136, [0.02401, -0.162195, -0.05318, 0.125424, 0.003504, -0.025989]),
    (True, 1.4947987, [-0.029082, -0.061138, 0.008164, 0.053198, -0.070877, 0.119751]),
  ],
)
def test_pfo(all_layers, value, slope):
  """ValueLoss of CLAIRE-Labo/no-representation-no-trust at 52a785d, coefficient 2."""
  draw = drawer(0)
  params, old = (mlp(draw, 5, 6, 4, 3) for _ in range(2))
  found = term_and_slope(PFO(2.0, all_layers), params, batch_of(draw(8, 5)[:, None]), old)
  np.testing.assert_allclose(found[0], value, rtol=1e-5)
  np.testing.assert_allclose(found[1], slope, atol=2e-6)


def test_infer():
  """InFerDDQN of timoklein/infer at bfcab6c, a peer's; it averages over the heads, we add them."""
  draw = drawer(1)
  first, params = (mlp(draw, 5, 6, 4) for _ in range(2))
  heads = [
    {'params': {'critic_heads_0': {'kernel': draw(4, 4), 'bias': draw(4)}}} for _ in range(2)
  ]
  last = {'Dense_2': {'kernel': draw(4, 3), 'bias': draw(3)}}
  first, params = ({'params': one['params'] | last} for one in (first, params))
  batch = batch_of(draw(8, 5)[:, None])
  extra = InitialFeatures(first, *heads, optimizer_state=())
  value, slope = term_and_slope(InFeR(0.1, heads=4, scale=7.0), params, batch, extra=extra)
  np.testing.assert_allclose(value / 4, 0.3796628, rtol=1e-5)
  expected = [-0.00118, 0, -0.009942, -0.007413, 0, 0.010681]
  np.testing.assert_allclose(slope / 4, expected, atol=2e-6)


def test_dr3():
  """compute_dr3_loss of google/dopamine at 5873f54, labs/offline_rl/jax/offline_dr3_agent.py."""
  draw = drawer(7)
  params = mlp(draw, 5, 6, 4)
  params['params']['Dense_2'] = {'kernel': np.zeros((4, 3)), 'bias': np.zeros(3)}
  states, following = draw(8, 5)[:, None], draw(8, 5)[:, None]
  batch = batch_of(states, next_state=following, discount=np.ones(8, np.float32))
  value, slope = term_and_slope(DR3(1.0), params, batch)
  np.testing.assert_allclose(value, 0.04102038, rtol=1e-5)
  expected = [0, 0.000758, -0.000829, 0.000866, -0.005748, -0.002039]
  np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_c_chain():
  """DoubleDQN_CCHAIN of bluecontra/C-CHAIN at 2f8bedf on MinAtar, its warm-up over after four.

  Its second batch was made the one of two updates ago, and its second update's term, for which
  there is none, was left out.
  """
  draw = drawer(2, 0.05)
  conv = {'kernel': draw(3, 3, 4, 16), 'bias': draw(16)}
  hidden = {'kernel': draw(8, 8, 16, 128).reshape(-1, 128), 'bias': draw(128)}
  last = {'kernel': draw(128, 3), 'bias': draw(3)}
  params = {'params': {'PatchConv_0': conv, 'Dense_0': hidden, 'Dense_1': last}}
  rng = np.random.default_rng(3)
  batches = []
  for _ in range(8):
    state, action = rng.integers(0, 2, (4, 1, 10, 10, 4)), rng.integers(0, 3, 4)
    reward, following = rng.normal(size=4), rng.integers(0, 2, (4, 1, 10, 10, 4))
    batch = batch_of(state.astype(np.uint8), action=action, reward=reward.astype(np.float32))
    live = 1 - rng.integers(0, 2, 4)
    batch = batch._replace(next_state=following.astype(np.uint8), discount=live.astype(np.float32))
    batches.append(batch)
  loss, context = setting(networks.MinAtarCNN(3), (10, 10, 4), double=True, error_loss='mse')
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches[0])
  learner = Learner(
    loss,
    optax.adam(3e-4),
    target_update_period=4,  # When theirs is copied, after 10,000 updates.
    remedies={'chain': CChain(warm_up=4)},
    context=dataclasses.replace(context, batch=shapes),
  )
  state = learner.init(jax.tree.map(jnp.asarray, params), jax.random.PRNGKey(0))
  found = []
  for batch in batches:
    state, info = learner.update(state, batch)
    found.append([info.metrics[f'{n}'] for n in ('Losses/TD', 'Losses/CChain', 'CChain/Weight')])
  td, churn, weight = np.transpose(found)
  expected = [1.482906, 0.268114, 1.337556, 0.651061, 1.063382, 1.552231, 0.481237, 1.891181]
  np.testing.assert_allclose(td, expected, rtol=1e-4)
  expected = [0, 0, 2.255994e-4, 1.914525e-4, 7.442584e-5, 9.450495e-5, 5.893609e-5, 4.909355e-5]
  np.testing.assert_allclose(churn, expected, rtol=2e-3)
  np.testing.assert_allclose(weight[:4], 50)
  np.testing.assert_allclose(weight[4:], [44.8321, 58.6321, 72.2981, 75.7123], rtol=2e-3)


def test_continual_backpropagation_replaces_the_units_that_the_authors_code_replaces():
  """GnT of shibhansh/loss-of-plasticity at 63c35f3, lop/algos/gnt.py, with `accumulate`.

  Of a network that does not learn, by update: a unit that is replaced has no utility until it is
  old enough to be replaced again.
  """
  draw = drawer(4)
  params = mlp(draw, 5, 8, 3)
  remedy = ContinualBackprop(rate=0.023, decay=0.9, maturity=12)
  _, context = setting(networks.MLP(3, (8,)), (5,))
  context = dataclasses.replace(context, optimizer=optax.sgd(0.1))
  state = LearnerState(
    params, params, context.optimizer.init(params), KEY, 0, remedy.init(context, params, KEY)
  )
  act = jax.jit(functools.partial(remedy.after_update, context))
  replaced = []
  for update in range(1, 46):
    before = state
    state, metrics = act(state, batch_of(draw(8, 5)[:, None]), jax.random.fold_in(KEY, update))
    ages = [np.asarray(one.extra['Dense_0'].age) for one in (before, state)]
    replaced += [(update, int(unit)) for unit in np.flatnonzero(ages[1] <= ages[0])]
    assert metrics['ContinualBackprop/Reset'] == np.sum(ages[1] <= ages[0])
  assert replaced == [(18, 5), (24, 2), (31, 5), (38, 2), (45, 5)]


@pytest.mark.parametrize(
  'threshold, first, second',
  [
    (0.3, [0, 1, 3, 4, 6, 7, 13, 14], [0, 2, 3, 5]),
    (0.8, [0, 1, 2, 3, 4, 5, 6, 7, 10, 13, 14], [0, 2, 3, 5, 6, 7]),
  ],
)
def test_regrama_chooses_the_units_that_the_authors_code_chooses(threshold, first, second):
  """GradientReDo of the authors' utils/ReDo.py, its mode 'threshold', on PyTorch's gradients."""
  draw = drawer(5)
  params = mlp(draw, 5, 16, 8, 3)
  states, rewards = draw(8, 5)[:, None], draw(8)
  batch = batch_of(states, reward=rewards, action=(np.arange(8) % 3).astype(np.int32))
  _, context = setting(networks.MLP(3, (16, 8)), (5,))
  state = LearnerState(params, params, (), KEY, 0)
  values = ReGraMa().values(context, layer_graph(context.init), state, batch, KEY)
  chosen = {n: np.flatnonzero(dormancy_scores(x) <= threshold).tolist() for n, x in values.items()}
  assert chosen == {'Dense_0': first, 'Dense_1': second}


def test_simbas_block():
  """ResidualBlock of SimBa's scale_rl/networks/layers.py; parameters by name, sorted."""
  rng = np.random.default_rng(6)
  x = rng.normal(size=(2, 4)).astype(np.float32)
  block = ResidualBlock(4, 'relu', None)
  draw = lambda p: rng.normal(size=p.shape).astype(np.float32) * 0.5
  params = jax.tree.map(draw, block.init(KEY, x))
  expected = [[1.339763, 4.020806, -3.810538, 0.694285], [0.980022, 3.194654, -0.939355, 2.315039]]
  np.testing.assert_allclose(block.apply(params, x)[0], expected, atol=1e-5)

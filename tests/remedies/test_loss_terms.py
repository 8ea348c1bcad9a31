"""Loss terms against NumPy float64, finite differences and closed forms, on every kind of head."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl.remedies.c_chain import CChain
from implicit_rl.remedies.dr3 import DR3
from implicit_rl.remedies.feature_terms import Decorrelation, NuclearNorm, StableRank
from implicit_rl.remedies.infer import InFeR
from implicit_rl.remedies.l2_init import L2Init
from implicit_rl.remedies.pfo import PFO
from tests.cases import cases
from tests.remedies import setting as settings

KINDS = ('dqn', 'rainbow', 'qr', 'sac')
each_kind = pytest.mark.parametrize(
  'kind', cases(((kind,) for kind in KINDS), ('rainbow', 'sac').__contains__)
)


@pytest.fixture(scope='module')
def made():
  return {kind: settings.make(kind) for kind in KINDS}


def assert_close(one, other, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


def slope(setting, remedy, extra=None, towards=''):
  """The term's gradient along a direction, by JAX and by central differences, in float64."""
  rng = np.random.default_rng(3)
  with jax.enable_x64(True):
    double = lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x
    setting = setting._replace(
      params=jax.tree.map(double, setting.params), batch=jax.tree.map(double, setting.batch)
    )
    extra = jax.tree.map(double, extra)
    direction = jax.tree_util.tree_map_with_path(
      lambda path, p: rng.normal(size=p.shape) * (towards in jax.tree_util.keystr(path)),
      setting.params,
    )
    value = jax.jit(lambda params: setting.term(remedy, params, extra)[0])
    gradient = jax.grad(value)(setting.params)
    exact = sum(map(jnp.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    move = lambda step: jax.tree.map(lambda p, d: p + step * d, setting.params, direction)
    step = 1e-6
    return float(exact), float((value(move(step)) - value(move(-step))) / (2 * step))


@each_kind
def test_dr3_is_the_product_of_features_where_there_is_a_next_state(made, kind):
  setting, batch = made[kind], made[kind].batch
  now = settings.features(setting, setting.params, batch.state, batch.action)
  action = settings.next_action(setting, setting.params, batch.next_state)
  following = settings.features(setting, setting.params, batch.next_state, action)
  products = sum(np.abs(np.sum(a * b, axis=1)) for a, b in zip(now, following, strict=True))
  term, metrics = setting.term(DR3(0.25))
  expected = np.mean(batch.discount * products)
  assert expected > 0.01
  np.testing.assert_allclose(term, 0.25 * expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['Losses/DR3'], expected, rtol=1e-5)


def test_dr3_pulls_at_both_states_and_not_at_the_policy(made):
  exact, estimate = slope(made['dqn'], DR3(1.0))
  np.testing.assert_allclose(exact, estimate, rtol=1e-4)
  exact, estimate = slope(made['sac'], DR3(1.0), towards='critic_hidden')
  np.testing.assert_allclose(exact, estimate, rtol=1e-4)
  exact, estimate = slope(made['sac'], DR3(1.0), towards='actor')
  assert exact == 0
  assert abs(estimate) > 1e-3


@pytest.mark.parametrize('kind', cases(((one,) for one in ['dqn', 'sac']), 'sac'.__eq__))
def test_terms_of_features_are_numpys(made, kind):
  setting = made[kind]
  found = settings.features(setting, setting.params, setting.batch.state, setting.batch.action)
  singular = [np.linalg.svd(phi, compute_uv=False) for phi in found]
  covariances = [np.cov(phi, rowvar=False) for phi in found]
  off = [np.sum(c**2) - np.sum(np.diag(c) ** 2) for c in covariances]
  missing = [np.mean(np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4))) for c in covariances]
  expected = {
    NuclearNorm(0.5): -sum(np.sum(s) / np.linalg.norm(s) for s in singular),
    NuclearNorm(0.5, relative=False): -sum(np.sum(s) for s in singular),
    StableRank(0.5): -sum(np.sum(s**2) / s[0] ** 2 for s in singular),
    Decorrelation(0.5, 1.0, 0.0): sum(off) / 6,
    Decorrelation(0.5, 0.0, 1.0): sum(missing),
    Decorrelation(0.5): sum(off) / 6 + 25 * sum(missing),
  }
  for remedy, value in expected.items():
    np.testing.assert_allclose(setting.term(remedy)[0], 0.5 * value, rtol=1e-4)
    if kind == 'dqn':
      exact, estimate = slope(setting, remedy)
      np.testing.assert_allclose(exact, estimate, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('remedy', [NuclearNorm(), NuclearNorm(relative=False), StableRank()])
@pytest.mark.parametrize(
  'features', [np.zeros((4, 3)), np.eye(4, 3), np.ones((4, 3)), np.diag([2.0, 1, 0])]
)
def test_gradients_of_ranks_are_finite_where_singular_values_meet_or_vanish(remedy, features):
  value, gradient = jax.value_and_grad(remedy.of_features)(jnp.asarray(features, jnp.float32))
  assert np.isfinite(value)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize('shape', [(5, 9), (9, 5)])
def test_terms_of_wide_and_tall_features_are_numpys(shape):
  features = np.random.default_rng(0).normal(size=shape)
  features[:, 3] = 0  # A dead unit.
  singular, covariance = np.linalg.svd(features, compute_uv=False), np.cov(features, rowvar=False)
  off = np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)
  expected = {
    NuclearNorm(): -np.sum(singular) / np.linalg.norm(singular),
    NuclearNorm(relative=False): -np.sum(singular),
    StableRank(): -np.sum(singular**2) / singular[0] ** 2,
    Decorrelation(variance=0.0): off / shape[1],
  }
  for remedy, value in expected.items():
    found = remedy.of_features(jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(found, value, rtol=1e-5)


@pytest.mark.parametrize('kind', cases(((one,) for one in ['dqn', 'sac']), 'sac'.__eq__))
def test_a_term_with_a_period_acts_as_much_in_fewer_updates(made, kind):
  still = lambda *arguments: (jnp.zeros(()), made[kind].loss(*arguments)[1])
  setting = made[kind]._replace(loss=still)  # The term alone moves the parameters.
  sgd, key = optax.sgd(1e-2), lambda: jax.random.PRNGKey(0)
  lazy = setting.learner({'one': NuclearNorm(0.5, period=3)}, optimizer=sgd)
  plain = setting.learner({'one': NuclearNorm(0.5)}, optimizer=sgd)
  state = lazy.init(jax.tree.map(jnp.copy, setting.params), key())
  for update in range(7):
    before = jax.tree.map(np.array, state.params)
    start = plain.init(jax.tree.map(jnp.asarray, before), key())
    once, expected = plain.update(start, setting.batch)
    state, info = lazy.update(state, setting.batch)
    times = 3 if update % 3 == 0 else 0
    moved = jax.tree.map(lambda b, o, times=times: b + times * (o - b), before, once.params)
    assert_close(state.params, moved)
    value = times * expected.metrics['Losses/NuclearNorm']
    np.testing.assert_allclose(info.metrics['Losses/NuclearNorm'], value, rtol=1e-5)
  assert value != 0  # Of the seventh update.
  assert 'one' not in state.extra  # The learner's own count says when: a checkpoint has no other.
  with pytest.raises(ValueError, match=r'NuclearNorm\.period = 3 needs `context\.updates`'):
    setting.term(NuclearNorm(period=3))


def test_seeds_that_train_as_one_program_also_skip_a_term_that_is_not_due(made):
  setting, branches = made['dqn'], {}
  two = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)
  batches = jax.tree.map(lambda leaf: leaf[None], two(setting.batch))
  for period in (1, 3):
    learner = setting.learner({'one': NuclearNorm(period=period)})
    states = two(learner.init(jax.tree.map(jnp.copy, setting.params), jax.random.PRNGKey(0)))
    traced = jax.make_jaxpr(learner.over_seeds(2).update_many)(states, batches)
    branches[period] = str(traced).count('cond[')
  assert branches[3] == branches[1] + 2  # Forward and backward.


def test_a_relative_nuclear_norm_does_not_ask_features_to_grow():
  features = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
  remedies = NuclearNorm(), NuclearNorm(relative=False)
  radial = [float(jnp.vdot(jax.grad(one.of_features)(features), features)) for one in remedies]
  np.testing.assert_allclose(radial[0], 0, atol=1e-4)
  np.testing.assert_allclose(radial[1], -np.linalg.norm(features, 'nuc'), rtol=1e-4)


@pytest.mark.parametrize('kind', ['dqn', 'sac'])
def test_l2_init_under_sgd_is_geometric_decay_to_the_start(made, kind):
  """With a loss that is constant, θ_t − θ₀ shrinks by (1 − 2·rate·weight) at every step."""
  setting = made[kind]
  still = lambda *arguments: (jnp.zeros(()), setting.loss(*arguments)[1])
  learner = setting._replace(loss=still).learner({'one': L2Init(0.5)}, optimizer=optax.sgd(0.1))
  state = learner.init(jax.tree.map(jnp.copy, setting.params), jax.random.PRNGKey(0))
  moved = jax.tree.map(lambda p: p + 1.0, state.params)
  state = state._replace(params=moved)
  for _ in range(3):
    state, info = learner.update(state, setting.batch)
  numbers = [p.size for p in jax.tree.leaves(setting.params) if p.ndim]
  np.testing.assert_allclose(info.metrics['Losses/L2Init'], 0.9**4 * sum(numbers), rtol=1e-5)
  left = jax.tree.map(lambda p: p + (0.9**3 if p.ndim else 1.0), setting.params)
  assert_close(state.params, left)


@each_kind
def test_pfo_compares_pre_activations_with_the_target_networks(made, kind):
  setting, batch = made[kind], made[kind].batch
  context = setting.context

  def preactivations(params, name):
    parts = name.split('/')
    layer = params['params'][parts[0]] if len(parts) > 1 else params['params']
    layer = layer[parts[-1]]
    x = np.reshape(batch.state, (settings.B, -1)).astype(np.float64)
    if len(parts) > 1:
      x = np.concatenate([x, batch.action], axis=1)
    if parts[-1].endswith('_1'):
      below = name.removesuffix('_1') + '_0'
      x = np.maximum(preactivations(params, below), 0)
    noisy = 'kernel_mu' in layer
    kernel = np.asarray(layer['kernel_mu']).T if noisy else np.asarray(layer['kernel'])
    return x @ kernel.astype(np.float64) + np.asarray(layer['bias_mu' if noisy else 'bias'])

  squares = {
    name: (preactivations(setting.params, name) - preactivations(setting.target_params, name)) ** 2
    for name in context.layers
  }
  last = sum(np.mean(x) for name, x in squares.items() if name.endswith('_1'))
  whole = np.concatenate([x.ravel() for x in squares.values()]).mean()
  np.testing.assert_allclose(setting.term(PFO(2.0))[0], 2 * last, rtol=1e-4)
  np.testing.assert_allclose(setting.term(PFO(2.0, all_layers=True))[0], 2 * whole, rtol=1e-4)
  exact, estimate = slope(setting, PFO(1.0))
  np.testing.assert_allclose(exact, estimate, rtol=1e-4)
  same = setting.term(PFO(1.0, all_layers=True), target_params=setting.params)[0]
  np.testing.assert_allclose(same, 0, atol=1e-12)


def infer_targets(setting, params, heads, scale):
  """β g⁰(φ⁰) and the features, in NumPy."""
  phi = settings.features(setting, params, setting.batch.state, setting.batch.action)
  apply = lambda i, x: (
    x @ np.asarray(heads['params'][f'critic_heads_{i}']['kernel'], np.float64)
    + np.asarray(heads['params'][f'critic_heads_{i}']['bias'], np.float64)
  )
  return [scale * apply(i, x) for i, x in enumerate(phi)]


@each_kind
def test_infer_regresses_heads_on_the_scaled_initial_ones(made, kind):
  setting, remedy = made[kind], InFeR(0.1, heads=4, scale=7.0)
  context = dataclasses.replace(setting.context, optimizer=optax.sgd(0.01))
  extra = remedy.init(context, setting.target_params, jax.random.PRNGKey(3))  # θ₀ is another one.
  assert_close(extra.heads, extra.targets, 0, 0)
  heads = settings.jitter(extra.heads, 4)
  extra = extra._replace(heads=heads)
  now = infer_targets(setting, setting.params, heads, 1.0)
  first = infer_targets(setting, setting.target_params, extra.targets, 7.0)
  expected = sum(np.mean(np.sum((a - b) ** 2, axis=1)) for a, b in zip(now, first, strict=True))
  term, metrics = setting.term(remedy, extra=extra)
  np.testing.assert_allclose(term, 0.1 * expected, rtol=1e-4)
  np.testing.assert_allclose(metrics['Losses/InFeR'], expected, rtol=1e-4)
  exact, estimate = slope(setting, remedy, extra)
  np.testing.assert_allclose(exact, estimate, rtol=1e-4)

  # The heads' own step: gradient of the mean squared error, in closed form.
  state = setting.learner({}).init(setting.params, jax.random.PRNGKey(0))._replace(extra=extra)
  moved, _ = remedy.after_update(context, state, setting.batch, jax.random.PRNGKey(0))
  phi = settings.features(setting, setting.params, setting.batch.state, setting.batch.action)
  for i, (x, y) in enumerate(zip(now, first, strict=True)):
    before = heads['params'][f'critic_heads_{i}']
    after = moved.extra.heads['params'][f'critic_heads_{i}']
    error = 2 * 0.1 * (x - y) / settings.B  # [B, k]
    assert_close(after['kernel'], before['kernel'] - 0.01 * phi[i].T @ error, 1e-4, 1e-5)
    assert_close(after['bias'], before['bias'] - 0.01 * error.sum(axis=0), 1e-4, 1e-5)
  assert_close(moved.extra.targets, extra.targets, 0, 0)
  assert_close(moved.extra.params, setting.target_params, 0, 0)


@each_kind
def test_c_chain_holds_values_of_the_batch_before_the_last_still(made, kind):
  """Five updates against the networks that there were, all of which are kept here."""
  setting = made[kind]
  remedy = CChain(ratio=0.5, first_weight=2.0, warm_up=4, window=3)
  learner = setting.learner({'chain': remedy}, optimizer=optax.sgd(0.05))
  state = learner.init(jax.tree.map(jnp.copy, setting.params), jax.random.PRNGKey(0))
  batches = [settings.make_batch(10 + t, kind == 'sac') for t in range(7)]
  history, churns, losses, weights = [], [], [], []
  for batch in batches:
    history.append(jax.tree.map(np.array, state.params))
    state, info = learner.update(state, batch)
    churns.append(float(info.metrics['Losses/CChain']))
    losses.append(float(info.metrics['Losses/TD']))
    weights.append(float(info.metrics['CChain/Weight']))

  def values(params, batch):
    method = {'method': 'critics'} if kind == 'sac' else {}
    inputs = (batch.state, batch.action) if kind == 'sac' else (batch.state,)
    return np.asarray(setting.context.apply(params, *inputs, **method).q_values, np.float64)

  assert churns[:2] == [0, 0]
  for t in range(2, 7):
    apart = values(history[t], batches[t - 2]) - values(history[t - 1], batches[t - 2])
    np.testing.assert_allclose(churns[t], np.mean(apart**2), rtol=1e-3)
    assert churns[t] > 0
  loss = churn = 0.0
  for t in range(7):
    expected = 2.0 if t < 4 else 0.5 * loss / (churn + 1e-8)
    np.testing.assert_allclose(weights[t], expected, rtol=1e-4)
    loss += (losses[t] - loss) / min(t + 1, 3)
    churn += (churns[t] - churn) / min(max(t - 1, 1), 3)
  # The term's own gradient, by differences; the older network is not moved.
  exact, estimate = slope(setting, remedy, state.extra['chain'])
  np.testing.assert_allclose(exact, estimate, rtol=1e-4)


def test_skipped_updates_do_not_enter_c_chains_means(made):
  setting, remedy = made['dqn'], CChain()
  learner = setting.learner({'chain': remedy}, on_nonfinite='skip')
  state = learner.init(jax.tree.map(jnp.copy, setting.params), jax.random.PRNGKey(0))
  for t in range(4):
    state, _ = learner.update(state, settings.make_batch(t))
  means = jax.tree.map(np.array, state.extra['chain'][2:])
  broken = setting.batch._replace(reward=np.full_like(setting.batch.reward, np.nan))
  state, info = learner.update(state, broken)
  assert info.metrics['Updates/Skipped'] == 1
  assert_close(state.extra['chain'][2:], means, 0, 0)


def test_a_weight_of_0_takes_a_term_out(made):
  terms = [DR3, NuclearNorm, StableRank, Decorrelation, L2Init, PFO, InFeR, CChain]
  assert made['dqn'].learner({one.__name__: one(0.0) for one in terms}).remedies == {}


def test_what_agent_or_network_lacks_is_refused_at_the_start(made):
  setting = made['dqn']
  bare = setting._replace(context=dataclasses.replace(setting.context, layers=()))
  with pytest.raises(ValueError, match=r"PFO needs a network that reports .* MLP's outputs have"):
    bare.learner({'pfo': PFO()}).init(setting.params, jax.random.PRNGKey(0))

  def renamed(*arguments):
    value, aux = setting.loss(*arguments)
    return value, aux._replace(metrics={'Losses/Mine': value})

  with pytest.raises(ValueError, match=r'CChain\.ratio is relative to the metric Losses/TD'):
    learner = setting._replace(loss=renamed).learner({'chain': CChain()})
    learner.init(setting.params, jax.random.PRNGKey(0))
  blind = setting._replace(context=dataclasses.replace(setting.context, batch=None))
  for remedy in (CChain(), InFeR()):
    with pytest.raises(ValueError, match=r'needs `context\.batch`'):
      blind.learner({'one': remedy}).init(setting.params, jax.random.PRNGKey(0))
  short = jnp.ones((1, 4))
  with pytest.raises(ValueError, match=r'Agent\.batch_size of at least 2, got 1'):
    Decorrelation().of_features(short)

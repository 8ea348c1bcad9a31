"""SAC's and continuous CQL's losses against SciPy, NumPy, d3rlpy and Stable-Baselines3."""

import functools
import pathlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate

from implicit_rl import losses
from implicit_rl.learner import Learner
from implicit_rl.losses import tanh_gaussian
from implicit_rl.networks import ActorCritic
from implicit_rl.types import Batch, GaussianOutputs

KEY = jax.random.PRNGKey(0)


@pytest.fixture(scope='module')
def golden():
  """What tests/golden/make_sac.py recorded, by its names."""
  with np.load(pathlib.Path(__file__).parent / 'golden' / 'sac.npz') as file:
    return {name: file[name] for name in file}


def part(golden, prefix):
  """The arrays under a prefix, as a nested dict."""
  flat = {tuple(k.split('/'))[1:]: v for k, v in golden.items() if k.split('/')[0] == prefix}
  return flax.traverse_util.unflatten_dict(flat)


@pytest.fixture(scope='module')
def setting(golden):
  """(apply, online, target, batch, settings) with d3rlpy's parameters."""
  found = {name: float(value) for name, value in part(golden, 'setting').items()}
  hidden = golden['params/actor_mean/kernel'].shape[0]
  network = ActorCritic(num_actions=3, hidden_units=(hidden,), lagrange=True)
  scalars = {
    'log_temperature': np.float32(np.log(found['temperature'])),
    'log_multiplier': np.float32(np.log(found['multiplier'])),
  }
  online, target = ({'params': {**part(golden, name), **scalars}} for name in ('params', 'target'))
  arrays = part(golden, 'batch')
  batch = Batch(
    state=arrays['state'][:, None],
    action=arrays['action'],
    reward=arrays['reward'],
    next_state=arrays['next_state'][:, None],
    next_action=arrays['action'],
    discount=arrays['discount'],
    weight=np.ones_like(arrays['reward']),
  )
  return jax.jit(network.apply, static_argnames='method'), online, target, batch, found


@pytest.mark.parametrize(('mean', 'log_std'), [(0.0, 0.0), (1.5, -1.0), (-0.7, 1.0), (2.0, -3.0)])
def test_tanh_gaussian_density_integrates_to_one_and_to_its_moments(mean, log_std):
  """SciPy's quadrature over the actions; moments of tanh(u) by quadrature over u."""
  gaussian = GaussianOutputs(jnp.full((1, 1), mean), jnp.full((1, 1), log_std))
  std = np.exp(log_std)

  @jax.jit
  def log_prob(u):
    return tanh_gaussian.sample(gaussian, jnp.reshape((u - mean) / std, (1, 1)))[1][0]

  def density(u):  # p(a)·da, with a = tanh(u) and da = (1 − a²) du
    return np.exp(float(log_prob(u))) * (1 - np.tanh(u) ** 2)

  def normal(u):
    return np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))

  low, high = mean - 9 * std, mean + 9 * std
  settings = {'a': max(low, -8), 'b': min(high, 8), 'epsabs': 1e-7, 'limit': 30}
  whole, _ = integrate.quad(density, **settings)
  expected_whole, _ = integrate.quad(normal, **settings)
  np.testing.assert_allclose(whole, expected_whole, rtol=1e-4)
  first, _ = integrate.quad(lambda u: np.tanh(u) * density(u), **settings)
  expected, _ = integrate.quad(lambda u: np.tanh(u) * normal(u), **settings)
  np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-5)


def test_tanh_gaussian_stays_finite_far_out_and_differs_by_action():
  gaussian = GaussianOutputs(jnp.array([[30.0, -30.0]]), jnp.zeros((1, 2)))
  gradient = jax.grad(lambda g: tanh_gaussian.sample(g, jnp.ones((1, 2)))[1][0])(gaussian)
  action, log_prob = tanh_gaussian.sample(gaussian, jnp.ones((1, 2)))
  np.testing.assert_array_equal(action, [[1, -1]])
  assert np.isfinite(log_prob).all() and all(
    np.isfinite(g).all() for g in jax.tree.leaves(gradient)
  )
  # log N(u) − log(1 − tanh²u) ≈ −½ − ½ log 2π + 2|u| − 2 log 2, for each component
  expected = 2 * (-0.5 - 0.5 * np.log(2 * np.pi) - 2 * np.log(2)) + 2 * (31 + 29)
  np.testing.assert_allclose(log_prob, [expected], rtol=1e-5)
  np.testing.assert_array_equal(tanh_gaussian.mode(gaussian), [[1, -1]])


def golden_loss(golden, setting, target_entropy=None):
  """Our loss, as functions of the parameters, with the recorded numbers in place of drawn ones."""
  apply, _, target, batch, found = setting
  numbers = part(golden, 'noise')
  entropy = found['target_entropy'] if target_entropy is None else target_entropy

  def loss(params):
    sac, aux = losses.sac_terms(
      params,
      target,
      batch,
      losses.SACNoise(numbers['now'], numbers['following']),
      apply=apply,
      discount=found['discount'],
      target_entropy=entropy,
    )
    noise = losses.CQLNoise(numbers['cql_uniform'], numbers['cql_now'], numbers['cql_following'])
    gap = losses.conservative_gap(params, batch, noise, aux.outputs.q_values, apply=apply)
    term, metrics = losses.conservative_terms(
      params, gap, apply=apply, weight=found['weight'], threshold=found['threshold']
    )
    return sac + term, (aux, metrics)

  return loss


def test_sac_and_cql_equal_d3rlpys_terms_and_gradients(golden, setting):
  """golden/make_sac.py says how they were recorded."""
  _, online, _, _, found = setting
  loss = golden_loss(golden, setting, target_entropy=-3.0)  # d3rlpy's: −A
  gradient, (aux, metrics) = jax.jit(jax.grad(loss, has_aux=True))(online)
  conservative = (
    found['multiplier'] * found['weight'] * (float(metrics['Losses/CQL']) - 2 * found['threshold'])
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  close(conservative, golden['d3rlpy/conservative_loss'])
  close(metrics['CQL/Multiplier'], found['multiplier'])
  close(aux.metrics['Losses/TD'] + conservative, golden['d3rlpy/critic_loss'])
  close(aux.metrics['Losses/Actor'], golden['d3rlpy/actor_loss'])
  surplus = float(aux.metrics['Policy/Entropy']) + 3.0
  close(found['temperature'] * surplus, golden['d3rlpy/temperature_loss'])
  close(gradient['params'].pop('log_temperature'), surplus)  # Of log α, where d3rlpy's is of α.
  theirs = part(golden, 'gradient')
  jax.tree.map(functools.partial(close, atol=1e-5), gradient['params'], theirs)


def test_sac_equals_stable_baselines3s_losses(golden, setting):
  _, online, _, _, found = setting
  _, (aux, _) = jax.jit(golden_loss(golden, setting))(online)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  close(0.5 * aux.metrics['Losses/TD'], golden['sb3/critic_loss'])  # They halve it.
  close(aux.metrics['Losses/Actor'], golden['sb3/actor_loss'])
  surplus = float(aux.metrics['Policy/Entropy']) - found['target_entropy']
  close(np.log(found['temperature']) * surplus, golden['sb3/ent_coef_loss'])


def simple_loss(setting, **settings):
  apply, _, _, _, found = setting
  defaults = {'apply': apply, 'discount': found['discount'], 'target_entropy': -3.0}
  return functools.partial(losses.sac_loss, **(defaults | settings))


def test_a_time_limit_bootstraps_and_a_fall_does_not(setting):
  """The target of a transition that a fall ended is its reward; of any other it looks ahead."""
  apply, online, target, batch, found = setting
  batch = batch._replace(discount=np.ones_like(batch.reward))
  fixed = simple_loss(setting, temperature=0.0)  # No entropy: the target is r + γ·min Q⁻.
  _, aux = jax.jit(fixed)(online, target, batch, KEY)
  q = np.asarray(aux.outputs.q_values)
  following, _ = tanh_gaussian.sample(
    apply(online, batch.next_state, method='actor'),
    jax.random.normal(KEY, (2, *batch.action.shape))[1],
  )
  q_t = apply(target, batch.next_state, following, method='critics').q_values
  ahead = batch.reward + found['discount'] * np.min(q_t, axis=1)
  np.testing.assert_allclose(aux.td_error + q, np.stack([ahead, ahead], 1), rtol=1e-4, atol=1e-5)
  fallen = batch._replace(discount=np.zeros_like(batch.reward))
  _, aux = jax.jit(fixed)(online, target, fallen, KEY)
  expected = np.stack([batch.reward, batch.reward], 1)
  np.testing.assert_allclose(aux.td_error + q, expected, rtol=1e-4, atol=1e-5)


def test_weights_and_switches_do_what_they_say(setting):
  apply, online, target, batch, found = setting
  plain, fixed = simple_loss(setting), simple_loss(setting, temperature=found['temperature'])
  cql = functools.partial(losses.continuous_cql_loss, apply=apply, loss=plain, num_samples=2)
  loss_key = jax.random.split(KEY, 4)[0]  # What CQL hands to SAC's loss.

  @jax.jit
  def everything(params):
    heavier = batch._replace(weight=2 * batch.weight)
    return {
      'plain': plain(params, target, batch, loss_key),
      'heavier': plain(params, target, heavier, loss_key),
      'unweighted': cql(params, target, batch, KEY, weight=0.0),
      'fixed': jax.grad(lambda p: fixed(p, target, batch, loss_key)[0])(params),
    }

  found = everything(online)
  value, aux = found['plain']
  np.testing.assert_allclose(found['unweighted'][0], value, rtol=1e-6)
  # Importance weights scale the critics' part alone.
  np.testing.assert_allclose(found['heavier'][0] - value, aux.metrics['Losses/TD'], rtol=1e-4)
  assert found['heavier'][1].metrics['Losses/Actor'] == aux.metrics['Losses/Actor']
  assert found['fixed']['params']['log_temperature'] == 0


def test_polyak_targets_follow_in_closed_form_and_the_penalty_is_the_critics_sum(setting):
  """Target k is Σ_i τ(1−τ)^(k−i)·θ_i + (1−τ)^k·θ_0; singular values by NumPy in float64."""
  _, online, _, batch, _ = setting
  rate, steps = 0.3, 3
  loss = simple_loss(setting)
  learner = Learner(
    loss,
    optax.sgd(0.01),
    penalty_weight=0.001,
    target_update_period=1,
    target_update_rate=rate,
  )
  key = jax.random.PRNGKey(0)
  _, aux = jax.jit(loss)(online, online, batch, jax.random.fold_in(key, 0))
  state = learner.init(jax.tree.map(jnp.asarray, online), key)
  history, penalties = [jax.tree.map(np.array, state.params)], []
  for _ in range(steps):
    state, info = learner.update(state, batch)
    history.append(jax.tree.map(np.array, state.params))
    penalties.append(info.metrics['Losses/Penalty'])
  weights = [(1 - rate) ** steps] + [rate * (1 - rate) ** (steps - i) for i in range(1, steps + 1)]
  expected = jax.tree.map(lambda *p: sum(w * x for w, x in zip(weights, p, strict=True)), *history)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, state.target_params, expected)
  singular = [np.linalg.svd(np.asarray(phi, np.float64))[1] for phi in aux.outputs.features]
  close(penalties[0], sum(s[0] ** 2 - s[-1] ** 2 for s in singular))
  assert len(singular) == 2

"""Each measure against NumPy in float64, a dense matrix, or a case that is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from implicit_rl import rank
from implicit_rl.diagnostics import base, churn, gradients, held_out, layer_ranks, norms, values
from implicit_rl.networks import MLP
from tests.diagnostics.setting import KEY, Setting


def outputs(setting, params, states):
  return jax.tree.map(np.float64, setting.network.apply(params, states))


def test_norms_and_the_distance_from_the_start():
  setting = Setting(MLP)
  first = setting.measure(norms.Norms())
  leaves = [np.float64(x) for x in jax.tree.leaves(setting.params)]
  assert first['weight_norm'] == pytest.approx(np.sqrt(sum(np.sum(x**2) for x in leaves)))
  dense = setting.params['params']['Dense_1']
  one = np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in dense.values()))
  assert first['weight_norm/Dense_1'] == pytest.approx(one)
  assert 'distance_from_start' not in first  # Nobody said where it was.
  initial = jax.tree.map(np.array, setting.params)
  setting.context = dataclasses.replace(setting.context, initial=initial)
  assert setting.measure(norms.Norms())['distance_from_start'] == 0
  moved = setting.state._replace(params=jax.tree.map(lambda x: x + 0.5, setting.params))
  expected = 0.5 * np.sqrt(sum(x.size for x in leaves))
  assert setting.measure(norms.Norms(), moved)['distance_from_start'] == pytest.approx(expected)


def test_the_target_gap_and_coadaptation():
  setting = Setting(MLP)
  target = setting.init(jax.random.PRNGKey(5))
  found = setting.measure(values.Values(), setting.state._replace(target_params=target))
  batch = setting.batch
  here, there = (outputs(setting, setting.params, s) for s in (batch.state, batch.next_state))
  apart = here.q_values - outputs(setting, target, batch.state).q_values
  assert found['q_target_gap'] == pytest.approx(np.sqrt(np.mean(apart**2)), rel=1e-5)
  goes_on = batch.discount > 0
  phi, after = here.features[goes_on], there.features[goes_on]
  products = np.sum(phi * after, axis=1)
  cosines = products / np.linalg.norm(phi, axis=1) / np.linalg.norm(after, axis=1)
  assert found['coadaptation'] == pytest.approx(products.mean(), rel=1e-5)
  assert found['coadaptation_cosine'] == pytest.approx(cosines.mean(), rel=1e-5)
  ended = jnp.zeros(4)
  assert np.isnan(values.coadaptation(jnp.ones((4, 2)), jnp.ones((4, 2)), ended)[0])


def test_the_held_out_error_is_that_of_other_transitions():
  setting = Setting(MLP)
  unseen = Setting(MLP, size=24).batch._replace(reward=np.full(24, 5.0, np.float32))
  target = setting.init(jax.random.PRNGKey(5))
  state = setting.state._replace(target_params=target)
  measurements = setting.measurements(held_out.HeldOutError())
  assert measurements.take(0, state, setting.batch) == {}  # None are held out.
  found = measurements.take(0, state, setting.batch, unseen)
  q = outputs(setting, setting.params, unseen.state).q_values[np.arange(24), unseen.action]
  after = outputs(setting, target, unseen.next_state).q_values.max(axis=1)
  errors = 5 + setting.discount * unseen.discount * after - q
  assert found == {'held_out_td_error': pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)}


def test_ranks_of_every_layer_and_of_target_features():
  setting = Setting(MLP, size=80, hidden_units=(32, 16))
  target = setting.init(jax.random.PRNGKey(5))
  state = setting.state._replace(target_params=target)
  found = setting.measure(layer_ranks.LayerRanks(states=60), state)
  here = setting.network.apply(setting.params, setting.batch.state)
  after = setting.network.apply(target, setting.batch.next_state[:60])
  matrices = {name: layer.activation[:60] for name, layer in here.layers.items()}
  for name, matrix in {**matrices, 'target': after.features}.items():
    matrix = np.float64(matrix)
    for prefix, of in (('', matrix), ('centred_', matrix - matrix.mean(axis=0))):
      sigma = np.linalg.svd(of, compute_uv=False)
      held = np.cumsum(sigma**2) / np.sum(sigma**2)
      assert found[f'{prefix}pca_rank/{name}'] == 1 + np.argmax(held >= 0.99)
      share = sigma[sigma > 0] / sigma.sum()
      entropy = np.exp(-np.sum(share * np.log(share)))
      assert found[f'{prefix}effective_rank/{name}'] == pytest.approx(entropy, rel=1e-4)
  assert found['eigenvalue_srank'] == rank.eigenvalue_srank(here.features[:16])
  few = setting.measure(layer_ranks.LayerRanks(states=8), state)
  assert few['srank/Dense_0'] <= 8
  setting.batch = base.first(setting.batch, 10)
  assert 'eigenvalue_srank' not in setting.measure(layer_ranks.LayerRanks())


def test_gradient_dormant_units_and_the_effective_learning_rate():
  setting = Setting(MLP, hidden_units=(8, 8))
  rate = 0.01
  setting.context = dataclasses.replace(setting.context, optimizer=optax.sgd(rate))
  params = jax.tree.map(jnp.array, setting.params)
  params['params']['Dense_1']['bias'] = params['params']['Dense_1']['bias'].at[:5].set(-1e3)
  state = setting.state._replace(
    params=params, target_params=params, optimizer_state=setting.context.optimizer.init(params)
  )
  found = setting.measure(gradients.Gradients(), state)
  target = jax.lax.stop_gradient(params)
  loss = lambda p: setting.context.loss(p, target, setting.batch, KEY)[0]
  gradient = jax.grad(loss)(params)
  size = np.linalg.norm(np.float64(ravel_pytree(gradient)[0]))
  weights = np.linalg.norm(np.float64(ravel_pytree(params)[0]))
  assert found['gradient_norm'] == pytest.approx(size, rel=1e-5)
  assert found['effective_learning_rate'] == pytest.approx(rate * size / weights, rel=1e-5)
  for name in ('Dense_0', 'Dense_1'):
    scores = np.abs(np.float64(gradient['params'][name]['kernel'])).mean(axis=0)
    share = np.mean(scores <= 0.025 * scores.mean())
    assert found[f'gradient_dormant_units/{name}'] == pytest.approx(share)
  assert found['gradient_dormant_units/Dense_1'] >= 5 / 8


def test_churn_is_the_change_on_the_half_that_was_not_learnt():
  setting = Setting(MLP)
  found = setting.measure(churn.Churn(updates=3, batch_size=8))
  half = len(setting.batch.reward) // 2
  trained, held = (
    jax.tree.map(lambda x, part=part: x[part], setting.batch)
    for part in (slice(half), slice(half, None))
  )
  params, optimizer_state = setting.state.params, setting.state.optimizer_state
  keys = setting.key_of('one')
  for key in jax.random.split(keys, 3):
    draw_key, loss_key = jax.random.split(key)
    rows = np.asarray(jax.random.randint(draw_key, (8,), 0, half))
    some = jax.tree.map(lambda x, rows=rows: x[rows], trained)
    gradient = jax.grad(
      lambda p, some=some, k=loss_key: setting.context.loss(p, setting.params, some, k)[0]
    )(params)
    changes, optimizer_state = setting.context.optimizer.update(gradient, optimizer_state)
    params = optax.apply_updates(params, changes)
  before, after = (outputs(setting, p, held.state).q_values for p in (setting.params, params))
  assert found['churn_values'] == pytest.approx(np.mean(np.abs(after - before)), rel=1e-3)
  assert found['churn_actions'] == np.mean(after.argmax(1) != before.argmax(1))
  setting.context = dataclasses.replace(setting.context, optimizer=optax.sgd(0.0))
  state = setting.state._replace(optimizer_state=setting.context.optimizer.init(setting.params))
  still = setting.measure(churn.Churn(updates=2), state)
  assert still == {'churn_values': 0, 'churn_actions': 0}

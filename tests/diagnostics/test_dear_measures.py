"""The dear measures: plasticity, tangent kernel, sharpness, probes; and all of them in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from implicit_rl.diagnostics import ntk, plasticity, probes, sharpness
from implicit_rl.networks import MLP
from implicit_rl.types import QOutputs
from tests.cases import cases
from tests.command_line import MUJOCO, MUJOCO_REPLAY, OFFLINE, ONLINE, run
from tests.diagnostics.setting import KEY, Setting

SMALL = {
  'Churn.updates': 2,
  'LayerRanks.states': 8,
  'NeuralTangentKernel.states': 8,
  'PlasticityProbe.steps': 2,
  'PlasticityProbe.tasks': 1,
  'Sharpness.states': 8,
  'Sharpness.steps': 2,
  'Sharpness.probes': 2,
}


def test_fresh_against_fresh_is_one_and_dead_units_learn_worse():
  setting = Setting(MLP, size=256)
  probe = plasticity.PlasticityProbe(tasks=6, steps=150)
  fresh = setting.measure(probe)
  assert fresh['plasticity_error_ratio'] == pytest.approx(1, abs=0.05)
  params = jax.tree.map(jnp.array, setting.params)
  for layer in ('Dense_0', 'Dense_1'):  # 58% of its units are dead.
    params['params'][layer]['bias'] = params['params'][layer]['bias'].at[:37].set(-1e3)
  dead = setting.measure(probe, setting.state._replace(params=params))
  assert dead['plasticity_error_ratio'] > 1.2
  assert dead == setting.measure(probe, setting.state._replace(params=params))
  # Large values are no lost plasticity.
  loud = jax.tree.map(jnp.array, setting.params)
  loud['params']['Dense_2']['bias'] = loud['params']['Dense_2']['bias'] + 1000.0
  told = setting.measure(probe, setting.state._replace(params=loud))
  assert told['plasticity_error_ratio'] == pytest.approx(fresh['plasticity_error_ratio'], rel=0.05)


def dense_gradients(function, params, inputs):
  rows = [
    ravel_pytree(jax.grad(function)(params, jax.tree.map(lambda x, i=i: x[i], inputs)))[0]
    for i in range(len(jax.tree.leaves(inputs)[0]))
  ]
  return np.float64(np.stack(rows))


@pytest.mark.parametrize('chunk', cases(((one,) for one in [1, 4, 5, 64]), (5).__eq__))
def test_the_kernel_equals_dense_gradients_in_any_chunks(chunk):
  setting = Setting(MLP, size=20, hidden_units=(8, 8))
  value = lambda params, s: setting.network.apply(params, s[None]).q_values[0, 1]
  other = lambda params, s: jnp.max(setting.network.apply(params, s[None]).q_values)
  rows, columns = setting.batch.state[:8], setting.batch.next_state
  found = ntk.gram(value, setting.params, rows, columns, other, chunk=chunk)
  a = dense_gradients(value, setting.params, rows)
  b = dense_gradients(other, setting.params, columns)
  np.testing.assert_allclose(found, a @ b.T, rtol=1e-4, atol=1e-4)


def test_the_kernel_holds_the_gradients_of_two_chunks_at_most():
  setting = Setting(MLP, size=256)
  value = lambda params, s: setting.network.apply(params, s[None]).q_values[0, 1]

  def memory(size):
    states = setting.batch.state[:size]
    kernel = jax.jit(lambda params, s: ntk.gram(value, params, s, s, chunk=8))
    return kernel.lower(setting.params, states).compile().memory_analysis().temp_size_in_bytes

  weights = sum(x.size * 4 for x in jax.tree.leaves(setting.params))
  few, many = memory(16), memory(256)
  assert few > 8 * weights  # Of one chunk.
  assert many - few < 3 * 4 * 256**2  # The kernel itself, and copies; not 240 more gradients.
  assert 240 * weights > 3 * 4 * 256**2


@pytest.mark.parametrize(('growth', 'diverges'), [(1.0, False), (2.0, True)])
def test_seem_is_positive_where_linear_td_diverges(growth, diverges):
  """Q(s) = w·s and s′ = growth · s: with γ = 0.9 the error shrinks by 1 or grows by 2."""
  setting = Setting(MLP, size=16)
  weights = {'w': jnp.full((6,), 0.1)}
  linear = lambda params, states: QOutputs(
    *2 * [jnp.repeat(states[:, 0] @ params['w'][:, None], 3, axis=1)]
  )
  state = setting.batch.state
  batch = setting.batch._replace(
    next_state=np.float32(growth) * state,
    discount=np.ones(16, np.float32),
    reward=np.zeros(16, np.float32),
  )
  setting.batch = batch
  setting.use(linear)
  learner = setting.state._replace(params=weights, target_params=weights)
  found = setting.measure(ntk.NeuralTangentKernel(states=16, chunk=8), learner)
  x = np.float64(state[:, 0])
  expected = np.linalg.eigvals(0.9 * growth * x @ x.T - x @ x.T).real.max()
  assert found['seem_eigenvalue'] == pytest.approx(expected, rel=1e-4, abs=1e-4)
  w = np.full(6, 0.1)
  for _ in range(3000):  # Semi-gradient TD, as the theory has it.
    w = w + 0.01 * x.T @ (0.9 * growth * x @ w - x @ w) / len(x)
  assert (np.abs(w).max() > 1e3) == diverges
  assert (found['seem_eigenvalue'] > 1e-3) == diverges
  assert found['ntk_srank'] <= 6  # Of the six inputs.


def test_the_hessian_equals_a_dense_one():
  setting = Setting(MLP, size=32, hidden_units=(6,))
  found = setting.measure(sharpness.Sharpness(states=32, steps=300, probes=3000))
  flat, unravel = ravel_pytree(setting.params)
  loss = lambda p: setting.context.loss(
    unravel(p), setting.params, setting.batch, setting.state.key
  )[0]
  dense = np.float64(jax.hessian(loss)(flat))
  eigenvalues = np.linalg.eigvalsh((dense + dense.T) / 2)
  assert found['hessian_max_eigenvalue'] == pytest.approx(eigenvalues[-1], rel=2e-3)
  off_diagonal = dense - np.diag(np.diag(dense))
  error = np.sqrt(2 * np.sum(off_diagonal**2) / 3000)  # One standard deviation of the estimate.
  assert abs(found['hessian_trace'] - np.trace(dense)) < 5 * error


def test_the_largest_eigenvalue_is_not_the_largest_in_size():
  matrix = jnp.diag(jnp.float32([-5.0, 3.0, 1.0]))
  largest = sharpness.largest_eigenvalue(lambda v: matrix @ v, jnp.zeros(3), KEY, 200)
  assert largest == pytest.approx(3, rel=1e-4)
  negative = sharpness.largest_eigenvalue(lambda v: -v, jnp.zeros(3), KEY, 50)
  assert negative == pytest.approx(-1, rel=1e-4)


def test_ridge_equals_scikit_learn():
  """Recorded of scikit-learn 1.9.1: Ridge(alpha=2.0).fit on 40 rows, r2_score on the other 20."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 5)) + 3
  y = x @ rng.normal(size=(5, 2)) + rng.normal(size=(60, 2))
  x, y = np.float32(x), np.float32(y)
  coefficients, intercepts = probes.ridge(x[:40], y[:40], jnp.ones(40), 2.0)
  expected = [
    [1.23715124, 0.50793095],
    [0.77933496, -3.56458978],
    [0.08383351, -0.40520882],
    [-0.03389604, -0.62521128],
    [-0.2116014, 0.35639671],
  ]
  np.testing.assert_allclose(coefficients, expected, atol=1e-4)
  np.testing.assert_allclose(intercepts, [0.34386721, 1.04647692], atol=1e-3)
  score = probes.explained(x[40:] @ coefficients + intercepts[None], y[40:], jnp.ones(20))
  np.testing.assert_allclose(score, [0.74039444, 0.89191367], atol=1e-4)
  assert np.all(np.isnan(probes.explained(y, 0 * y, jnp.ones(60))))


def ridge_prediction(x, y, x_new, alpha):
  """Least squares in float64 with rows √α·I below the centred features."""
  wide = np.concatenate([x - x.mean(axis=0), np.sqrt(alpha) * np.eye(x.shape[1])])
  aim = np.concatenate([y - y.mean(axis=0), np.zeros((x.shape[1], y.shape[1]))])
  return (x_new - x.mean(axis=0)) @ np.linalg.lstsq(wide, aim, rcond=None)[0] + y.mean(axis=0)


def test_probes_are_tested_on_the_other_half_where_returns_are_known():
  setting = Setting(MLP, size=400, hidden_units=(32, 16))
  batch = setting.batch
  returns = np.where(np.arange(400) % 5 == 0, np.nan, batch.state[:, 0, 0] ** 2).astype(np.float32)
  action = (batch.state[:, 0, 1] > 0).astype(np.int32)
  setting.batch = batch._replace(return_to_go=returns, action=action)
  found = setting.measure(probes.LinearProbes(alpha=2.0))
  phi = np.float64(setting.network.apply(setting.params, batch.state).features)
  phi /= np.sqrt(phi.var(axis=0).mean())
  known = ~np.isnan(returns)
  fit, test = known & (np.arange(400) < 200), known & (np.arange(400) >= 200)
  told = ridge_prediction(phi[fit], np.float64(returns[fit, None]), phi[test], 2.0)[:, 0]
  rest = np.sum((returns[test] - told) ** 2) / np.sum((returns[test] - returns[test].mean()) ** 2)
  assert found['probe_return_r2'] == pytest.approx(1 - rest, abs=1e-3)
  told = ridge_prediction(phi[:200], np.eye(3)[action[:200]], phi[200:], 2.0)
  accuracy = np.mean(told.argmax(axis=1) == action[200:])
  assert found['probe_action_accuracy'] == pytest.approx(accuracy, abs=0.01) and accuracy > 0.7
  setting.batch = setting.batch._replace(return_to_go=None)
  assert list(setting.measure(probes.LinearProbes())) == ['probe_action_accuracy']


@pytest.mark.slow
@pytest.mark.parametrize(
  ('gin_file', 'settings', 'keys'),
  [
    (
      'gin_configs/minatar/offline_qr_dqn.gin',
      OFFLINE | {'MinAtarCNN.hidden_units': 16},
      ('probe_return_r2', 'churn_actions', 'gradient_dormant_units/PatchConv_0'),
    ),
    (
      'gin_configs/mujoco/online_sac.gin',
      ONLINE | MUJOCO | MUJOCO_REPLAY | {'Agent.min_replay_history': 8},
      ('probe_action_r2', 'srank/critic_hidden_1/Dense_0', 'srank/target_2'),
    ),
  ],
)
@pytest.mark.exhaustive
def test_all_of_them_in_a_run(gin_file, settings, keys, tmp_path):
  (row,) = run(tmp_path, gin_file, 'gin_configs/diagnostics/all.gin', **settings, **SMALL)
  common = (
    'plasticity_error_ratio seem_eigenvalue ntk_srank hessian_max_eigenvalue hessian_trace '
    'churn_values effective_learning_rate weight_norm distance_from_start q_target_gap '
    'coadaptation_cosine'
  )
  for name in (*common.split(), *keys):
    assert name in row
  for name in common.split():
    assert isinstance(row[name], float), name

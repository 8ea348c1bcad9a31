"""The measures against NumPy float64 on the matrices that they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.gridworld import fitted_q, measures, oracle, problem
from implicit_rl.gridworld.config import FittedQConfig

# Compiled once for the tests of a shape.
INIT = jax.jit(fitted_q.init_run, static_argnums=0)
MEASURE = jax.jit(measures.measure, static_argnames='hard')


def numpy_srank(values, delta=0.01):
  values = np.sort(np.abs(values))[::-1]
  return int(np.argmax(np.cumsum(values) / values.sum() >= 1 - delta)) + 1


@pytest.fixture(scope='module', params=[64, 210])
def measured(request):
  """A random network's outputs, with fewer and with more features than free cells."""
  config = FittedQConfig(hidden_units=(32, request.param), data_size=3000)
  made = problem.make_problem(config, 1)
  program = fitted_q.program_of(config)
  state = INIT(program, made, jnp.uint32(1))
  outputs = fitted_q.on_all_cells(program, state.learner.params, made)
  key = jax.random.key(7)
  row = MEASURE(made, made.memory, outputs, state.targets, key, hard=False)
  return made, state, outputs, key, jax.tree.map(np.asarray, row)


def test_ranks_are_those_of_the_repeated_rows(measured):
  made, _, outputs, key, row = measured
  drawn = np.asarray(jax.random.randint(key, (2048,), 0, 3000))
  features = np.asarray(outputs.features, np.float64)
  repeated = features[np.asarray(made.memory.state)[drawn]]  # [2048, d]
  values = np.linalg.svd(repeated, compute_uv=False)
  assert row['srank'] == numpy_srank(values)
  np.testing.assert_allclose(row['sigma_max'], values[0], rtol=1e-5)
  assert row['feature_norm'] == pytest.approx(np.linalg.norm(repeated, axis=1).mean(), rel=1e-5)
  assert row['dead_units'] == pytest.approx((repeated == 0).all(axis=0).mean())
  reference = features[np.asarray(made.free)]
  values = np.linalg.svd(reference, compute_uv=False)
  assert row['reference_srank'] == numpy_srank(values)
  np.testing.assert_allclose(row['reference_spectrum'], values, atol=1e-5 * values[0])
  assert len(reference) == 205


def test_eigenvalue_rank_is_that_of_the_square_matrix(measured):
  made, _, outputs, _, row = measured
  reference = np.asarray(outputs.features, np.float64)[np.asarray(made.free)]
  square = reference[np.asarray(made.eigen_rows)]
  assert square.shape[0] == square.shape[1]
  assert abs(row['eigen_srank'] - numpy_srank(np.linalg.eigvals(square))) <= 1  # float32 tail
  assert row['eigen_batch_srank'] == numpy_srank(np.linalg.svd(square, compute_uv=False))


def test_values_and_errors_against_the_oracle(measured):
  made, state, outputs, key, row = measured
  free = np.asarray(made.free)
  q = np.asarray(outputs.q_values, np.float64)
  world, q_optimal, low, high = problem.solve(1, 'distance', 'smooth', 0.95, 0.1)
  features = np.asarray(outputs.features, np.float64)[free]
  fit = oracle.linear_fit_error(features, q_optimal[free])
  if features.shape[1] <= 64:  # With more features than cells float32 decides what fits.
    assert row['q_fit_error'] == pytest.approx(fit, rel=0.02)
  assert row['q_error'] == pytest.approx(np.abs(q - q_optimal)[free].mean(), rel=1e-5)
  backed_up = oracle.backup(world, oracle.state_values(q, 0.1))
  assert row['bellman_error'] == pytest.approx(
    np.sqrt(np.square(backed_up - q)[free].mean()), rel=1e-4
  )
  value = oracle.episode_return(world, oracle.soft_policy(q, 0.1))
  assert row['eval_return'] == pytest.approx((value - low) / (high - low), abs=1e-4)
  drawn = np.asarray(jax.random.randint(key, (2048,), 0, 3000))
  data = jax.tree.map(np.asarray, made.memory)
  gap = np.asarray(state.targets)[drawn] - q[data.state[drawn], data.action[drawn]]
  assert row['td_error'] == pytest.approx(np.sqrt(np.square(gap).mean()), rel=1e-4)


def test_the_optimum_scores_one_and_uniform_values_score_zero():
  for temperature in (0.0, 0.1):
    config = FittedQConfig(temperature=temperature)
    made = problem.make_problem(config, 2)
    low, high = made.return_range
    hard = temperature == 0
    best = measures.episode_return(made, measures.policy_of(made.q_optimal, made.temperature, hard))
    assert float((best - low) / (high - low)) == pytest.approx(1.0, abs=1e-3)
    uniform = measures.episode_return(made, jnp.full((256, 5), 0.2))
    assert float(uniform) == pytest.approx(float(low), rel=1e-5)


def test_non_finite_features_have_no_rank():
  config = FittedQConfig(hidden_units=(32, 64), data_size=3000)
  made = problem.make_problem(config, 0)
  program = fitted_q.program_of(config)
  state = INIT(program, made, jnp.uint32(0))
  outputs = fitted_q.on_all_cells(program, state.learner.params, made)
  broken = outputs._replace(features=outputs.features.at[3, 2].set(jnp.inf))
  row = MEASURE(made, made.memory, broken, state.targets, jax.random.key(0), hard=False)
  assert all(np.isnan(np.asarray(value)).all() for value in row.values())


def test_linear_fit_error_of_deficient_features():
  rng = np.random.default_rng(0)
  low_rank = rng.normal(size=(205, 6)) @ rng.normal(size=(6, 64))
  q = rng.normal(size=(205, 5))
  left, values, _ = jnp.linalg.svd(jnp.asarray(low_rank, jnp.float32), full_matrices=False)
  got = measures.linear_fit_error(left, values, jnp.asarray(q, jnp.float32))
  assert float(got) == pytest.approx(oracle.linear_fit_error(low_rank, q), rel=1e-3)


def test_problem_shares_worlds_between_configurations():
  base = FittedQConfig(data_size=100)
  first = problem.make_problem(base, 5)
  second = problem.make_problem(dataclasses.replace(base, steps=10), 5)
  np.testing.assert_array_equal(first.memory.state, second.memory.state)
  np.testing.assert_array_equal(first.observations, second.observations)
  other = problem.make_problem(dataclasses.replace(base, world_seed=9), 5)
  assert (np.asarray(first.observations) != np.asarray(other.observations)).any()

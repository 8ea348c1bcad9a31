"""The deep linear network against closed forms, finite differences and conserved quantities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.theory import bootstrapping, deep_linear, problems
from implicit_rl.theory.float64 import in_float64, sranks


def _case(depth=3, seed=0, d0=5, width=6, size=1.0):
  problem = problems.random_problem(seed, 9, d0)
  m = min(width, d0)
  start = deep_linear.balanced_init(seed, width, d0, size * np.linspace(0.5, 1, m), depth)
  return problem, start


@pytest.mark.parametrize('depth', [3, 4, 6])
def test_balanced_init(depth):
  _, weights = _case(depth)
  assert [w.shape for w in weights] == [(6, 5)] + [(6, 6)] * (depth - 2) + [(1, 6)]
  assert deep_linear.balancedness(weights) < 1e-14
  sigma = np.linalg.svd(deep_linear.feature_map(weights), compute_uv=False)
  np.testing.assert_allclose(sigma, np.linspace(1, 0.5, 5), atol=1e-14)


def test_balanced_init_rejects_a_shallow_network():
  with pytest.raises(ValueError, match='depth >= 3'):
    deep_linear.balanced_init(0, 4, 4, np.ones(4), 2)


def test_balancedness_sees_an_unbalanced_network():
  assert deep_linear.balancedness(deep_linear.gaussian_init(0, 6, 5, 4)) > 0.1


def test_flow_of_a_scalar_chain_follows_its_separable_equation():
  """With all sizes 1 and equal weights a, L = (a^3 - y)², so da/dt = -2(a^3 - y)a²."""
  y, one = np.array([2.0]), np.ones((1, 1))
  times = np.linspace(0, 0.3, 4)
  history = deep_linear.gradient_flow((0.8 * one,) * 3, one, y, times)
  a, n = 0.8, 30_000  # classical Runge-Kutta, written out
  f = lambda a: -2 * (a**3 - 2.0) * a**2
  for _ in range(n):
    h = 0.3 / n
    k1, k2 = f(a), f(a + h / 2 * f(a))
    k3 = f(a + h / 2 * k2)
    a += h / 6 * (k1 + 2 * k2 + 2 * k3 + f(a + h * k3))
  for w in history:
    np.testing.assert_allclose(w[-1, 0, 0], a, rtol=1e-9)


def test_flow_matches_finite_differences_of_the_loss():
  problem, weights = _case()
  h, targets = 1e-6, problem.values()
  ends = [
    deep_linear.last(
      deep_linear.gradient_flow(weights, problem.inputs, targets, np.array([0.0, sign * h]))
    )
    for sign in (1, -1)
  ]
  value = lambda w: np.sum((problem.inputs @ deep_linear.end_to_end(w) - targets) ** 2)
  for layer, (after, before) in enumerate(zip(*ends, strict=True)):
    for at in ((0, 0), (0, 3)):
      moved = []
      for sign in (1, -1):
        shifted = [w.copy() for w in weights]
        shifted[layer][at] += sign * 1e-6
        moved.append(value(shifted))
      slope = (moved[0] - moved[1]) / 2e-6
      np.testing.assert_allclose((after - before)[at] / (2 * h), -slope, atol=1e-6)


def test_flow_conserves_balancedness_and_lowers_the_loss():
  problem, weights = _case(4)
  targets = problem.values()
  times = np.linspace(0, 2, 9)
  history = deep_linear.gradient_flow(weights, problem.inputs, targets, times)
  assert deep_linear.balancedness(deep_linear.last(history)) < 1e-10
  losses = [
    np.sum((problem.inputs @ deep_linear.end_to_end([w[t] for w in history]) - targets) ** 2)
    for t in range(9)
  ]
  assert np.all(np.diff(losses) < 0)


def test_flow_keeps_the_head_identity_without_balance():
  """d/dt (W_{j+1}^T W_{j+1} - W_j W_j^T) = 0 for any start, the head included."""
  problem, _ = _case()
  weights = deep_linear.gaussian_init(1, 6, 5, 4)
  end = deep_linear.last(
    deep_linear.gradient_flow(weights, problem.inputs, problem.values(), np.array([0.0, 1.0]))
  )
  gap = lambda w, j: w[j + 1].T @ w[j + 1] - w[j] @ w[j].T
  for j in range(3):
    np.testing.assert_allclose(gap(end, j), gap(weights, j), atol=1e-9)


def test_descent_tends_to_the_flow_at_first_order():
  problem, weights = _case()
  targets = problem.values()
  flow = deep_linear.last(
    deep_linear.gradient_flow(weights, problem.inputs, targets, np.array([0.0, 1.0]))
  )
  gaps = []
  for n in (400, 800, 1600):
    run = deep_linear.gradient_descent(weights, problem.inputs, targets, 1 / n, n, n)
    gaps.append(max(np.max(np.abs(a[-1] - b)) for a, b in zip(run, flow, strict=True)))
  ratios = np.array(gaps[:-1]) / np.array(gaps[1:])
  np.testing.assert_allclose(ratios, 2, rtol=0.05)


def test_descent_is_numpy_descent():
  problem, weights = _case()
  x, y = problem.inputs, problem.values()
  run = deep_linear.gradient_descent(weights, x, y, 0.05, 6, 2)
  w1, w2, w3 = weights
  for step in range(6):
    g = 2 * x.T @ (x @ (w3 @ w2 @ w1)[0] - y)[:, None]  # [d0, 1]
    w1, w2, w3 = (
      w1 - 0.05 * (w3 @ w2).T @ g.T,
      w2 - 0.05 * w3.T @ (w1 @ g).T,
      w3 - 0.05 * (w2 @ w1 @ g).T,
    )
    if step % 2:
      for got, want in zip(run, (w1, w2, w3), strict=True):
        np.testing.assert_allclose(got[step // 2], want, atol=1e-13)


@pytest.mark.parametrize(
  'depth',
  [3, pytest.param(4, marks=pytest.mark.exhaustive), pytest.param(5, marks=pytest.mark.exhaustive)],
)
def test_proposition_41_holds_with_depth_minus_one(depth):
  problem, weights = _case(depth)
  targets = problem.values()
  measured = deep_linear.measured_velocity(weights, problem.inputs, targets, h=1e-5)
  predicted = deep_linear.predicted_velocity(weights, problem.inputs, targets)
  np.testing.assert_allclose(predicted, measured, atol=1e-5 * np.max(np.abs(measured)))
  printed = deep_linear.predicted_velocity(weights, problem.inputs, targets, factor=depth)
  np.testing.assert_allclose(printed, measured * depth / (depth - 1), rtol=1e-3, atol=1e-4)


def test_lstd_solves_the_projected_equation():
  problem, _ = _case()
  w = bootstrapping.lstd(problem)
  q = problem.inputs @ w
  projected = np.linalg.lstsq(problem.inputs, problem.backup(q), rcond=None)[0]
  np.testing.assert_allclose(projected, w, atol=1e-12)
  tabular = problems.random_problem(3, 7, 7)
  np.testing.assert_allclose(bootstrapping.lstd(tabular), tabular.values(), atol=1e-12)


def test_rounds_approach_the_fixed_point_and_twins_their_targets():
  problem, weights = _case(size=0.8)
  best = problem.inputs @ bootstrapping.lstd(problem)
  run = bootstrapping.run(weights, problem, 40, 500, 0.02)
  np.testing.assert_allclose(run.q[-1], best, atol=1e-5)
  assert run.sigma.shape == (41, 5) and run.sigma_features.shape == (41, 6)
  twin = bootstrapping.run(weights, problem, 40, 500, 0.02, fixed_targets=best)
  np.testing.assert_allclose(twin.q[-1], best, atol=1e-5)
  np.testing.assert_allclose(twin.td_error[-1], 0, atol=1e-5)


def test_self_training_does_not_move():
  problem, weights = _case()
  same = problem._replace(rewards=np.zeros(9), transition=np.eye(9), discount=1.0)
  run = bootstrapping.run(weights, same, 3, 50, 0.02)
  np.testing.assert_array_equal(run.sigma[-1], run.sigma[0])


def test_rounds_that_diverge_say_so():
  problem, weights = _case()
  with pytest.raises(ValueError, match='smaller step_size'):
    bootstrapping.run(weights, problem, 5, 100, 1e3)


def test_expressing_features_express_with_the_least_change():
  rng = np.random.default_rng(0)
  w_phi, head, wanted = rng.normal(size=(4, 3)), rng.normal(size=(1, 4)), rng.normal(size=3)
  got = np.asarray(bootstrapping.expressing_features(w_phi, head, wanted))
  np.testing.assert_allclose(head[0] @ got, wanted, atol=1e-5)
  system = np.kron(head, np.eye(3))  # [3, 12]: head @ Z for row-major Z
  least = np.linalg.lstsq(system, wanted - head[0] @ w_phi, rcond=None)[0].reshape(4, 3)
  np.testing.assert_allclose(got - w_phi, least, atol=1e-5)


@pytest.mark.parametrize('seed', range(8))
def test_repaired_neighbourhood_keeps_the_rank(seed):
  """Weyl's inequality: within the repaired ε₀ no direction raises srank, at any input scale."""
  rng = np.random.default_rng(seed)
  sigma = np.sort(rng.exponential(size=6))[::-1] ** 3
  weights = deep_linear.balanced_init(seed, 6, 6, sigma, 3)
  inputs = 10.0 ** rng.uniform(-3, 3) * rng.normal(size=(11, 6))
  radius = bootstrapping.neighbourhood(weights, inputs).repaired
  w_phi, head = deep_linear.feature_map(weights), weights[-1][0]
  before = sranks(np.linalg.svd(w_phi, compute_uv=False))
  e = rng.normal(size=(200, 6))
  e *= 0.999 * radius / np.linalg.norm(e @ inputs.T, axis=1, keepdims=True)
  moved = w_phi + head[:, None] * e[:, None, :] / np.sum(head**2)
  assert np.all(sranks(np.linalg.svd(moved, compute_uv=False)) <= before)


def test_rank_gap_by_hand():
  r, gap = bootstrapping.rank_gap(np.array([8.0, 1.0, 1.0]), delta=0.15)  # 0.8, 0.9, 1 of 10
  assert r == 2 and gap == pytest.approx(9 - 0.85 * 10)


def test_float64_is_scoped():
  double = in_float64(lambda x: jnp.asarray(x) + 1e-12)
  got = double(np.ones(2))
  assert isinstance(got, np.ndarray) and got.dtype == np.float64 and got[0] > 1
  assert jnp.asarray(1.0).dtype == jnp.float32 and not jax.config.jax_enable_x64
  with pytest.raises(ValueError, match='diverge'):
    sranks(np.array([[np.nan, 1.0]]))

"""Bootstrap rounds of a deep linear network, the exact fixed point, Theorem 4.2's ε₀."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.theory import deep_linear
from implicit_rl.theory.deep_linear import Weights
from implicit_rl.theory.float64 import in_float64, sranks
from implicit_rl.theory.problems import Problem


class Rounds(NamedTuple):
  """Records of K fitting iterations; index 0 is the start, so all have length K + 1.

  Attributes:
    q: [K+1, n] values at every pair.
    sigma: [K+1, m] singular values of W_φ.
    sigma_features: [K+1, min(n, d)] singular values of Φ = X W_φ^T.
    sigma_target: [K+1, m] singular values of W_φ^P, the features that would express the round's
      target exactly with the same head; row 0 repeats the start.
    td_error: [K+1] ||Q_k - y_k|| over all pairs after fitting; 0 at the start.
  """

  q: np.ndarray
  sigma: np.ndarray
  sigma_features: np.ndarray
  sigma_target: np.ndarray
  td_error: np.ndarray


def lstd(problem: Problem) -> np.ndarray:
  """[d0] w with X w the fixed point of the projected Bellman operator, uniform data weights.

  Solves X^T (X - γP^πX) w = X^T R exactly (Bradtke and Barto 1996).
  """
  x, p = problem.inputs, problem.transition
  return np.linalg.solve(x.T @ (x - problem.discount * p @ x), x.T @ problem.rewards)


def expressing_features(w_phi, head, w_target):
  """[d, d0] the features closest to w_phi with head @ features = w_target.

  W_φ + W_N^T (w_target - W_N W_φ) / ||W_N||²: Theorem 4.2's W_φ' = W_φ + ζ with the smallest ζ.
  """
  return w_phi + jnp.outer(head[0], w_target - head[0] @ w_phi) / jnp.sum(head**2)


@in_float64
@functools.partial(jax.jit, static_argnames=('rounds', 'steps', 'bootstrap'))
def _run(weights, inputs, rewards, operator, inverse, fixed, step_size, rounds, steps, bootstrap):
  def fit(w, _):
    q = inputs @ deep_linear.end_to_end(w)
    targets = rewards + operator @ q if bootstrap else fixed
    wanted = expressing_features(deep_linear.feature_map(w), w[-1], inverse @ targets)
    descend = lambda _, w: jax.tree.map(
      lambda a, g: a - step_size * g, w, jax.grad(deep_linear.loss)(w, inputs, targets)
    )
    w = jax.lax.fori_loop(0, steps, descend, w)
    q = inputs @ deep_linear.end_to_end(w)
    return w, (q, deep_linear.feature_map(w), wanted, jnp.linalg.norm(q - targets))

  start = deep_linear.feature_map(weights)
  first = (inputs @ deep_linear.end_to_end(weights), start, start, jnp.zeros(()))
  rest = jax.lax.scan(fit, weights, length=rounds)[1]
  return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def run(
  weights: Weights,
  problem: Problem,
  rounds: int,
  steps: int,
  step_size: float,
  fixed_targets: np.ndarray | None = None,
) -> Rounds:
  """Fitted Q-evaluation: `rounds` times, freeze the targets and take `steps` gradient steps.

  Args:
    weights: the initial weights.
    problem: inputs, rewards and dynamics.
    rounds: fitting iterations.
    steps: gradient updates per fitting iteration.
    step_size: of gradient descent.
    fixed_targets: [n] targets of every round instead of bootstrapped ones (the supervised twin).
  """
  operator = problem.discount * problem.transition
  inverse = np.linalg.pinv(problem.inputs)  # closure: the target's best linear expression
  fixed = np.zeros_like(problem.rewards) if fixed_targets is None else fixed_targets
  data = (problem.inputs, problem.rewards, operator, inverse, fixed, step_size)
  q, w_phi, wanted, error = _run(weights, *data, rounds, steps, fixed_targets is None)
  values = lambda matrices: np.asarray(np.linalg.svd(matrices, compute_uv=False))
  if not np.all(np.isfinite(q)):
    raise ValueError('bootstrapping.run: values are not finite; use a smaller step_size')
  features = problem.inputs @ np.swapaxes(w_phi, 1, 2)
  return Rounds(q, values(w_phi), values(features), values(wanted), error)


def rank_gap(sigma: np.ndarray, delta: float = 0.01) -> tuple[int, float]:
  """Returns (r, Σ_{i<=r} σ_i - (1 - δ) Σ_i σ_i): srank r and its margin."""
  r = int(sranks(sigma, delta))
  return r, float(np.sum(sigma[:r]) - (1 - delta) * np.sum(sigma))


class Neighbourhood(NamedTuple):
  """Theorem 4.2's ε₀ in three interpretations, as bounds on the change ε = y_k - Q_{k-1}.

  Attributes:
    printed_max: the paper's with ||W_N||_∞ as the largest entry, a bound on max |ε(s, a)|.
    printed_sum: the paper's with ||W_N||_∞ as the operator norm (sum of |entries|).
    repaired: a correct bound on ||ε||_2: ||W_N||_2 σ_min(X) gap / (r + m).
  """

  printed_max: float
  printed_sum: float
  repaired: float


def neighbourhood(weights: Weights, inputs: np.ndarray, delta: float = 0.01) -> Neighbourhood:
  """ε₀ of Theorem 4.2 at these weights.

  The repair: ||ζ||_2 = ||e||_2 / ||W_N||_2 for the smallest ζ with W_N ζ = e, ||e||_2 <= ||ε||_2 /
  σ_min(X), and Weyl's |σ_i(W_φ + ζ) - σ_i(W_φ)| <= ||ζ||_2 in place of a bound by ζ's entries.
  """
  sigma = np.linalg.svd(deep_linear.feature_map(weights), compute_uv=False)
  r, gap = rank_gap(sigma, delta)
  radius, head = gap / (r + len(sigma)), np.abs(weights[-1])
  smallest = np.linalg.svd(inputs, compute_uv=False)[-1]
  repaired = float(np.linalg.norm(head) * smallest * radius)
  return Neighbourhood(float(head.max() * radius), float(head.sum() * radius), repaired)

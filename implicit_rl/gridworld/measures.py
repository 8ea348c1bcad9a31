"""Measures of a logged fitting iteration, on the training data and on a fixed reference set.

The reference set is every free cell, so a rank there cannot change with the data. Features depend
only on the cell, so Φ of n transitions has the singular values of the S distinct rows, each scaled
by √(its number of occurrences): exact, and an SVD of 256 rows instead of 2048.

Shapes: S cells, A actions, F free cells, N transitions, d features.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from implicit_rl import rank
from implicit_rl.gridworld.problem import Memory, Problem
from implicit_rl.types import QOutputs

SAMPLE = 2048  # transitions of the training data on which the paper measures srank (Section 3)
HORIZON = 50  # environment steps of an evaluation episode


def state_values(q_values: jax.Array, temperature: jax.Array, hard: bool) -> jax.Array:
  """Returns [S] the hard maximum of `q_values` [S, A], or τ log Σ exp(Q/τ)."""
  if hard:
    return q_values.max(axis=1)
  return temperature * jax.nn.logsumexp(q_values / temperature, axis=1)


def policy_of(q_values: jax.Array, temperature: jax.Array, hard: bool) -> jax.Array:
  """Returns the [S, A] policy ∝ exp(Q/τ), or the greedy one."""
  if hard:
    return jax.nn.one_hot(q_values.argmax(axis=1), q_values.shape[1])
  return jax.nn.softmax(q_values / temperature, axis=1)


def episode_return(problem: Problem, policy: jax.Array) -> jax.Array:
  """Returns [] the exact expected reward of one 50-step episode of `policy` [S, A]."""
  rewards = jnp.sum(policy * problem.rewards, axis=1)  # [S]
  matrix = jnp.einsum('sa,sat->st', policy, problem.transitions)  # [S, S]
  step = lambda values, _: (rewards + matrix @ values, None)
  values, _ = jax.lax.scan(step, jnp.zeros_like(rewards), length=HORIZON)
  return values[problem.start]


def linear_fit_error(left: jax.Array, values: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns [] min_W mean((ΦW - Q)²), the paper's Figure 4a, from the SVD of Φ [F, d].

  Args:
    left: [F, m] left singular vectors.
    values: [m] singular values, largest first.
    targets: [F, A] Q.
  """
  size = max(len(left), len(values))
  kept = values > values[0] * size * jnp.finfo(values.dtype).eps  # [m]
  basis = jnp.where(kept[None, :], left, 0.0)
  return jnp.mean(jnp.square(targets - basis @ (basis.T @ targets)))


def eigenvalue_norms(features: jax.Array, rows: jax.Array) -> jax.Array:
  """Returns |eigenvalues| of the square matrix features[rows], where rows are d of the F inputs.

  With d > F rows repeat: the matrix is R·Φ with R [d, F] picking rows, and its non-zero eigenvalues
  are those of the small Φ·R [F, F].
  """
  if len(rows) <= len(features):
    return jnp.abs(jnp.linalg.eigvals(features[rows]))
  picked = jax.ops.segment_sum(features.T, rows, num_segments=len(features)).T  # [F, F] = Φ·R
  return jnp.abs(jnp.linalg.eigvals(picked))


def measure(
  problem: Problem,
  memory: Memory,
  outputs: QOutputs,
  targets: jax.Array,
  key: jax.Array,
  *,
  hard: bool,
) -> Mapping[str, jax.Array]:
  """Measures one network.

  Args:
    problem: exact solutions.
    memory: the training data.
    outputs: the network on all S cells.
    targets: [N] regression targets of the last fitting iteration.
    key: draws the transitions to measure on.
    hard: whether the backup is the hard maximum.

  Returns:
    Scalars, and two spectra [min(S, d)] and [min(F, d)]. On the training data: srank, stable_rank,
    sigma_max, sigma_min, dead_units, feature_norm, td_error (root mean square of target minus Q).
    On the reference set, prefixed `reference_`: the same without td_error. Also eigen_srank and
    eigen_batch_srank (eigenvalues against singular values of one square Φ), bellman_error (root
    mean square over free (s, a), exact transitions), q_mean, q_max, q_solution_mean, q_error
    (mean |Q - exact|), q_fit_error (of Q* from Φ), eval_return (0 = random, 1 = optimal). They are
    NaN if features or values are non-finite, or if there is no data yet.
  """
  sound = jnp.all(jnp.isfinite(outputs.features)) & jnp.all(jnp.isfinite(outputs.q_values))
  features = jnp.where(sound, outputs.features, 0.0)  # [S, d]; LAPACK must not meet a NaN.
  q_values = jnp.where(sound, outputs.q_values, 0.0)  # [S, A]
  reference = features[problem.free]  # [F, d]
  solution = problem.q_solution[problem.free]  # [F, A]
  policy = policy_of(q_values, problem.temperature, hard)
  low, high = problem.return_range
  present = jnp.minimum(memory.written, memory.capacity)
  drawn = jax.random.randint(key, (SAMPLE,), 0, jnp.maximum(present, 1))  # [SAMPLE]
  occurrences = jnp.bincount(memory.state[drawn], length=len(features))  # [S]
  data = features * jnp.sqrt(occurrences.astype(jnp.float32))[:, None]  # [S, d]
  errors = targets[drawn] - q_values[memory.state[drawn], memory.action[drawn]]  # [SAMPLE]
  left, values, _ = jnp.linalg.svd(reference, full_matrices=False)
  data_values = jnp.linalg.svd(data, compute_uv=False)  # [min(S, d)]
  rows = problem.eigen_rows
  times = jnp.bincount(rows, length=len(reference)).astype(jnp.float32)  # [F] in the square Φ
  batch_values = jnp.linalg.svd(reference * jnp.sqrt(times)[:, None], compute_uv=False)
  srank, reference_srank, eigen_srank, eigen_batch_srank = _sranks(
    data_values, values, eigenvalue_norms(reference, rows), batch_values
  )
  on_data = {
    'srank': srank,
    **_spectral(data_values),
    'td_error': jnp.sqrt(jnp.mean(jnp.square(errors))),
  }
  # Dead units on the drawn transitions, and the norm of a row of Φ, not of the scaled rows.
  seen = occurrences > 0
  on_data['dead_units'] = jnp.mean(jnp.all((features == 0) | ~seen[:, None], axis=0))
  on_data['feature_norm'] = jnp.sum(jnp.linalg.norm(features, axis=1) * occurrences) / SAMPLE
  on_reference = {
    'srank': reference_srank,
    **_spectral(values),
    'dead_units': jnp.mean(jnp.all(reference == 0, axis=0)),
    'feature_norm': jnp.mean(jnp.linalg.norm(reference, axis=1)),
  }
  backed_up = _backup(problem, state_values(q_values, problem.temperature, hard))
  bellman = (backed_up - q_values)[problem.free]
  measures = {
    'eigen_srank': eigen_srank,
    'eigen_batch_srank': eigen_batch_srank,
    'bellman_error': jnp.sqrt(jnp.mean(jnp.square(bellman))),
    'q_mean': jnp.mean(q_values[problem.free]),
    'q_max': jnp.max(q_values[problem.free]),
    'q_solution_mean': jnp.mean(solution),
    'q_error': jnp.mean(jnp.abs(q_values[problem.free] - solution)),
    'q_fit_error': linear_fit_error(left, values, problem.q_optimal[problem.free]),
    'eval_return': (episode_return(problem, policy) - low) / (high - low),
    **{f'reference_{name}': value for name, value in on_reference.items()},
  }
  filled = jnp.where(memory.written > 0, 1.0, jnp.nan)
  measures.update({name: value * filled for name, value in on_data.items()})
  poison = jnp.where(sound, 1.0, jnp.nan)
  return {name: value * poison for name, value in measures.items()}


def _sranks(*spectra: jax.Array) -> jax.Array:
  """Returns srank of each spectrum, with one sort for all, since zeros at the end add no rank."""
  longest = max(len(values) for values in spectra)
  stacked = jnp.stack([jnp.pad(values, (0, longest - len(values))) for values in spectra])
  return jax.vmap(rank.srank_from_singular_values)(stacked)


def _spectral(values: jax.Array) -> dict[str, jax.Array]:
  """Returns the measures of singular values [m], largest first, besides srank."""
  return {
    'stable_rank': jnp.sum(jnp.square(values)) / jnp.maximum(jnp.square(values[0]), 1e-30),
    'sigma_max': values[0],
    'sigma_min': values[-1],
    'spectrum': values,
  }


def _backup(problem: Problem, next_values: jax.Array) -> jax.Array:
  """Returns [S, A] r + γ E[V(s')], exact over transitions."""
  return problem.rewards + problem.discount * problem.transitions @ next_values

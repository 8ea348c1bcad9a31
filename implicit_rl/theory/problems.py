"""Small random problems and matrices for the theory experiments, in NumPy float64.

Every state-action pair is one index 0..n-1; `transition` is P^π between pairs, rows sum to 1.
"""

from typing import NamedTuple

import numpy as np


class Problem(NamedTuple):
  """Policy evaluation with linear inputs: Q = R + γP^πQ.

  Attributes:
    inputs: [n, d0] the rows [s; a], inputs of a linear network.
    rewards: [n].
    transition: [n, n] P^π, row-stochastic.
    discount: γ in [0, 1).
  """

  inputs: np.ndarray
  rewards: np.ndarray
  transition: np.ndarray
  discount: float

  def values(self) -> np.ndarray:
    """[n] the exact Q^π by a linear solve."""
    n = len(self.rewards)
    return np.linalg.solve(np.eye(n) - self.discount * self.transition, self.rewards)

  def backup(self, q: np.ndarray) -> np.ndarray:
    """[n] the bootstrapped target R + γP^πq."""
    return self.rewards + self.discount * self.transition @ q


def ring_walk(n: int, forward: float, backward: float) -> np.ndarray:
  """Random walk on a ring: [n, n], circulant, hence normal; symmetric when forward == backward.

  It is positive semi-definite if it is symmetric and stays in place at least half of the time.
  """
  if forward < 0 or backward < 0 or forward + backward > 1:
    raise ValueError('ring_walk: forward and backward must be >= 0 and sum to at most 1')
  step = np.roll(np.eye(n), 1, axis=1)
  return (1 - forward - backward) * np.eye(n) + forward * step + backward * step.T


def ring_kernel(n: int, length: float) -> np.ndarray:
  """Positive-definite Gram matrix [n, n] of a periodic exponential kernel, `length` in cells."""
  distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
  return np.exp(-np.minimum(distance, n - distance) / length)


def random_walk(n: int, branches: int, rng: np.random.Generator) -> np.ndarray:
  """Row-stochastic [n, n]: each pair leads to `branches` random pairs with Dirichlet weights."""
  transition = np.zeros((n, n))
  for row in transition:
    row[rng.choice(n, branches, replace=False)] = rng.dirichlet(np.ones(branches))
  return transition


def doubly_stochastic(n: int, branches: int, rng: np.random.Generator) -> np.ndarray:
  """Mean of random permutations [n, n]: the uniform distribution is stationary under it.

  With uniform data the projected Bellman operator is then a contraction, so fitted Q-iteration
  with exact fits converges to the projected fixed point (Tsitsiklis and Van Roy 1997).
  """
  return np.mean([np.eye(n)[rng.permutation(n)] for _ in range(branches)], axis=0)


def random_problem(seed: int, n: int, d0: int, discount: float = 0.9) -> Problem:
  """Problem with n pairs and Gaussian inputs; d0 == n gives one-hot inputs (a closed class).

  Inputs are scaled so that X^T X has eigenvalues of order one; rewards are N(0, 1/n).
  """
  rng = np.random.default_rng(seed)
  inputs = np.eye(n) if d0 == n else rng.normal(size=(n, d0)) / np.sqrt(n)
  rewards = rng.normal(size=n) / np.sqrt(n)
  return Problem(inputs, rewards, doubly_stochastic(n, 3, rng), discount)


def normal_matrix(eigenvalues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Real normal [n, n] matrix in a random basis.

  Args:
    eigenvalues: complex; each entry with a non-zero imaginary part represents itself and its
      conjugate, so it takes two rows.
    rng: draws the basis.
  """
  n = int(sum(1 if value.imag == 0 else 2 for value in eigenvalues))
  blocks, at = np.zeros((n, n)), 0
  for value in eigenvalues:
    if value.imag == 0:
      blocks[at, at], at = value.real, at + 1
    else:
      blocks[at : at + 2, at : at + 2] = [[value.real, -value.imag], [value.imag, value.real]]
      at += 2
  basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
  return basis @ blocks @ basis.T


def psd_matrix(eigenvalues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Symmetric positive semi-definite [n, n] matrix with these eigenvalues in a random basis."""
  if np.min(eigenvalues) < 0:
    raise ValueError('psd_matrix: eigenvalues must be >= 0')
  return normal_matrix(np.asarray(eigenvalues, complex), rng)

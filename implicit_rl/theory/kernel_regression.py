"""Bootstrapping as repeated kernel regression (paper §4.1 and App. C), in NumPy float64.

A round fits Q_{k+1} = A(R + γP^πQ_k) with A = G(cI + G)^{-1}; With S = γP^πA, Q_k = A(I + S + ... +
S^{k-1})R. The paper prints M_k = S + ... + S^k (its sum starts at 1), which is S times this sum;
`m_matrices` returns either.
"""

import math
from fractions import Fraction

import numpy as np
import scipy.linalg
import scipy.optimize


def fit(gram: np.ndarray, data: np.ndarray, targets: np.ndarray, c: float) -> np.ndarray:
  """Closed-form minimiser of Eq. 1 at all pairs: g^T (cI + G)^{-1} y (Lemma C.0.1).

  Args:
    gram: [n, n] Green's function of the kernel u on all pairs, that is U^{-1}.
    data: [m] indices of the training pairs, repeats allowed.
    targets: [m].
    c: weight of the regulariser, > 0.

  Returns:
    [n] Q at every pair.
  """
  if c <= 0:
    raise ValueError('fit: c must be > 0 (the closed form needs an invertible cI + G)')
  train = gram[np.ix_(data, data)]
  return gram[:, data] @ np.linalg.solve(c * np.eye(len(data)) + train, targets)


def objective(q: np.ndarray, u: np.ndarray, data: np.ndarray, targets: np.ndarray, c: float):
  """Eq. 1: sum of squared errors on the data + c·q^T U q over all pairs. Scalar."""
  return np.sum((q[data] - targets) ** 2) + c * q @ u @ q


def minimise(u: np.ndarray, data: np.ndarray, targets: np.ndarray, c: float) -> np.ndarray:
  """[n] minimiser of Eq. 1 found by a trust-region method from its gradient and Hessian alone."""
  n = len(u)
  select = np.eye(n)[data]  # [m, n]
  hessian = 2 * (select.T @ select + c * u)
  gradient = lambda q: 2 * (select.T @ (select @ q - targets) + c * u @ q)
  found = scipy.optimize.minimize(
    lambda q: objective(q, u, data, targets, c),
    np.zeros(n),
    jac=gradient,
    hess=lambda q: hessian,
    method='trust-exact',
    options={'gtol': 1e-10, 'maxiter': 1000, 'max_trust_radius': 1e6},
  )
  return found.x


def smoother(gram: np.ndarray, c: float) -> np.ndarray:
  """A = G(cI + G)^{-1}, [n, n]: the linear map of one fit from targets at every pair to Q."""
  return np.linalg.solve(c * np.eye(len(gram)) + gram, gram).T


def iterate(a: np.ndarray, transition: np.ndarray, rewards: np.ndarray, discount: float, rounds):
  """[rounds, n] Q_1, Q_2, ... of fitted Q-evaluation from Q_0 = 0, by the recursion."""
  q, history = np.zeros(len(rewards)), []
  for _ in range(rounds):
    q = a @ (rewards + discount * transition @ q)
    history.append(q)
  return np.array(history)


def m_matrices(s: np.ndarray, rounds: int, first: int = 1) -> np.ndarray:
  """[rounds, n, n] M_1, M_2, ...: sums of k consecutive powers of S starting at S^first.

  first=1 is the paper's Eq. 2 and C.11; first=0 is the result of the recursion.
  """
  power = np.linalg.matrix_power(s, first)
  total, history = np.zeros_like(s), []
  for _ in range(rounds):
    total = total + power
    history.append(total)
    power = power @ s
  return np.array(history)


def normal_m_singular_values(eigenvalues: np.ndarray, ks: np.ndarray) -> np.ndarray:
  """[len(ks), n] |λ(1 - λ^k)/(1 - λ)|: singular values of M_k of a normal S, in λ's order."""
  powers = eigenvalues ** np.asarray(ks)[:, None]
  return np.abs(eigenvalues * (1 - powers) / (1 - eigenvalues))


def exact_period(phases: list[Fraction]) -> int:
  """Smallest k > 0 for which S^k is PSD, for eigenvalue phases as fractions of a turn."""
  return math.lcm(*(phase.denominator for phase in phases))


def printed_subsequence(phases: np.ndarray, max_denominator: int) -> tuple[int, float]:
  """The paper's construction (C.24, C.25) for phases in turns.

  Returns:
    k_1 = LCM of the denominators of the best rational approximations, and the largest distance
    of k_1·phase to a whole turn. The proof needs the second to be near 0.
  """
  fractions = [Fraction(float(x)).limit_denominator(max_denominator) for x in phases]
  k = exact_period(fractions)
  # Exact arithmetic, since k can exceed 2^53, where float64 would return rounding noise.
  errors = [abs(k * Fraction(float(x)) - round(k * Fraction(float(x)))) for x in phases]
  return k, float(max(errors))


def recurrent_rounds(phases: np.ndarray, limit: int, tolerance: float) -> np.ndarray:
  """All k <= limit with every k·phase within `tolerance` turns of a whole turn.

  By Dirichlet's simultaneous approximation theorem there are infinitely many for any tolerance.
  This replaces the printed construction.
  """
  turns = np.arange(1, limit + 1)[:, None] * phases
  return 1 + np.flatnonzero(np.max(np.abs(turns - np.round(turns)), axis=1) <= tolerance)


def decreasing_rounds(eigenvalues: np.ndarray, candidates: np.ndarray) -> np.ndarray:
  """Greedy subsequence of `candidates` along which every labelled ratio of Theorem 4.1 falls.

  Labelled: σ_i(M_k) belongs to the eigenvalue λ_i of the normal S; the pair (i, j) counts when
  |λ_i| < |λ_j|. Rounds that would raise any ratio, or make it smaller than its limit (after which
  it could only rise), are left out.
  """
  order = np.argsort(np.abs(eigenvalues))
  sizes = np.abs(eigenvalues)[order]
  strict = np.diff(sizes) > 1e-12  # conjugate pairs have equal sizes, so their ratio is always 1
  chosen: list[int] = []
  last = np.full(len(sizes) - 1, np.inf)
  final = np.abs(eigenvalues / (1 - eigenvalues))[order]  # σ(M_k) as k grows
  limit = final[:-1] / final[1:]
  for k, values in zip(candidates, normal_m_singular_values(eigenvalues, candidates), strict=True):
    ratios = values[order][:-1] / values[order][1:]
    if np.all((limit < ratios) & (ratios < last) | ~strict):
      chosen.append(int(k))
      last = ratios
  return np.array(chosen)


def ratio_bound(eigenvalue_i: complex, eigenvalue_j: complex, k: int) -> float:
  """f(k) of C.23 for M_k = S + ... + S^k: an upper bound on the labelled ratio at every t >= k."""
  size_i, size_j = abs(eigenvalue_i), abs(eigenvalue_j)
  constant = size_i / size_j * abs(1 - eigenvalue_j) / abs(1 - eigenvalue_i)
  return constant * (1 + size_i**k) / abs(1 - size_j**k)


def departure_from_normality(s: np.ndarray) -> tuple[float, float]:
  """(||N||_2 of one Schur form S = U(Λ + N)U^H, Henrici's sqrt(||S||_F² - Σ|λ|²)).

  The paper's Δ(S) is the infimum of the first over all Schur forms, so the first bounds it from
  above; the second is the same for every form.
  """
  triangle = scipy.linalg.schur(s, output='complex')[0]
  strict = np.triu(triangle, 1)
  return float(np.linalg.norm(strict, 2)), float(np.linalg.norm(strict))


def spectra(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """([..., n] singular values, [..., n] eigenvalue norms), both descending."""
  sizes = np.abs(np.linalg.eigvals(matrices))
  return np.linalg.svd(matrices, compute_uv=False), -np.sort(-sizes, axis=-1)

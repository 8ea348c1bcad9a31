"""Closed forms and theorem inequalities of the kernel-regression model, on drawn matrices."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from implicit_rl.theory import kernel_figures, problems
from implicit_rl.theory import kernel_regression as kernel
from implicit_rl.theory.float64 import sranks

SEEDS = st.integers(0, 2**32 - 1)
# Few examples: shapes are fixed, so nothing compiles anew, but machines can be slow.
few = settings(max_examples=40, deadline=None)


@few
@given(seed=SEEDS, c=st.floats(0.01, 10.0))
def test_closed_form_minimises_equation_1(seed, c):
  rng = np.random.default_rng(seed)
  gram, data = problems.ring_kernel(12, 3.0), rng.integers(12, size=9)
  u, targets = np.linalg.inv(gram), rng.normal(size=9)
  q = kernel.fit(gram, data, targets, c)
  np.testing.assert_allclose(q, kernel.minimise(u, data, targets, c), atol=1e-7)
  best = kernel.objective(q, u, data, targets, c)
  for step in 1e-3 * rng.normal(size=(5, 12)):
    assert kernel.objective(q + step, u, data, targets, c) > best


def test_closed_form_rejects_no_regulariser():
  with pytest.raises(ValueError, match='c must be > 0'):
    kernel.fit(np.eye(2), np.array([0]), np.array([1.0]), 0.0)


@few
@given(seed=SEEDS)
def test_recursion_is_the_sum_of_powers_from_zero(seed):
  rng = np.random.default_rng(seed)
  a, walk = kernel.smoother(problems.ring_kernel(8, 2.0), 0.5), problems.random_walk(8, 3, rng)
  rewards = rng.normal(size=8)
  q = kernel.iterate(a, walk, rewards, 0.9, 7)
  m = kernel.m_matrices(0.9 * walk @ a, 7, first=0)
  np.testing.assert_allclose(q, m @ rewards @ a.T, atol=1e-12)


def test_m_matrices_by_hand():
  got = kernel.m_matrices(np.array([[0.5]]), 3)[:, 0, 0]  # 1/2, 1/2 + 1/4, 1/2 + 1/4 + 1/8
  np.testing.assert_array_equal(got, [0.5, 0.75, 0.875])


@few
@given(sizes=st.lists(st.floats(0.01, 0.999), min_size=6, max_size=6), seed=SEEDS)
def test_corollary_c11_psd(sizes, seed):
  s = problems.psd_matrix(np.array(sizes), np.random.default_rng(seed))
  sigma, _ = kernel.spectra(kernel.m_matrices(s, 30))
  ratio = sigma[:, 1:] / sigma[:, :-1]  # smaller over larger: <= 1
  assert np.all(np.diff(ratio, axis=0) <= 1e-9)
  assert np.all(ratio <= ratio[0] + 1e-9)
  for delta in (0.0103, 0.107, 0.311):  # away from the ties that round numbers make
    assert np.all(np.diff(sranks(sigma, delta)) <= 0)


eigenvalues = st.lists(
  st.tuples(st.floats(0.05, 0.95), st.sampled_from(['0', '1/6', '1/4', '1/3', '2/5', '1/2'])),
  min_size=2,
  max_size=5,
)


def _normal(drawn):
  phases = [Fraction(phase) for _, phase in drawn]
  sizes = np.array([size for size, _ in drawn])
  return sizes * np.exp(2j * np.pi * np.array(phases, float)), phases


@few
@given(drawn=eigenvalues)
def test_theorem_41_labelled_ratios_fall_on_the_exact_subsequence(drawn):
  values, phases = _normal(drawn)
  order = np.argsort(np.abs(values))
  ks = kernel.exact_period(phases) * np.arange(1, 9)
  sigma = kernel.normal_m_singular_values(values, ks)[:, order]
  ratio = sigma[:, :-1] / sigma[:, 1:]
  assert np.all(np.diff(ratio, axis=0) <= 1e-9 * ratio[:-1])


@few
@given(drawn=eigenvalues)
def test_theorem_41_rank_conclusion_holds_once_orders_agree(drawn):
  """The repaired statement: from a k_l on at which σ(M) is ordered like |λ|, srank never rises."""
  values, phases = _normal(drawn)
  order = np.argsort(np.abs(values))
  ks = kernel.exact_period(phases) * np.arange(1, 15)
  sigma = kernel.normal_m_singular_values(values, ks)[:, order]
  agree = np.flatnonzero(np.all(np.diff(sigma, axis=1) >= 0, axis=1))
  assume(len(agree) > 0)
  head = np.cumsum(sigma[agree[0] :, ::-1], axis=1)
  shares = head / head[:, -1:]  # h_k(i): srank falls when these rise
  assert np.all(np.diff(shares, axis=0) >= -1e-9)


@few
@given(drawn=eigenvalues, start=st.integers(1, 12))
def test_c9_bounds_every_later_round(drawn, start):
  values, _ = _normal(drawn)
  small, large = sorted(values, key=abs)[0], sorted(values, key=abs)[-1]
  assume(abs(small) < abs(large))
  sigma = kernel.normal_m_singular_values(np.array([small, large]), np.arange(start, start + 40))
  bound = kernel.ratio_bound(small, large, start)
  assert np.all(sigma[:, 0] <= bound * (1 + 1e-9) * sigma[:, 1])


@few
@given(drawn=eigenvalues, seed=SEEDS)
def test_normal_matrix_has_the_eigenvalues_and_its_m_the_closed_form(drawn, seed):
  values, _ = _normal(drawn)
  values = np.where(np.abs(values.imag) < 1e-12, values.real, values)
  s = problems.normal_matrix(values, np.random.default_rng(seed))
  np.testing.assert_allclose(s @ s.T, s.T @ s, atol=1e-12)
  full = np.concatenate([values, np.conj(values[values.imag != 0])])
  want = np.sort(kernel.normal_m_singular_values(full, np.array([7]))[0])
  got = np.sort(kernel.spectra(kernel.m_matrices(s, 7))[0][-1])
  np.testing.assert_allclose(got, want, atol=1e-12)


def test_counterexample_is_a_kernel_problem_with_normal_s_and_rising_rank():
  walk, a = kernel_figures.cycle_counterexample()
  np.testing.assert_array_equal(walk.sum(axis=1), 1)
  assert np.all(np.linalg.eigvalsh(a) > 0) and np.all(np.linalg.eigvalsh(a) < 1)
  s = 0.99 * walk @ a
  np.testing.assert_allclose(s, s.T, atol=1e-14)
  m = kernel.m_matrices(s, 200)
  np.testing.assert_array_equal(sranks(np.linalg.svd(m[[1, 199]], compute_uv=False)), [1, 2])


@few
@given(seed=SEEDS)
def test_c31_singular_values_within_the_departure_of_eigenvalue_norms(seed):
  s = np.random.default_rng(seed).normal(size=(7, 7))
  sigma, sizes = kernel.spectra(s)
  schur, henrici = kernel.departure_from_normality(s)
  assert np.max(np.abs(sigma - sizes)) <= schur + 1e-9 <= henrici + 2e-9
  by_definition = np.sum(s**2) - np.sum(np.abs(np.linalg.eigvals(s)) ** 2)
  np.testing.assert_allclose(henrici**2, by_definition, atol=1e-9)


def test_departure_of_a_jordan_block():
  assert kernel.departure_from_normality(np.array([[0.5, 3.0], [0.0, 0.5]])) == pytest.approx(
    (3, 3)
  )


def test_subsequences():
  assert kernel.exact_period([Fraction(1, 4), Fraction(1, 6)]) == 12
  k, error = kernel.printed_subsequence(np.array([0.25, 1 / 3]), 10)
  assert (k, round(error, 12)) == (12, 0)
  phases = np.array([0.2113, 0.3477])
  found = kernel.recurrent_rounds(phases, 5000, 0.02)
  assert len(found) > 0
  for k in found:
    assert np.max(np.abs(k * phases - np.round(k * phases))) <= 0.02


def test_decreasing_rounds_lower_every_ratio():
  values = np.array([0.97, 0.98, 0.99]) * np.exp(2j * np.pi * np.array([0.2113, 0.3477, 0.41]))
  candidates = kernel.recurrent_rounds(np.array([0.2113, 0.3477, 0.41]), 2000, 0.1)
  chosen = kernel.decreasing_rounds(values, candidates)
  assert len(chosen) >= 3
  sigma = kernel.normal_m_singular_values(values, chosen)
  assert np.all(np.diff(sigma[:, :-1] / sigma[:, 1:], axis=0) < 0)


def test_bad_walks_and_matrices_are_rejected():
  with pytest.raises(ValueError, match='ring_walk'):
    problems.ring_walk(4, 0.7, 0.7)
  with pytest.raises(ValueError, match='psd_matrix'):
    problems.psd_matrix(np.array([-0.1]), np.random.default_rng(0))

"""The experiments on kernel regression: each writes its CSV and figure and returns its numbers.

Every function takes (output folder, number of seeds) and returns {name: one value per seed}, which
`__main__` turns into summary.csv.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from implicit_rl.theory import kernel_regression as kernel
from implicit_rl.theory import problems
from implicit_rl.theory.float64 import sranks
from implicit_rl.theory.output import BLACK, BLUE, GREEN, GREY, ORANGE, RED, band, figure, write_csv

Numbers = dict[str, list[float]]
DISCOUNT = 0.95


def closed_form(output: Path, seeds: int) -> Numbers:
  """Eq. 1 and Eq. 2: closed form against direct minimisation, A·M_k·R against the recursion."""
  rows = []
  for seed in range(seeds):
    rng = np.random.default_rng(seed)
    n, m, c, rounds = 24, 30, 0.3, 20
    gram, data = problems.ring_kernel(n, 4.0), rng.integers(n, size=m)  # gaps and repeats
    targets, rewards = rng.normal(size=m), rng.normal(size=n)
    found = kernel.minimise(np.linalg.inv(gram), data, targets, c)
    a, walk = kernel.smoother(gram, c), problems.random_walk(n, 4, rng)
    q = kernel.iterate(a, walk, rewards, DISCOUNT, rounds)
    unrolled = [
      kernel.m_matrices(DISCOUNT * walk @ a, rounds, first) @ rewards @ a.T for first in (0, 1)
    ]
    rows.append(
      {
        'seed': seed,
        'closed_form_error': np.max(np.abs(kernel.fit(gram, data, targets, c) - found)),
        'sum_from_0_error': np.max(np.abs(q - unrolled[0])),
        'sum_from_1_error': np.max(np.abs(q - unrolled[1])),
      }
    )
  write_csv(output / 'kernel_closed_form.csv', rows)
  return {f'Eq. 1-2: {key}': [row[key] for row in rows] for key in list(rows[0])[1:]}


def psd(output: Path, seeds: int) -> Numbers:
  """Corollary C.1.1: for PSD S every σ_i/σ_j of M_k with σ_i < σ_j falls, and srank with it."""
  n, rounds = 32, 60
  ring = (
    DISCOUNT * problems.ring_walk(n, 0.2, 0.2) @ kernel.smoother(problems.ring_kernel(n, 4.0), 1.0)
  )
  cases = [('ring', ring)]
  for seed in range(seeds):
    rng = np.random.default_rng(seed)
    cases.append((str(seed), problems.psd_matrix(0.99 * rng.uniform(size=n) ** 2, rng)))
  rows, ranks, ratios, rises, over = [], [], [], [], []
  for name, s in cases:
    sigma, _ = kernel.spectra(kernel.m_matrices(s, rounds))
    rank = sranks(sigma)
    ratio = sigma / sigma[:, :1]
    ranks.append(rank)
    ratios.append(ratio)
    rises.append(float(np.sum(np.diff(rank) > 0)))
    over.append(float(np.max(ratio / ratio[0]) - 1))
    rows += [
      {'case': name, 'round': k + 1, 'srank': rank[k], 'sigma_8_over_1': ratio[k, 7]}
      for k in range(rounds)
    ]
  write_csv(output / 'kernel_psd.csv', rows)
  with figure(output / 'kernel_psd', 2, 'Positive semi-definite S: rank never rises') as ax:
    ks = np.arange(1, rounds + 1)
    for i, color, style in ((2, BLUE, '-'), (8, ORANGE, '--'), (16, GREEN, '-.'), (32, RED, ':')):
      ax[0].semilogy(ks, ratios[0][:, i - 1], style, color=color, label=f'i = {i}')
    ax[0].set(xlabel='fitting iteration k', ylabel='σ_i / σ_1 of M_k', title='Ring walk, 32 pairs')
    ax[0].set_ylim(3e-4, 1.5)
    ax[0].legend(loc='lower left', ncols=2)
    band(ax[1], ks, np.array(ranks[1:]), f'random PSD S, {seeds} seeds', BLUE)
    ax[1].step(ks, ranks[0], '--', where='post', color=ORANGE, label='ring walk')
    ax[1].set(xlabel='fitting iteration k', ylabel='srank(M_k), δ = 0.01', title='Effective rank')
    ax[1].legend()
  first, last = ([float(r[k]) for r in ranks[1:]] for k in (0, -1))
  return {
    'PSD S: srank(M_1)': first,
    'PSD S: srank(M_60)': last,
    'PSD S: rounds in which srank rose': rises[1:],
    'PSD S: largest excess of a ratio over the bound': over[1:],
  }


def random_normal(seed: int, pairs: int = 12) -> tuple[np.ndarray, list[Fraction]]:
  """Eigenvalues (one per conjugate pair) whose phases are fractions with denominator 3, 4 or 6."""
  rng = np.random.default_rng(seed)
  phases = []
  for _ in range(pairs):
    q = int(rng.choice([3, 4, 6]))  # so that the period is at most 12
    phases.append(Fraction(int(rng.integers(1, (q + 1) // 2)), q))  # below a half turn, so not real
  sizes = 0.99 * rng.uniform(size=pairs) ** 2
  return sizes * np.exp(2j * np.pi * np.array(phases, float)), phases


def normal(output: Path, seeds: int, draws: int = 500) -> Numbers:
  """Theorem 4.1 on random normal S, along the exact subsequence and between its elements."""
  rounds, rows, ranks = 120, [], []
  results: Numbers = {
    'labelled ratio rose': [],
    'printed bound σ_i/σ_j exceeded': [],
    'C.9 bound exceeded': [],
    'srank rose on the subsequence': [],
  }
  for seed in range(max(seeds, draws)):
    eigenvalues, phases = random_normal(seed)
    period = kernel.exact_period(phases)
    ks = np.arange(period, 10 * period + 1, period)
    order = np.argsort(np.abs(eigenvalues))
    sizes = np.abs(eigenvalues)[order]
    values = kernel.normal_m_singular_values(eigenvalues, ks)[:, order]
    ratio = values[:, :-1] / values[:, 1:]
    rank = sranks(np.repeat(values, 2, axis=1))
    i, j, k = order[0], order[-1], int(ks[0])
    later = kernel.normal_m_singular_values(eigenvalues, np.arange(k, rounds + k))[:, [i, j]]
    results['labelled ratio rose'].append(float(np.any(np.diff(ratio, axis=0) > 1e-9 * ratio[:-1])))
    exceeded = np.any(ratio[0] > sizes[:-1] / sizes[1:] * (1 + 1e-9))
    results['printed bound σ_i/σ_j exceeded'].append(float(exceeded))
    bound = kernel.ratio_bound(eigenvalues[i], eigenvalues[j], k)
    results['C.9 bound exceeded'].append(
      float(np.any(later[:, 0] / later[:, 1] > bound * (1 + 1e-9)))
    )
    results['srank rose on the subsequence'].append(float(np.any(np.diff(rank) > 0)))
    if seed < seeds:
      s = problems.normal_matrix(eigenvalues, np.random.default_rng(seed))
      every = sranks(kernel.spectra(kernel.m_matrices(s, rounds))[0])
      ranks.append((period, every))
      rows += [
        {'seed': seed, 'round': t + 1, 'srank': every[t], 'on_subsequence': (t + 1) % period == 0}
        for t in range(rounds)
      ]
  write_csv(output / 'kernel_normal.csv', rows)
  with figure(output / 'kernel_normal', 2, 'Normal S: between and on the subsequence') as ax:
    eigenvalues, phases = random_normal(0)
    order = np.argsort(np.abs(eigenvalues))
    i, j = order[len(order) // 2], order[-1]
    ks = np.arange(1, rounds + 1)
    values = kernel.normal_m_singular_values(eigenvalues, ks)
    ratio, period = values[:, i] / values[:, j], kernel.exact_period(phases)
    ax[0].plot(ks, ratio, color=BLUE, lw=1, label='every k')
    on = slice(period - 1, None, period)
    ax[0].plot(ks[on], ratio[on], 'o', color=ORANGE, label=f'k = l·{period}: S^k is PSD')
    limit = abs(eigenvalues[i]) / abs(eigenvalues[j])
    ax[0].axhline(limit, ls='--', color=BLACK, label='printed bound σ_i(S)/σ_j(S)')
    ax[0].set(xlabel='fitting iteration k', ylabel='σ_i / σ_j of M_k', title='One pair, seed 0')
    ax[0].legend()
    for seed, (period, every) in enumerate(ranks):
      on = slice(period - 1, None, period)
      ax[1].plot(ks, every, color=GREY, lw=1, alpha=0.7, label='every k' if not seed else None)
      label = 'the subsequence' if not seed else None
      ax[1].plot(ks[on], every[on], 'o', color=ORANGE, ms=5, label=label)
    ax[1].set(xlabel='fitting iteration k', ylabel='srank(M_k), δ = 0.01', title=f'{seeds} seeds')
    ax[1].set_ylim(15, 24.5)
    ax[1].legend(loc='lower right')
  symmetric = np.array([np.random.default_rng(x).uniform(-0.99, 0.99, 24) for x in range(draws)])
  evens = np.arange(2, 121, 2)  # S^k is PSD for even k
  rank = sranks(np.array([kernel.normal_m_singular_values(x, evens) for x in symmetric]))
  results['srank rose on even k, symmetric S'] = np.any(np.diff(rank) > 0, axis=1).tolist()
  drop = [float(every[0] - every[-1]) for _, every in ranks]
  shares = {f'normal S: share of draws, {name}': values for name, values in results.items()}
  return {'normal S: srank(M_1) - srank(M_120)': drop, **shares}


def cycle_counterexample() -> tuple[np.ndarray, np.ndarray]:
  """(P^π, A) of a two-state cycle whose srank rises along the subsequence of Theorem 4.1.

  P^π swaps the states; G is circulant, so A has eigenvalue 0.91 on the mean and 0.995 on the
  difference, and S = 0.99·P^πA is symmetric with eigenvalues 0.9009 and -0.98505.
  """
  walk = np.array([[0.0, 1.0], [1.0, 0.0]])
  mean, difference = (np.array([[1, sign], [sign, 1]]) / 2 for sign in (1.0, -1.0))
  gram = 0.91 / 0.09 * mean + 0.995 / 0.005 * difference  # g = c·a/(1 - a) with c = 1
  return walk, kernel.smoother(gram, 1.0)


def counterexample(output: Path, seeds: int) -> Numbers:
  """A two-state problem with normal S whose effective rank rises on every k_l = 2l."""
  del seeds  # no randomness
  walk, a = cycle_counterexample()
  sigma, _ = kernel.spectra(kernel.m_matrices(0.99 * walk @ a, 200))
  ks, ranks = np.arange(2, 201, 2), sranks(sigma)[1::2]
  even = sigma[1::2]
  columns = {'round': ks, 'sigma_1': even[:, 0], 'sigma_2': even[:, 1], 'srank': ranks}
  rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
  write_csv(output / 'kernel_counterexample.csv', rows)
  title = 'Counterexample to Theorem 4.1: a two-state cycle, γ = 0.99'
  with figure(output / 'kernel_counterexample', 2, title) as ax:
    ax[0].semilogy(ks, even[:, 0], color=BLUE, label='σ_1 (λ = +0.90)')
    ax[0].semilogy(ks, even[:, 1], '--', color=ORANGE, label='σ_2 (λ = -0.99)')
    ax[0].set(xlabel='fitting iteration k (even)', ylabel='singular value of M_k')
    ax[0].set(title='The larger |λ| has the smaller σ')
    ax[0].legend()
    ax[1].step(ks, ranks, where='post', color=RED)
    ax[1].set(xlabel='fitting iteration k (even)', ylabel='srank(M_k), δ = 0.01', yticks=[1, 2])
    ax[1].set(title='Rank rises along the subsequence', ylim=(0.8, 2.2))
  two = np.array([[1.0, 0.0], [1.0, 0.0]])  # both states lead to the first
  v = np.array([np.cos(np.pi / 8), np.sin(np.pi / 8)])
  big = kernel.smoother(1e3 * np.outer(v, v) + 1e-3 * np.eye(2), 1.0)
  radius = float(np.max(np.abs(np.linalg.eigvals(0.95 * two @ big))))
  return {
    'two-state cycle: srank(M_2)': [float(ranks[0])],
    'two-state cycle: srank(M_200)': [float(ranks[-1])],
    'spectral radius of S = 0.95 P A, both states lead to one': [radius],
  }


def subsequence(output: Path, seeds: int) -> Numbers:
  """C.25's k = LCM(q_1, ..., q_n) for irrational phases, against simultaneous approximation."""
  rows: list[dict[str, Any]] = []
  lengths = []
  denominators, tolerance, limit = (10, 30, 100, 300, 1000), 0.05, 20_000
  for seed in range(seeds):
    phases = np.random.default_rng(seed).uniform(0.05, 0.45, size=3)
    for q in denominators:
      k, error = kernel.printed_subsequence(phases, q)
      rows.append({'seed': seed, 'construction': 'printed', 'q': q, 'k': k, 'phase_error': error})
    found = kernel.recurrent_rounds(phases, limit, tolerance)
    eigenvalues = np.array([0.9985, 0.999, 0.9995]) * np.exp(2j * np.pi * phases)
    lengths.append(float(len(kernel.decreasing_rounds(eigenvalues, found))))
    k = int(found[0])
    error = float(np.max(np.abs(k * phases - np.round(k * phases))))
    rows.append(
      {'seed': seed, 'construction': 'simultaneous', 'q': 0, 'k': k, 'phase_error': error}
    )
  write_csv(output / 'kernel_subsequence.csv', rows)
  pick = lambda q: [row for row in rows if row['q'] == q]
  title = 'Is S^k near PSD? (3 irrational phases)'
  with figure(output / 'kernel_subsequence', 1, title, height=4.6) as ax:
    for q, color, marker in zip(
      denominators, (BLUE, GREEN, RED, BLACK, GREY), 'osv^D', strict=True
    ):
      points = pick(q)
      x, y = [float(r['k']) for r in points], [r['phase_error'] for r in points]
      ax[0].loglog(x, y, marker, color=color, label=f'printed: LCM, q ≤ {q}')
    points = pick(0)
    x, y = [float(r['k']) for r in points], [r['phase_error'] for r in points]
    ax[0].loglog(x, y, '*', ms=12, color=ORANGE, label='simultaneous approximation')
    ax[0].set_ylim(0.005, 1)
    ax[0].set(xlabel='fitting iteration k', ylabel='phase error of S^k (turns)')
    ax[0].legend(fontsize=9, loc='lower right')
  return {
    'phase error in turns: printed LCM, q <= 1000': [r['phase_error'] for r in pick(1000)],
    'phase error in turns: simultaneous': [r['phase_error'] for r in pick(0)],
    'simultaneous: rounds k <= 20000 along which every ratio falls': lengths,
  }


def families(seed: int, n: int = 32):
  """Yields (family, mix, S): three ways to leave a normal, positive semi-definite S at mix 0."""
  rng = np.random.default_rng(seed)
  a = kernel.smoother(problems.ring_kernel(n, 4.0), 0.1)
  ring, walk = problems.ring_walk(n, 0.2, 0.2), problems.random_walk(n, 4, rng)
  cycle = problems.doubly_stochastic(n, 1, rng)  # one permutation: deterministic dynamics
  sizes = np.diag(0.95 * rng.uniform(size=n))
  offset = np.triu(rng.normal(size=(n, n)), 1)
  offset *= 3 / np.linalg.norm(offset, 2)
  for mix in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
    yield 'random walk', mix, DISCOUNT * ((1 - mix) * ring + mix * walk) @ a
    yield 'permutation', mix, DISCOUNT * ((1 - mix) * ring + mix * cycle) @ a
    yield 'triangular', mix, sizes + mix * offset  # its own Schur form: eigenvalues never change


def nonnormal(output: Path, seeds: int) -> Numbers:
  """How often the conclusions fail as S departs from normality."""
  rounds = 100
  rows: list[dict[str, Any]] = []
  for seed in range(seeds):
    for family, mix, s in families(seed):
      schur, henrici = kernel.departure_from_normality(s)
      sigma, sizes = kernel.spectra(kernel.m_matrices(s, rounds))
      largest = np.max(np.abs(np.linalg.eigvals(s)))
      seen = sigma[-1, 1:] > 1e-9 * sigma[-1, 0]  # smaller ratios are rounding
      steps = np.diff(np.log(sigma[:, 1:][:, seen] / sigma[:, :1]), axis=0)
      row: dict[str, Any] = {
        'family': family,
        'seed': seed,
        'mix': mix,
        'departure': henrici / np.linalg.norm(s),
      }
      row['ratio_rises'] = float(np.mean(steps > 1e-9))
      for name, spectrum in (('srank', sigma), ('srank_lambda', sizes)):
        ranks = sranks(spectrum)
        row[name + '_start'], row[name + '_end'] = int(ranks[0]), int(ranks[-1])
        row[name + '_rises'] = int(np.sum(np.diff(ranks) > 0))
      row['c32_ratio'] = float(
        np.max(np.abs(sigma - sizes)) * (1 - largest) ** 2 / max(schur, 1e-12)
      )
      rows.append(row)
  write_csv(output / 'kernel_nonnormal.csv', rows)
  names = ('random walk', 'permutation', 'triangular')
  title = f'S away from normal: what survives of Theorem 4.1 ({seeds} seeds)'
  with figure(output / 'kernel_nonnormal', 3, title) as ax:
    for family, color, marker in zip(names, (BLUE, ORANGE, GREEN), 'o^s', strict=True):
      mine = [row for row in rows if row['family'] == family]
      column = lambda name, mine=mine: np.array([row[name] for row in mine], float)
      style = {'color': color, 'label': family, 'alpha': 0.7}
      ax[0].plot(column('departure'), 100 * column('ratio_rises'), marker, **style)
      ax[1].plot(column('departure'), column('srank_rises'), marker, **style)
      fall = column('srank_start') - column('srank_end')
      ax[2].plot(column('departure'), fall, marker, **style)
    ax[0].set(ylabel='steps in which σ_i/σ_1 rises (%)', title='Violations: ratios')
    ax[1].set(ylabel='rounds in which srank rises', title='Violations: rank')
    ax[2].set(ylabel='srank(M_1) - srank(M_100)', title='Fall over 100 rounds')
    ax[0].legend()
    for axis in ax:
      axis.set(xlabel='departure from normality, relative')
  numbers: dict[str, Any] = {}
  for family in names:
    for mix in (0.0, 1.0):
      mine = [row for row in rows if row['family'] == family and row['mix'] == mix]
      for key in list(rows[0])[3:]:
        numbers[f'{family}, mix {mix:g}: {key}'] = [float(row[key]) for row in mine]
  return numbers


EXPERIMENTS = (closed_form, psd, normal, counterexample, subsequence, nonnormal)

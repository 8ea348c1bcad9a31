"""The experiments on bootstrapped deep linear networks: Prop. 4.2, Theorem 4.2 and Figure 5.

Every function takes (output folder, number of seeds) and returns {name: one value per seed}, which
`__main__` turns into summary.csv.
"""

from pathlib import Path

import numpy as np
import scipy.stats

from implicit_rl.theory import bootstrapping, deep_linear, problems
from implicit_rl.theory.float64 import sranks
from implicit_rl.theory.kernel_figures import Numbers
from implicit_rl.theory.linear_figures import DISCOUNT, WIDTH, balanced_start
from implicit_rl.theory.output import BLUE, GREEN, ORANGE, RED, band, figure, write_csv


def _setting(name: str, seed: int) -> tuple[problems.Problem, deep_linear.Weights]:
  """Returns problem and initial weights of a named setting of the bootstrap-round experiments."""
  problem = problems.random_problem(seed, WIDTH, WIDTH, DISCOUNT)
  if name == 'ring':
    problem = problem._replace(transition=problems.ring_walk(WIDTH, 0.45, 0.05))
  problem = problem._replace(rewards=10 * problem.rewards)
  if name == 'gaussian':
    return problem, deep_linear.gaussian_init(seed, WIDTH, WIDTH, 3, 0.3)
  return problem, balanced_start(seed, 0.003)


def rounds(output: Path, seeds: int) -> Numbers:
  """Proposition 4.2: rank over bootstrap rounds, its terms, and the supervised twin."""
  count, steps, step_size = 60, 400, 0.002
  rows = []
  numbers: Numbers = {}
  names = ('balanced', 'gaussian', 'ring')
  titles = ('balanced, mixing walk', 'Gaussian, mixing walk', 'balanced, drifting ring')
  with figure(output / 'linear_rounds', 3, 'Rank over bootstrap rounds (N = 3)') as ax:
    for axis, name, panel in zip(ax, names, titles, strict=True):
      boot, twin, target = [], [], []
      for seed in range(seeds):
        problem, start = _setting(name, seed)
        run = bootstrapping.run(start, problem, count, steps, step_size)
        fixed = bootstrapping.run(start, problem, count, steps, step_size, problem.values())
        boot.append(sranks(run.sigma))
        twin.append(sranks(fixed.sigma))
        target.append(sranks(run.sigma_target))
        c = target[-1][1:] - boot[-1][:-1]  # c_k with the closest features that express y_k
        above = boot[-1][1:] > target[-1][1:]  # then (D.12)'s first step fails for every λ > 0
        rows += [
          {'setting': name, 'seed': seed, 'round': k, 'srank': boot[-1][k]}
          | {'srank_supervised': twin[-1][k], 'srank_target': target[-1][k]}
          | {'td_error': run.td_error[k]}
          for k in range(count + 1)
        ]
        for key, value in (
          ('srank at start', boot[-1][0]),
          ('srank after round 1', boot[-1][1]),
          ('srank after 60 rounds', boot[-1][-1]),
          ('supervised srank after 60 rounds', twin[-1][-1]),
          ('sum of c_k', np.sum(c)),
          ('rounds with c_k > 0', np.sum(c > 0)),
          ('rounds that break the bound for every λ', np.sum(above)),
        ):
          numbers.setdefault(f'{name}: {key}', []).append(float(value))
      ks = np.arange(count + 1)
      band(axis, ks, np.array(boot), 'bootstrapped W_φ(k)', BLUE)
      band(axis, ks, np.array(twin), 'supervised on Q^π', ORANGE, '--')
      band(axis, ks, np.array(target), 'features of the target', GREEN, ':')
      axis.set(xlabel='fitting iteration k', ylabel='srank, δ = 0.01', title=panel, ylim=(0, 36))
      axis.legend(loc='upper right')
  write_csv(output / 'linear_rounds.csv', rows)
  change = []
  for seed in range(seeds):  # self-training: R = 0, P = I, γ = 1
    problem, start = _setting('balanced', seed)
    same = problem._replace(rewards=np.zeros(WIDTH), transition=np.eye(WIDTH), discount=1.0)
    sigma = bootstrapping.run(start, same, count, steps, step_size).sigma
    change.append(float(np.max(np.abs(sigma[-1] - sigma[0]))))
  return {**numbers, 'self-training: largest change of a σ in 60 rounds': change}


def fixed_point(output: Path, seeds: int) -> Numbers:
  """Figure 5: srank of the features against the distance to the projected TD fixed point."""
  count, steps, n, d0 = 30, 50, 48, 16
  rows = []
  numbers: Numbers = {}
  cases = {'balanced': (0.01, 10.0), 'Gaussian': (0.3, 10.0), 'large rewards': (0.3, 30.0)}
  title = f'Rank and distance to the projected TD fixed point (N = 3, {seeds} seeds)'
  with figure(output / 'linear_fixed_point', 3, title) as ax:
    for (name, (size, scale)), color, style in zip(
      cases.items(), (BLUE, ORANGE, GREEN), ('-', '--', '-.'), strict=True
    ):
      ranks, errors = [], []
      for seed in range(seeds):
        problem = problems.random_problem(seed, n, d0, DISCOUNT)
        problem = problem._replace(rewards=scale * problem.rewards)
        start = deep_linear.gaussian_init(seed, WIDTH, d0, 3, size)
        if name == 'balanced':
          start = balanced_start(seed, size, 3, d0)
        run = bootstrapping.run(start, problem, count, steps, 0.002)
        best = problem.inputs @ bootstrapping.lstd(problem)
        errors.append(np.linalg.norm(run.q - best, axis=1) / np.linalg.norm(best))
        ranks.append(sranks(run.sigma_features))
        falls = np.diff(ranks[-1]) < 0
        rises = np.diff(errors[-1]) > 0
        correlation = 0.0  # of a constant
        if np.any(np.diff(ranks[-1])):
          correlation = float(scipy.stats.spearmanr(ranks[-1], errors[-1]).statistic)
        for key, value in (
          ('Spearman correlation of srank and error', correlation),
          ('srank at start', ranks[-1][0]),
          ('srank at end', ranks[-1][-1]),
          ('rounds in which srank fell', np.sum(falls)),
          ('of these, the error rose', np.sum(falls & rises)),
          ('error at end, relative', errors[-1][-1]),
        ):
          numbers.setdefault(f'{name}: {key}', []).append(float(value))
        rows += [
          {'setting': name, 'seed': seed, 'round': k, 'srank': ranks[-1][k], 'error': errors[-1][k]}
          for k in range(count + 1)
        ]
      ks = np.arange(count + 1)
      band(ax[0], ks, np.array(ranks), name, color, style)
      ax[1].semilogy(ks, np.exp(np.mean(np.log(errors), axis=0)), style, color=color, label=name)
      ax[2].semilogy(np.ravel(ranks), np.ravel(errors), '.', color=color, alpha=0.5, label=name)
    ax[0].set(xlabel='fitting iteration k', ylabel='srank(Φ), δ = 0.01', ylim=(0, 22))
    ax[1].set(xlabel='fitting iteration k', ylabel='|Q - Q*| / |Q*|')
    ax[2].set(
      xlabel='srank(Φ), δ = 0.01', ylabel='|Q - Q*| / |Q*|', title='Every round, every seed'
    )
    for axis, panel in zip(ax[:2], ('Effective rank', 'Error (geometric mean)'), strict=True):
      axis.set_title(panel)
      axis.legend()
  write_csv(output / 'linear_fixed_point.csv', rows)
  return numbers


def neighbourhood(output: Path, seeds: int, directions: int = 200) -> Numbers:
  """Theorem 4.2 at converged weights: which ε raise the target's rank; does training lower it?

  Directions: half are the one that raises Σ_{i>r} σ_i fastest, half are Gaussian noise.
  """
  scales, rows = np.logspace(-2, 4, 49), []
  numbers: Numbers = {}
  shares: dict[str, list[np.ndarray]] = {}
  for seed in range(seeds):
    problem, start = _setting('gaussian', seed)
    run = deep_linear.gradient_descent(start, np.eye(WIDTH), problem.values(), 0.002, 5000, 5000)
    weights, rng = deep_linear.last(run), np.random.default_rng(seed)
    w_phi, head = deep_linear.feature_map(weights), weights[-1][0]
    u, sigma, vt = np.linalg.svd(w_phi)
    before = int(sranks(sigma))
    steepest = vt[before:].T @ (u[:, before:].T @ head)
    noise = rng.normal(size=(directions, WIDTH))
    e = steepest / np.linalg.norm(steepest) + noise / np.sqrt(WIDTH)  # [directions, d0]
    for unit in (1.0, 1e-4):  # the unit of the inputs, on which W_φ does not depend
      bounds = bootstrapping.neighbourhood(weights, unit * np.eye(WIDTH))
      largest, norm = (unit * np.linalg.norm(e, ord, axis=1) for ord in (np.inf, 2))  # of ε
      for reading, size in zip(bounds._fields, (largest, largest, norm), strict=True):
        ratio = getattr(bounds, reading) / size  # brings ε to the size ε₀
        zeta = head[:, None] * (e * ratio[:, None])[:, None, :] / np.sum(head**2)
        moved = w_phi + scales[:, None, None, None] * zeta
        gained = sranks(np.linalg.svd(moved, compute_uv=False)) > before
        share = gained.mean(axis=1)
        shares.setdefault(f'{reading} {unit:g}', []).append(share)
        key = f'{reading}, inputs x {unit:g}'
        numbers.setdefault(f'{key}: ε₀', []).append(getattr(bounds, reading))
        inside = float(gained[scales <= 1].mean())
        numbers.setdefault(f'{key}: share of ε within ε₀ that raise srank', []).append(inside)
        rows += [
          {
            'seed': seed,
            'reading': reading,
            'input_scale': unit,
            'epsilon_over_eps0': x,
            'share': y,
          }
          for x, y in zip(scales, share, strict=True)
        ]
    # One fitting iteration on targets at half of the repaired ε₀, run until it fits them.
    change = (
      e[0] / np.linalg.norm(e[0]) * bootstrapping.neighbourhood(weights, np.eye(WIDTH)).repaired
    )
    targets = problem.values() + change / 2
    after = deep_linear.last(
      deep_linear.gradient_descent(weights, np.eye(WIDTH), targets, 0.002, 5000, 5000)
    )
    trained = np.linalg.svd(deep_linear.feature_map(after), compute_uv=False)
    left = np.linalg.norm(deep_linear.end_to_end(after) - targets)
    for key, value in (
      ('srank before', before),
      ('srank after', int(sranks(trained))),
      ('largest relative change of a σ', np.max(np.abs(trained / sigma - 1))),
      ('share of ||ε|| left unfitted', left / np.linalg.norm(change / 2)),
    ):
      numbers.setdefault(f'fitting Q + ε at half of ε₀: {key}', []).append(float(value))
  write_csv(output / 'linear_neighbourhood.csv', rows)
  with figure(output / 'linear_neighbourhood', 2, 'Theorem 4.2: does ε₀ protect the rank?') as ax:
    for axis, unit in zip(ax, (1.0, 1e-4), strict=True):
      for reading, color, style, label in (
        ('repaired', BLUE, '-', 'repaired'),
        ('printed_max', ORANGE, '--', 'printed, max |W_N|'),
        ('printed_sum', RED, ':', 'printed, Σ |W_N|'),
      ):
        runs = 100 * np.array(shares[f'{reading} {unit:g}'])
        axis.plot(scales, runs.mean(axis=0), style, color=color, label=label)
      axis.axvspan(scales[0], 1, color=GREEN, alpha=0.1, label='protected')
      axis.set(xscale='log', xlabel='size of ε / ε₀', title=f'inputs × {unit:g}', ylim=(-3, 140))
      axis.set(ylabel='directions that raise srank (%)', yticks=range(0, 101, 20))
      axis.legend(loc='upper left', ncols=2)
  return numbers


EXPERIMENTS = (rounds, fixed_point, neighbourhood)

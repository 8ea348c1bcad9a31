"""The experiments on gradient flow in deep linear networks: Lemma D.0.1, Prop. 4.1, Figure D.1.

Every function takes (output folder, number of seeds), writes its CSV and figure, and returns
{name: one value per seed}, which `__main__` turns into summary.csv.
"""

from pathlib import Path

import numpy as np

from implicit_rl.theory import deep_linear, problems
from implicit_rl.theory.float64 import sranks
from implicit_rl.theory.kernel_figures import Numbers
from implicit_rl.theory.output import (
  BLACK,
  BLUE,
  GREEN,
  ORANGE,
  PURPLE,
  RED,
  band,
  figure,
  write_csv,
)

DISCOUNT = 0.9
WIDTH = 24


def balanced_start(seed: int, size: float, depth: int = 3, d0: int = WIDTH) -> deep_linear.Weights:
  """Balanced weights of width 24, singular values of W_φ evenly spaced in [size/2, size]."""
  return deep_linear.balanced_init(seed, WIDTH, d0, size * np.linspace(0.5, 1, d0), depth)


def balancedness(output: Path, seeds: int) -> Numbers:
  """Lemma D.0.1 over bootstrap rounds, and gradient descent compared with the flow."""
  rows, rounds, span = [], 5, 1.0
  steps = (160, 320, 640, 1280, 2560)
  for seed in range(seeds):
    problem = problems.random_problem(seed, WIDTH, WIDTH, DISCOUNT)
    problem = problem._replace(rewards=10 * problem.rewards)
    start = balanced_start(seed, 0.3)
    flow, descents = start, {n: start for n in steps}
    for k in range(rounds):
      q = problem.inputs @ deep_linear.end_to_end(flow)
      targets = problem.backup(q)  # the flow's targets for both, so that only the solver differs
      flow = deep_linear.last(
        deep_linear.gradient_flow(flow, problem.inputs, targets, np.array([0.0, span]))
      )
      row = {'seed': seed, 'round': k + 1, 'solver': 'flow', 'step_size': 0.0}
      rows.append({**row, 'imbalance': deep_linear.balancedness(flow), 'gap': 0.0})
      for n in steps:
        data = (problem.inputs, targets, span / n, n, n)
        descents[n] = deep_linear.last(deep_linear.gradient_descent(descents[n], *data))
        gap = np.max(np.abs(deep_linear.feature_map(descents[n]) - deep_linear.feature_map(flow)))
        row = {'seed': seed, 'round': k + 1, 'solver': 'descent', 'step_size': span / n}
        imbalance = deep_linear.balancedness(descents[n])
        rows.append({**row, 'imbalance': imbalance, 'gap': float(gap)})
  write_csv(output / 'linear_balancedness.csv', rows)

  def pick(key: str, step: float, last: int | None = rounds) -> np.ndarray:
    match = [r for r in rows if r['step_size'] == step and last in (None, r['round'])]
    return np.array([r[key] for r in match], float)

  title = f'Balancedness over {rounds} bootstrap rounds (N = 3, {seeds} seeds)'
  with figure(output / 'linear_balancedness', 2, title) as ax:
    ks = np.arange(1, rounds + 1)
    for n, color, style in (
      (0, BLACK, '-'),
      (2560, BLUE, '--'),
      (640, GREEN, '-.'),
      (160, RED, ':'),
    ):
      label = f'descent, η = {span / n:.2g}' if n else 'flow (diffrax Dopri8)'
      runs = pick('imbalance', span / n if n else 0.0, None).reshape(seeds, rounds)
      ax[0].semilogy(ks, runs.mean(axis=0), style, color=color, label=label, marker='o', ms=5)
    ax[0].set(xlabel='fitting iteration k', ylabel='largest |W₂ᵀW₂ - W₁W₁ᵀ| entry')
    ax[0].set(title='Conserved by the flow', xticks=ks)
    ax[0].legend(fontsize=10)
    sizes = [span / n for n in steps]
    for key, color, style, label in (
      ('imbalance', ORANGE, 'o-', 'imbalance'),
      ('gap', PURPLE, 's--', 'largest |difference| in W_φ'),
    ):
      ax[1].loglog(sizes, [pick(key, x).mean() for x in sizes], style, color=color, label=label)
    ax[1].loglog(sizes, [pick('gap', sizes[-1]).mean() * x / sizes[-1] for x in sizes], ':',
                 color=BLACK, label='slope 1')  # fmt: skip
    ax[1].set_xticks([5e-4, 1e-3, 2e-3, 5e-3], ['0.0005', '0.001', '0.002', '0.005'])
    ax[1].set_xticks([], minor=True)
    ax[1].set(
      xlabel='step size η', ylabel='after the last round', title='Descent tends to the flow'
    )
    ax[1].legend()
  slope = lambda key: float(
    np.polyfit(np.log(sizes), np.log([pick(key, x).mean() for x in sizes]), 1)[0]
  )
  return {
    'flow: imbalance after 5 rounds': pick('imbalance', 0.0).tolist(),
    'descent, η = 1/2560: imbalance after 5 rounds': pick('imbalance', span / 2560).tolist(),
    'descent: order in η of the gap to the flow': [slope('gap')],
    'descent: order in η of the imbalance': [slope('imbalance')],
  }


def velocity(output: Path, seeds: int) -> Numbers:
  """Proposition 4.1: predicted and measured dσ_r/dt, with the factors N and N - 1."""
  rows = []
  numbers = {}
  for depth in (3, 4, 5):
    for seed in range(seeds):
      problem = problems.random_problem(seed, WIDTH, WIDTH, DISCOUNT)
      data = (problem.inputs, 10 * problem.values())
      weights = balanced_start(seed, 1.0, depth)
      at = np.array([0.0, 0.02])
      weights = deep_linear.last(
        deep_linear.gradient_flow(weights, *data, at)
      )  # shortly after the start of training
      measured = deep_linear.measured_velocity(weights, *data)
      predicted = deep_linear.predicted_velocity(weights, *data)
      for r in range(WIDTH):
        row = {'depth': depth, 'seed': seed, 'r': r + 1, 'measured': measured[r]}
        printed = predicted[r] * depth / (depth - 1)
        rows.append({**row, 'predicted_n_minus_1': predicted[r], 'predicted_n': printed})
  write_csv(output / 'linear_velocity.csv', rows)
  with figure(output / 'linear_velocity', 3, 'Velocity of the singular values of W_φ') as ax:
    for axis, depth in zip(ax, (3, 4, 5), strict=True):
      mine = [row for row in rows if row['depth'] == depth]
      column = lambda key, mine=mine: np.array([row[key] for row in mine])
      x = column('measured')
      ends = [x.min(), x.max()]
      axis.plot(ends, ends, '-', color=BLACK, lw=1, label='equal')
      axis.plot(x, column('predicted_n'), '^', color=ORANGE, label='factor N (printed)')
      axis.plot(x, column('predicted_n_minus_1'), 'o', color=BLUE, ms=5, label='factor N - 1')
      axis.set(xlabel='measured dσ_r/dt', ylabel='predicted dσ_r/dt', title=f'N = {depth}')
      axis.legend()
      scale = np.abs(x).reshape(seeds, -1).max(axis=1, keepdims=True)
      for key, name in (('predicted_n', 'N'), ('predicted_n_minus_1', 'N - 1')):
        error = np.abs(column(key) - x).reshape(seeds, -1) / scale
        numbers[f'N = {depth}: error of factor {name}, relative to max |dσ/dt|'] = error.max(1)
  return {key: value.tolist() for key, value in numbers.items()}


def singular_values(output: Path, seeds: int) -> Numbers:
  """Figure D.1: singular values of W_φ over one fitting iteration, small and moderate starts."""
  rows, times = [], np.linspace(0, 0.4, 81)
  numbers: Numbers = {}
  title = 'Singular values of W_φ within one fitting iteration (seed 0)'
  with figure(output / 'linear_singular_values', 3, title, rows=2, height=3.8) as ax:
    for column, (size, depth) in enumerate(((0.003, 3), (0.03, 3), (0.3, 5))):
      ranks = []
      for seed in range(seeds):
        problem = problems.random_problem(seed, WIDTH, WIDTH, DISCOUNT)
        targets = 10 * problem.values()
        start = balanced_start(seed, size, depth)
        history = deep_linear.gradient_flow(start, problem.inputs, targets, times)
        sigma = deep_linear.spectra(history)
        ranks.append(sranks(sigma))
        rows += [
          {'size': size, 'depth': depth, 'seed': seed, 'time': t, 'srank': rank}
          | {f'sigma_{r}': values[r - 1] for r in (1, 2, 12, 24)}
          for t, values, rank in zip(times, sigma, ranks[-1], strict=True)
        ]
        if seed == 0:
          ax[column].semilogy(times, sigma[:, 1::2], color=BLUE, lw=0.8)
          ax[column].semilogy(times, sigma[:, 0], color=RED, label='σ_1')
          ax[column].plot([], [], color=BLUE, label='σ_2, σ_4, ... σ_24')
          ax[column].set(title=f'start {size:g}, N = {depth}', ylabel='singular value')
          ax[column].legend(loc='center right')
        name = f'start {size:g}, N = {depth}'
        numbers.setdefault(f'{name}: srank at start', []).append(float(ranks[-1][0]))
        numbers.setdefault(f'{name}: srank at end', []).append(float(ranks[-1][-1]))
        growth = np.log(sigma[-1] / sigma[0])
        numbers.setdefault(f'{name}: log growth of σ_1', []).append(float(growth[0]))
        numbers.setdefault(f'{name}: log growth of σ_2', []).append(float(growth[1]))
        numbers.setdefault(f'{name}: log growth of the median σ', []).append(
          float(np.median(growth))
        )
      band(ax[3 + column], times, np.array(ranks), f'{seeds} seeds', BLUE)
      ax[3 + column].set(xlabel='time of the gradient flow', ylabel='srank, δ = 0.01', ylim=(0, 25))
      ax[3 + column].legend(loc='lower left')
  write_csv(output / 'linear_singular_values.csv', rows[::4])
  return numbers


EXPERIMENTS = (balancedness, velocity, singular_values)

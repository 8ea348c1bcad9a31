"""Draws docs/images/rank_collapse.png: a network whose features lose rank, and one that keeps it.

    python experiments/rank_collapse_picture.py

Gridworld, 500 transitions: fitted Q-iteration with T = 10, Adam 1e-3 and free targets, where values
diverge, beside its supervised twin, which regresses to the exact Q*. Both take 20,000 gradient
steps on the same data from the same network. Under a minute on two cores.
"""

from __future__ import annotations

import argparse
import pathlib

import matplotlib
import numpy as np

matplotlib.use('Agg')

from matplotlib import pyplot as plt

from implicit_rl.gridworld import runs
from implicit_rl.gridworld.config import FittedQConfig

SHARED = {'data_size': 500, 'iterations': 2000, 'steps': 10, 'log_every': 20}
CONFIGS = {
  'trained on its own predictions': FittedQConfig(target='bootstrap', **SHARED),
  'trained on the exact Q*': FittedQConfig(target='optimal', **SHARED),
}
COLOURS = ('#D55E00', '#0072B2')  # Okabe and Ito's vermilion and blue.
SEEDS = range(10, 15)


def shares(spectrum: np.ndarray) -> np.ndarray:
  """The share of the spectrum's sum that its k largest values hold, k = 1 … m: [m]."""
  return np.cumsum(spectrum) / np.sum(spectrum)


def draw_shares(axis: plt.Axes, spectrum: np.ndarray, srank: float, colour: str, label: str):
  """A curve of cumulative shares with its srank marked where it crosses 99%."""
  curve = shares(spectrum)
  axis.plot(
    range(1, len(curve) + 1), curve, color=colour, lw=2, label=f'{label}: srank {srank:.0f}'
  )
  axis.plot([srank], [curve[int(srank) - 1]], 'o', color=colour, ms=8)
  axis.vlines(srank, 0, curve[int(srank) - 1], color=colour, ls=':', lw=1.5)


def draw(loaded: dict[str, list[runs.Rows]], seed: int, path: pathlib.Path) -> None:
  """Two panels: what srank is, on the spectra of one seed; srank of all seeds over training."""
  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout='constrained')
  one = {label: rows[SEEDS.index(seed)] for label, rows in loaded.items()}
  first = next(iter(one.values()))
  draw_shares(left, first['reference_spectrum'][0], first['reference_srank'][0], '0.45', 'at start')
  for colour, (label, rows) in zip(COLOURS, one.items(), strict=True):
    draw_shares(left, rows['reference_spectrum'][-1], rows['reference_srank'][-1], colour, label)
  left.axhline(0.99, color='black', lw=1, ls='--')
  left.text(63, 0.975, '99% (δ = 0.01)', ha='right', va='top')
  left.set(xlim=(0, 64), ylim=(0, 1.04), xlabel='singular values counted, largest first (of 64)')
  left.set_ylabel('share of their sum')
  left.set_title(f'Spectrum of Φ after 20,000 gradient steps, seed {seed}')
  left.legend(loc='lower right', bbox_to_anchor=(1, 0.08))
  for colour, (label, many) in zip(COLOURS, loaded.items(), strict=True):
    values = np.array([rows['reference_srank'] for rows in many])  # [seeds, rows]
    for curve in values:
      right.plot(many[0]['updates'], curve, color=colour, lw=0.8, alpha=0.4)
    right.plot(many[0]['updates'], values.mean(0), color=colour, lw=2.5, label=label)
  right.set(ylim=(0, 64), xlim=(0, 20_000), xlabel='gradient steps', ylabel='srank of Φ')
  right.set_title(f'srank: {len(SEEDS)} seeds (thin) and their mean')
  right.legend()
  for axis in (left, right):
    axis.grid(alpha=0.3)
  figure.savefig(path, dpi=140)


def main() -> None:
  """Runs what is missing and draws."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', default='docs/images/rank_collapse.png', type=pathlib.Path)
  parser.add_argument('--runs', default='runs/rank_collapse', type=pathlib.Path)
  parser.add_argument('--seed', default=14, type=int, choices=SEEDS, help='whose spectra are shown')
  options = parser.parse_args()
  runs.run_all(options.runs, list(CONFIGS.values()), SEEDS)
  loaded = {
    label: [runs.load(options.runs, config, seed) for seed in SEEDS]
    for label, config in CONFIGS.items()
  }
  for label, many in loaded.items():
    ends = {
      name: [float(rows[name][-1]) for rows in many] for name in ('reference_srank', 'q_mean')
    }
    print(label, {name: [f'{value:.3g}' for value in values] for name, values in ends.items()})
  draw(loaded, options.seed, options.output)


if __name__ == '__main__':
  main()

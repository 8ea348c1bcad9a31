"""Runs the theory experiments: `implicit-rl theory --output=DIR` writes CSV, PNG, SVG."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from implicit_rl.theory import bootstrap_figures, kernel_figures, linear_figures
from implicit_rl.theory.output import write_csv


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes every figure and table, and summary.csv with each number's mean and spread."""
  parser = argparse.ArgumentParser(prog='implicit-rl theory', description=__doc__)
  parser.add_argument('--output', type=Path, required=True, help='folder to write to')
  parser.add_argument('--seeds', type=int, default=5, help='seeds 0..SEEDS-1 (default 5)')
  args = parser.parse_args(arguments)
  if args.seeds < 1:
    parser.error('--seeds must be at least 1')
  args.output.mkdir(parents=True, exist_ok=True)
  rows = []
  rooms = (kernel_figures, linear_figures, bootstrap_figures)
  for experiment in (one for room in rooms for one in room.EXPERIMENTS):
    start = time.perf_counter()
    for name, values in experiment(args.output, args.seeds).items():
      rows.append(
        {
          'experiment': experiment.__name__,
          'number': name,
          'mean': float(np.mean(values)),
          'std': float(np.std(values)),
          'min': float(np.min(values)),
          'max': float(np.max(values)),
          'count': len(values),
        }
      )
    print(f'{experiment.__name__}: {time.perf_counter() - start:.1f} s', flush=True)
  write_csv(args.output / 'summary.csv', rows)


if __name__ == '__main__':
  main()

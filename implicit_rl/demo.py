"""The demo: offline DQN on embedded MinAtar data, with and without the rank penalty, three seeds.

    implicit-rl demo --output=runs/demo

Every run is what `implicit-rl train` would run with the shipped gin files; only its length is cut.
Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from implicit_rl.running import parallel_runs

_DQN = 'gin_configs/minatar/offline_dqn.gin'
_VARIANTS = {'DQN': (_DQN,), 'DQN + penalty': (_DQN, 'gin_configs/penalties/lp.gin')}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='implicit-rl demo',
    description='Trains offline DQN on embedded MinAtar data, with and without the rank penalty.',
  )
  parser.add_argument(
    '--output', type=pathlib.Path, default='runs/demo', help='directory of the runs and the figure'
  )
  parser.add_argument('--seeds', type=int, default=3, help='runs of each variant (3)')
  parser.add_argument('--iterations', type=int, default=20, help='of 1,000 gradient updates (20)')
  options = parser.parse_args(arguments)
  for name in ('seeds', 'iterations'):
    if (number := getattr(options, name)) < 1:
      parser.error(f'--{name} must be at least 1, got {number}')
  return options


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs all variants, one a core, then prints a table and draws the figure."""
  options = _options(arguments)
  start = time.monotonic()
  output = options.output
  bindings = (
    f'OfflineRunner.num_iterations = {options.iterations}',
    'OfflineRunner.training_steps = 1000',
  )
  variants: dict[str, list[pathlib.Path]] = {name: [] for name in _VARIANTS}
  jobs = []
  for seed in range(options.seeds):
    for name, gin_files in _VARIANTS.items():
      base_dir = output / name.lower().replace(' + ', '_') / f'seed_{seed}'
      variants[name].append(base_dir)
      jobs.append(parallel_runs.Job(base_dir, gin_files, bindings, seed, options.iterations))
  print(f'{len(jobs)} runs of {options.iterations * 1000:,} gradient updates each, into {output}/')
  try:
    parallel_runs.run_all(jobs)
  except (OSError, ValueError) as error:
    print(f'implicit-rl demo: {error}', file=sys.stderr)
    return 1

  from implicit_rl.analysis import curves, runs, style, tables

  print('\nMean over seeds ± standard deviation; return of ε = 0.001 play in Breakout:\n')
  table = runs.load(variants)
  print(tables.markdown(tables.summary(table)))
  title = 'Offline DQN on 5% of a MinAtar-Breakout replay, with and without the rank penalty'
  figure, numbers = curves.figure(table, title=title)
  picture = output / 'rank_and_return.png'
  style.save(figure, picture, numbers)
  print(f'\nDone in {time.monotonic() - start:.0f} s. What each run did: {output}/*/seed_*/')
  print(picture)
  page = output / 'report.html'
  print(f'A page of it all: implicit-rl report {output} --output={page}')
  return 0


if __name__ == '__main__':
  sys.exit(main())

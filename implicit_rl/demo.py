"""The demo: offline DQN on embedded MinAtar data, with and without the rank penalty, three seeds.

    python -m implicit_rl.demo --output=runs/demo

Every run is what `run_experiment.py` would run with the shipped gin files; only its length is cut.
Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import pathlib
import time

from absl import app, flags

from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS
flags.DEFINE_string('output', 'runs/demo', 'Directory for the runs and the figure.')
flags.DEFINE_integer('seeds', 3, 'Runs of each variant.', lower_bound=1)
flags.DEFINE_integer('iterations', 20, 'Iterations of 1,000 gradient updates.', lower_bound=1)

_DQN = 'gin_configs/minatar/offline_dqn.gin'
_VARIANTS = {'DQN': (_DQN,), 'DQN + penalty': (_DQN, 'gin_configs/penalties/lp.gin')}


def main(argv: list[str]) -> None:
  """Runs all variants, one a core, then prints a table and draws the figure."""
  del argv
  start = time.monotonic()
  output = pathlib.Path(FLAGS.output)
  bindings = (
    f'OfflineRunner.num_iterations = {FLAGS.iterations}',
    'OfflineRunner.training_steps = 1000',
  )
  variants: dict[str, list[pathlib.Path]] = {name: [] for name in _VARIANTS}
  jobs = []
  for seed in range(FLAGS.seeds):
    for name, gin_files in _VARIANTS.items():
      base_dir = output / name.lower().replace(' + ', '_') / f'seed_{seed}'
      variants[name].append(base_dir)
      jobs.append(parallel_runs.Job(base_dir, gin_files, bindings, seed, FLAGS.iterations))
  print(f'{len(jobs)} runs of {FLAGS.iterations * 1000:,} gradient updates each, into {output}/')
  try:
    parallel_runs.run_all(jobs)
  except (OSError, ValueError) as error:
    raise SystemExit(f'demo: {error}') from error

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
  print(f'A page of it all: python -m implicit_rl.analysis report {output} --output={page}')


if __name__ == '__main__':
  app.run(main)

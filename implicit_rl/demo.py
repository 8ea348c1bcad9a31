"""The demo: offline DQN on embedded MinAtar data, with and without the rank penalty, three seeds.

    python -m implicit_rl.demo --output=runs/demo

Every run is what `run_experiment.py` would run with the shipped gin files; only its length is cut.
Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import time

from absl import app, flags
from tqdm import tqdm

from implicit_rl.data import frame_store

FLAGS = flags.FLAGS
flags.DEFINE_string('output', 'runs/demo', 'Directory for the runs and the figure.')
flags.DEFINE_integer('seeds', 3, 'Runs of each variant.', lower_bound=1)
flags.DEFINE_integer('iterations', 20, 'Iterations of 1,000 gradient updates.', lower_bound=1)

_CONFIGS = pathlib.Path(__file__).parent.parent / 'gin_configs'
_VARIANTS = {
  'DQN': ['minatar/offline_dqn.gin'],
  'DQN + penalty': ['minatar/offline_dqn.gin', 'penalties/lp.gin'],
}
# One run per core does more than one run on all cores: these networks are small.
_ONE_THREAD = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'


def run(base_dir: str, gin_files: list[str], bindings: list[str], seed: int) -> None:
  """One run in a process of its own; what it prints goes to run.log in its directory."""
  os.makedirs(base_dir, exist_ok=True)
  with (
    open(os.path.join(base_dir, 'run.log'), 'a') as log,
    contextlib.redirect_stdout(log),
    contextlib.redirect_stderr(log),
  ):
    import gin

    from implicit_rl import experiment

    gin.clear_config()
    experiment.parse_gin([str(_CONFIGS / name) for name in gin_files], bindings)
    experiment.create_runner(base_dir, seed).run_experiment()


def main(argv: list[str]) -> None:
  """Runs all variants, one a core, then prints a table and draws the figure."""
  del argv
  start = time.monotonic()
  output = pathlib.Path(FLAGS.output)
  variants = {
    name: [
      output / name.lower().replace(' + ', '_') / f'seed_{seed}' for seed in range(FLAGS.seeds)
    ]
    for name in _VARIANTS
  }
  bindings = [
    f'OfflineRunner.num_iterations = {FLAGS.iterations}',
    'OfflineRunner.training_steps = 1000',
  ]
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_ONE_THREAD}'.strip()
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # The runs share a GPU.
  jobs = len(variants) * FLAGS.seeds
  print(f'{jobs} runs of {FLAGS.iterations * 1000:,} gradient updates each, into {output}/')
  with concurrent.futures.ProcessPoolExecutor(
    min(frame_store.cores(), jobs), mp_context=multiprocessing.get_context('spawn')
  ) as pool:
    futures = [
      pool.submit(run, str(base_dir), _VARIANTS[name], bindings, seed)
      for seed in range(FLAGS.seeds)
      for name, base_dir in ((name, base_dirs[seed]) for name, base_dirs in variants.items())
    ]
    try:
      _watch(futures, [path for base_dirs in variants.values() for path in base_dirs])
    except (OSError, ValueError) as error:
      pool.shutdown(wait=False, cancel_futures=True)
      raise SystemExit(f'demo: {error}') from error

  from implicit_rl.analysis import figures, runs

  print('\nMean over seeds ± standard deviation; return of ε = 0.001 play in Breakout:\n')
  print(runs.summary_table(variants))
  figure = output / 'rank_and_return.png'
  figures.learning_curves(
    variants,
    figure,
    title='Offline DQN on 5% of a MinAtar-Breakout replay, with and without the rank penalty',
  )
  print(f'\nDone in {time.monotonic() - start:.0f} s. What each run did: {output}/*/seed_*/')
  print(figure)


def _watch(futures: list[concurrent.futures.Future], base_dirs: list[pathlib.Path]) -> None:
  """Shows how many iterations are done until all runs are; raises what a run raised."""
  total = FLAGS.iterations * len(base_dirs)
  with tqdm(total=total, unit=' iterations', dynamic_ncols=True) as bar:
    waiting = True
    while waiting:
      waiting = bool(concurrent.futures.wait(futures, timeout=1).not_done)
      logs = (base_dir / 'metrics.jsonl' for base_dir in base_dirs)
      bar.update(sum(log.read_bytes().count(b'\n') for log in logs if log.exists()) - bar.n)
      for future in futures:
        if future.done():
          future.result()


if __name__ == '__main__':
  app.run(main)

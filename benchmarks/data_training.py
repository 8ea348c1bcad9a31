"""Measures what sampling costs an Atari training iteration: the agent as run_experiment.py runs it.

    python benchmarks/data_training.py

For each codec: CPU time of the agent's training, CPU time of drawing the same batches alone, and
the wall time for which the learner waited for batches. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import gin
import machine

from implicit_rl.running import experiment


def rounds(gin_files: list[str], bindings: list[str], updates: int, count: int) -> dict:
  """Returns medians over `count` rounds, in seconds an update."""
  gin.clear_config()
  experiment.parse_gin(gin_files, bindings, None)
  with tempfile.TemporaryDirectory() as base_dir:
    agent = experiment.create_runner(base_dir, 0)._agent
  drawn, waited = agent._drawn, 0.0

  def timed(data, num_updates: int, chunk: int):
    nonlocal waited
    source = drawn(data, num_updates, chunk)
    while True:
      began = time.perf_counter()
      batch = next(source, None)
      waited += time.perf_counter() - began
      if batch is None:
        return
      yield batch

  agent._drawn = timed
  agent.train(updates)  # Compiles.
  taken: dict[str, list[float]] = {'training': [], 'sampling': [], 'waiting': [], 'wall': []}
  for _ in range(count):
    first = agent.updates
    began = time.process_time()
    for start in range(first, first + updates, 64):
      agent.source.sample(start, min(64, first + updates - start), agent.batch_size)
    taken['sampling'].append((time.process_time() - began) / updates)
    waited = 0.0
    began, wall = time.process_time(), time.perf_counter()
    agent.train(updates)
    taken['training'].append((time.process_time() - began) / updates)
    taken['wall'].append((time.perf_counter() - wall) / updates)
    taken['waiting'].append(waited / updates)
  ratios = zip(taken['sampling'], taken['training'], strict=True)
  share = statistics.median(s / t for s, t in ratios)
  return {**{k: statistics.median(v) for k, v in taken.items()}, 'share': share}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--gin_file', default='gin_configs/atari/offline_dqn.gin')
  parser.add_argument('--updates', type=int, default=128, help='a round')
  parser.add_argument('--rounds', type=int, default=3)
  options = parser.parse_args()
  print(
    '| codec | training, CPU ms an update | sampling, CPU ms | share of sampling | '
    'learner waits, ms of wall time | training, ms of wall time |\n|---|---|---|---|---|---|'
  )
  for codec in ('raw', 'zstd'):
    bindings = [f"TFDSReplay.codec = '{codec}'"]
    found = rounds([options.gin_file], bindings, options.updates, options.rounds)
    print(
      f'| {codec} | {1e3 * found["training"]:.1f} | {1e3 * found["sampling"]:.2f} | '
      f'{100 * found["share"]:.1f}% | {1e3 * found["waiting"]:.2f} | {1e3 * found["wall"]:.1f} |',
      flush=True,
    )
  print(f'\n{options.gin_file} on the embedded Pong; {machine.line()}.')


if __name__ == '__main__':
  main()

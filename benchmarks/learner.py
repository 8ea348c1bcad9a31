"""Times one gradient update at Atari's size: ours against other libraries', in turn, on one core.

    make bench-peers && python benchmarks/learner.py
    python benchmarks/learner.py --threads=2 --paddings=SAME
    python benchmarks/learner.py --batches 32 128 512 --only 'ours, DQN' 'Dopamine, DQN'
    python benchmarks/learner.py --device=gpu                        (JAX alone, in wall time)

Batches are in memory: nothing is sampled. Ours has the paper's penalty where it says so and all its
metrics, as `run_experiment.py` builds it from gin_configs/atari. Prints a Markdown table for each
padding and batch size; only rows of one table do the same work. A ratio is a row's CPU time by that
of the row it is compared with, of the same round; above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import learners
import machine
import turns

WORKER = pathlib.Path(__file__).parent / 'learners.py'
PACKAGES = (
  *('jax', 'flax', 'optax', 'dopamine-rl'),
  *('torch', 'd3rlpy', 'stable-baselines3', 'sbx-rl'),
)


def gflop(padding: str, batch: int) -> float:
  """Billions of operations of a DQN update: s and s′ forward, s backward; actions as there."""
  sides = (84, 21, 11, 11) if padding == 'SAME' else (84, 20, 9, 7)
  layers, channels = [], 4
  for side, (width, size) in zip(sides[1:], ((32, 8), (64, 4), (64, 3)), strict=True):
    layers.append(2 * side**2 * width * size**2 * channels)
    channels = width
  layers += [2 * sides[-1] ** 2 * channels * 512, 2 * 512 * learners.ACTIONS]
  # Backward is twice a forward, less the gradient of the frames, which nobody needs.
  return batch * (4 * sum(layers) - layers[0]) / 1e9


def compare(padding: str, batch: int, options: argparse.Namespace) -> None:
  """Measures and prints one table."""
  key = 'wall' if options.device == 'gpu' else 'cpu'
  rows = learners.LEARNERS
  names = [
    name
    for name in options.only or rows
    if padding in rows[name].paddings and not (options.device == 'gpu' and rows[name].package)
  ]
  names = list(dict.fromkeys(part for name in names for part in (rows[name].against, name)))
  environment = turns.threads(options.threads, options.device)
  arguments = [padding, str(batch), str(options.threads), options.device]
  processes = []
  for name in [*names, learners.GEMM]:
    package = rows[name].package if name in rows else None
    python = turns.interpreter(package, options.peers) if package else sys.executable
    process = turns.Process(name, [python, str(WORKER), name, *arguments], environment)
    print(f'{name}: ready in {process.ready["first_batch_s"]:.1f} s', file=sys.stderr, flush=True)
    processes.append(process)
  speed = 200 if options.device == 'gpu' else 1  # More in a round, where it is so much faster.
  counts = {name: speed * max(1, rows[name].in_a_round * 32 // batch) for name in names}
  counts = {n: c if n in ('sbx, DQN',) else -(-c // 8) * 8 for n, c in counts.items()}
  results = turns.take_turns(processes, {**counts, learners.GEMM: 40 * speed}, options.rounds)
  rate, work = 1 / turns.middle(results, learners.GEMM, key), gflop(padding, batch)
  reached = {
    name: f'{work / took:.0f}, {100 * work / took / rate:.0f}%'
    for name in names
    if 'DQN' in rows[name].against
    for took in [turns.middle(results, name, key)]
  }
  print(f'### {padding} padding, batch {batch}: {work:.2f} GFLOP in a DQN update\n')
  against = {name: rows[name].against for name in names}
  shown = {name: results[name] for name in names}
  more = {'GFLOP/s, share of the limit': reached}
  print(turns.table(shown, against, key=key, cores=options.threads, more=more))
  print(
    f'\nMatrix products reach {rate:.0f} GFLOP/s, so that {rate / work:.1f} DQN updates/s are the '
    f'limit. Medians (least to most) of {options.rounds} rounds.\n',
    flush=True,
  )


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--paddings', nargs='*', default=['SAME', 'VALID'], choices=learners.BOTH)
  parser.add_argument('--batches', nargs='*', type=int, default=[32])
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--threads', type=int, default=1, help='CPU cores that each may use')
  parser.add_argument('--device', default='cpu', choices=['cpu', 'gpu'])
  parser.add_argument('--peers', nargs='*', default=[turns.PEERS], help='interpreters')
  parser.add_argument('--only', nargs='*', choices=learners.LEARNERS)
  options = parser.parse_args()
  load = os.getloadavg()[0]
  for padding in options.paddings:
    for batch in options.batches:
      compare(padding, batch, options)
  pythons = [sys.executable, *(str(python) for python in options.peers if os.path.exists(python))]
  print(
    f'{options.threads} thread(s), {options.device}; {machine.line()} ({load:.1f} at the start). '
    f'{turns.versions(pythons, PACKAGES)}.'
  )


if __name__ == '__main__':
  main()

"""Times how an update's cost grows with batch size, width, and updates in one call, on one core.

    python benchmarks/growth.py

The agents of gin_configs with the penalty on, through `Learner.update_many`; batches are in memory.
The variants take turns in one process.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import machine
import penalty
import turns

# By size: (updates in a call, batch size, width d); the first is what the gin files say.
VARIANTS = {
  'MinAtar': (
    *((64, 32, 128), (8, 32, 128), (1, 32, 128)),
    *((64, 128, 128), (64, 512, 128), (64, 32, 512), (64, 32, 2048)),
  ),
  'Atari': ((4, 32, 512), (4, 128, 512), (4, 32, 1024), (4, 32, 2048)),
}
NETWORK = {'MinAtar': 'MinAtarCNN', 'Atari': 'NatureCNN'}


def variant(size: str, together: int, batch: int, width: int) -> Callable[[int], Any]:
  """What does a number of calls of `together` updates."""
  import jax

  bindings = [f'{NETWORK[size]}.hidden_units = {width}']
  agent, batches = penalty.agent_and_batches(size, together, batch, bindings)
  held = [agent.state]

  def work(count: int) -> None:
    for _ in range(count):
      held[0], _ = agent.learner.update_many(held[0], batches)
    jax.block_until_ready(held)

  return work


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--sizes', nargs='*', default=list(VARIANTS), choices=list(VARIANTS))
  options = parser.parse_args()
  os.environ.update(turns.threads(1))
  turns.as_runs_do()
  turns.pin(1)
  for size in options.sizes:
    names = {
      f'{k} in a call, batch {b}, width {d}, {size}': (k, b, d) for k, b, d in VARIANTS[size]
    }
    works = {name: variant(size, *settings) for name, settings in names.items()}
    results = {}
    for name, rounds in turns.in_turn(works, 1, options.rounds).items():
      k = names[name][0]
      results[name] = [{**r, 'cpu': r['cpu'] / k, 'wall': r['wall'] / k} for r in rounds]
    print(turns.table(results, dict.fromkeys(names, next(iter(names)))) + '\n', flush=True)
  print(f'Medians (least to most) of {options.rounds} rounds in turn; {machine.line()}.')


if __name__ == '__main__':
  main()

"""Times the steps of an evaluation against Dopamine's, and against the updates of an iteration.

    python benchmarks/evaluation.py

Ours is the runner's evaluation phase, games side by side, seeding them included; Dopamine's is its
agent in its environment, step by step. Then what an iteration of the paper takes, 62,500 updates
and 125,000 evaluation steps, by the times of this run. One core; the loops are in `loops.py`.
"""

from __future__ import annotations

import argparse
import pathlib

import loops
import machine
import turns

UPDATES, STEPS = 62_500, 125_000


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--sizes', nargs='*', default=['Atari', 'MinAtar'])
  parser.add_argument('--minatar', default=turns.PEERS.parent.parent / 'minatar')
  options = parser.parse_args()
  if not pathlib.Path(options.minatar).exists():
    raise SystemExit(f'--minatar: no {options.minatar}; make it with `make bench-peers`.')
  for size in options.sizes:
    ours, peer = f'ours, {size} evaluation', f'Dopamine, {size} evaluation'
    results = loops.measure([ours, peer, f'ours, {size}'], options.rounds, str(options.minatar))
    updates = UPDATES * turns.middle(results, f'ours, {size}') / 3600
    steps = STEPS * turns.middle(results, ours) / 3600
    shown = {name: results[name] for name in (ours, peer)}
    print(f'### {size}\n\n{turns.table(shown, {peer: ours}, unit="step")}\n')
    print(
      f'An iteration: {updates:.2f} hours of one core for {UPDATES:,} updates, {steps:.2f} for '
      f'{STEPS:,} steps of evaluation, which is {100 * steps / (steps + updates):.0f}% of it.\n',
      flush=True,
    )
  print(f'Medians (least to most) of {options.rounds} rounds in turn; {machine.line()}.')


if __name__ == '__main__':
  main()

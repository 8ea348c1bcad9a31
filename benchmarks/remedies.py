"""Times what each mix-in adds to an update of DQN: in turns with one without it, on one core.

    python benchmarks/remedies.py
    python benchmarks/remedies.py --sizes MinAtar --only remedies/redo --rounds=5

Of what acts every so many updates three things are measured: an update at which it is not due, one
at which it is, and what that makes at the mix-in's period. Terms that read nothing but the batch's
features are to cost at most 5%, operations at their period at most 2%. Batches are in memory.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import statistics
import sys

import machine
import penalty
import turns

ROOT = pathlib.Path(__file__).parent.parent / 'gin_configs'
KINDS = ('remedies', 'penalties', 'losses', 'normalisation', 'networks', 'optimizers')
OF_FEATURES = ('lp', 'nuclear_norm', 'stable_rank', 'decorrelation')
MOST = {'term': 1.05, 'operation': 1.02}  # time by the one of none
NEVER = 10**9  # gradient updates
LEFT_OUT = {  # Not of this size, or it needs another source of data.
  'Atari': ('networks/simba', 'losses/target_clipping_returns'),
  'MinAtar': ('networks/nature_valid', 'networks/small', 'losses/target_clipping_returns'),
}
NONE, WITH, DUE = 'without', 'with', 'with, at each update'


def period_of(path: pathlib.Path) -> tuple[str, int] | None:
  """Returns the setting that says how often a mix-in acts, and its value; None at every update."""
  found = re.search(r'^(\w+\.period) = (\d+)', path.read_text(), re.MULTILINE)
  return (found[1], int(found[2])) if found and int(found[2]) > 1 else None


def measure(size: str, path: pathlib.Path, calls: int, rounds: int) -> list[str]:
  """Returns a row of the table."""
  together = 1 if size == 'Atari' else 64
  period = period_of(path)
  bindings = {NONE: [], WITH: [f'{period[0]} = {NEVER}'] if period else []}
  if period:
    bindings[DUE] = [f'{period[0]} = 1']
  versions = {
    name: penalty.updates_of(
      size, together, bindings=lines, mix_ins=() if name == NONE else (str(path),)
    )
    for name, lines in bindings.items()
  }
  results = turns.in_turn(versions, calls, rounds)
  shares = {
    name: [one['cpu'] / base['cpu'] for one, base in zip(taken, results[NONE], strict=True)]
    for name, taken in results.items()
  }
  middle = {name: statistics.median(found) for name, found in shares.items()}
  kind, name = path.parent.name, path.stem
  at_period = middle[WITH]
  if period:
    at_period += (middle[DUE] - middle[WITH]) / period[1]
  limit = MOST['operation'] if period else MOST['term'] if name in OF_FEATURES else None
  verdict = '' if limit is None else f'{limit:.2f}: {"yes" if at_period <= limit else "no"}'
  spread = f'{middle[WITH]:.2f} ({min(shares[WITH]):.2f} to {max(shares[WITH]):.2f})'
  due = [f'{middle[DUE]:.2f}', f'{period[1]:,}'] if period else ['', '']
  took = 1e3 * turns.middle(results, NONE) / together
  return [f'{kind}/{name}', f'{took:.3g}', spread, *due, f'{at_period:.3f}', verdict]


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=11)
  parser.add_argument('--sizes', nargs='*', default=list(penalty.GIN), choices=list(penalty.GIN))
  parser.add_argument('--calls', type=int, default=6, help='in a round: 64 updates each in MinAtar')
  parser.add_argument('--only', nargs='*', help='mix-ins such as remedies/redo')
  options = parser.parse_args()
  os.environ.update(turns.threads(1))
  turns.as_runs_do()
  turns.pin(1)
  paths = [path for kind in KINDS for path in sorted((ROOT / kind).glob('*.gin'))]
  header = ['mix-in', 'CPU ms without', 'time by its', 'where it is due', 'period']
  header += ['at its period', 'at most']
  for size in options.sizes:
    rows = []
    for path in paths:
      name = f'{path.parent.name}/{path.stem}'
      if name in LEFT_OUT[size] or (options.only and name not in options.only):
        continue
      rows.append(measure(size, path, options.calls, options.rounds))
      print(f'{size}: {" | ".join(rows[-1])}', file=sys.stderr, flush=True)
    print(f'### {size}\n\n{turns.markdown(header, rows)}\n', flush=True)
  print(f'Medians (least to most) of {options.rounds} rounds, one thread; {machine.line()}.')


if __name__ == '__main__':
  main()

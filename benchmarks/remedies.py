"""Times what each mix-in adds to an update of DQN: in turns with one without it, on one core.

    python benchmarks/remedies.py
    python benchmarks/remedies.py --sizes MinAtar --only remedies/redo --rounds=5

Of what acts every so many updates three things are measured: an update at which it is not due, one
at which it is, and what that makes at the mix-in's period. Terms that read nothing but the batch's
features are to cost at most 5%, operations at their period at most 2%; the others have no bound and
fewer rounds. Batches are in memory.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import statistics
import sys
from collections.abc import Callable
from typing import Any

import machine
import penalty
import turns

ROOT = pathlib.Path(__file__).parent.parent / 'gin_configs'
KINDS = ('remedies', 'penalties', 'losses', 'normalisation', 'networks', 'optimizers')
OF_FEATURES = [
  f'penalties/{name}' for name in ('lp', 'nuclear_norm', 'stable_rank', 'decorrelation')
]
# Titles of the tables, and how much time by that of none is allowed.
TERM, OPERATION, OTHER = BOUNDS = {
  'Terms of the features alone': 1.05,
  'Operations at their default period': 1.02,
  'The rest': None,
}
NEVER = 10**9  # gradient updates
SOONER = {'remedies/magnitude_pruning': ['MagnitudePruning.begin = 0']}  # Else it is never due.
LEFT_OUT = {
  'Atari': {
    'networks/simba': 'takes flat observations',
    'losses/target_clipping_returns': 'clips as target_clipping_rewards does; its range is data',
  },
  'MinAtar': {
    'networks/nature_valid': "has Atari's convolutions",
    'networks/small': "has Atari's convolutions",
    'losses/target_clipping_returns': 'clips as target_clipping_rewards does; its range is data',
  },
}
CALLS = {'Atari': 4, 'MinAtar': 2}  # in a round; of 64 updates each in MinAtar
NONE, WITH, DUE = 'without', 'with', 'with, at each update'


def period_of(path: pathlib.Path) -> tuple[str, int] | None:
  """Returns the setting that says how often a mix-in acts, and its value; None at every update."""
  found = re.search(r'^(\w+\.period) = (\d+)', path.read_text(), re.MULTILINE)
  return (found[1], int(found[2])) if found and int(found[2]) > 1 else None


def kind_of(name: str, path: pathlib.Path) -> str:
  """Returns the title of the table that a mix-in belongs to."""
  if name in OF_FEATURES:
    return TERM
  return OPERATION if period_of(path) else OTHER


def measure(
  size: str, path: pathlib.Path, without: Callable[[int], Any], calls: int, rounds: int
) -> list[str]:
  """Returns a row of a table; `without` is the update of none, which all rows share."""
  together = 1 if size == 'Atari' else 64
  name, period = f'{path.parent.name}/{path.stem}', period_of(path)
  bindings = {WITH: [f'{period[0]} = {NEVER}'] if period else []}
  if period:
    bindings[DUE] = [f'{period[0]} = 1', *SOONER.get(name, ())]
  made = {
    version: penalty.updates_of(size, together, bindings=lines, mix_ins=(str(path),))
    for version, lines in bindings.items()
  }
  results = turns.in_turn({NONE: without, **made}, calls, rounds)
  shares = {
    version: [one['cpu'] / base['cpu'] for one, base in zip(taken, results[NONE], strict=True)]
    for version, taken in results.items()
  }
  middle = {version: statistics.median(found) for version, found in shares.items()}
  at_period = middle[WITH]
  if period:
    at_period += (middle[DUE] - middle[WITH]) / period[1]
  bound = BOUNDS[kind_of(name, path)]
  verdict = [] if bound is None else [f'{bound:.2f}: {"yes" if at_period <= bound else "no"}']
  spread = f'{middle[WITH]:.2f} ({min(shares[WITH]):.2f} to {max(shares[WITH]):.2f})'
  due = [f'{middle[DUE]:.2f}', f'{period[1]:,}', f'{at_period:.3f}'] if period else []
  took = 1e3 * turns.middle(results, NONE) / together
  return [name, f'{took:.3g}', spread, *due, *verdict]


HEADER = ['mix-in', 'CPU ms without', 'time by its']
HEADERS = {
  TERM: [*HEADER, 'at most'],
  OPERATION: [*HEADER, 'where it is due', 'period', 'at its period', 'at most'],
  OTHER: HEADER,
}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=9, help='of mix-ins with a bound')
  parser.add_argument('--other-rounds', type=int, default=3, help='of those without')
  parser.add_argument('--sizes', nargs='*', default=list(penalty.GIN), choices=list(penalty.GIN))
  parser.add_argument('--calls', type=int, help='in a round: 64 updates each in MinAtar')
  parser.add_argument('--only', nargs='*', help='mix-ins such as remedies/redo')
  options = parser.parse_args()
  os.environ.update(turns.threads(1))
  turns.as_runs_do()
  turns.pin(1)
  paths = {
    f'{kind}/{path.stem}': path for kind in KINDS for path in sorted((ROOT / kind).glob('*.gin'))
  }
  if unknown := set(options.only or ()) - paths.keys():
    parser.error(f'--only: no mix-in {", ".join(sorted(unknown))} in gin_configs.')
  for size in options.sizes:
    calls, tables = options.calls or CALLS[size], {title: [] for title in BOUNDS}
    without = penalty.updates_of(size, 1 if size == 'Atari' else 64, mix_ins=())
    for name, path in paths.items():
      if name in LEFT_OUT[size] or (options.only and name not in options.only):
        continue
      kind = kind_of(name, path)
      rounds = options.rounds if BOUNDS[kind] else options.other_rounds
      tables[kind].append(measure(size, path, without, calls, rounds))
      print(f'{size}: {" | ".join(tables[kind][-1])}', file=sys.stderr, flush=True)
    print(f'### {size}\n')
    for title, rows in tables.items():
      if rows:
        print(f'{title}:\n\n{turns.markdown(HEADERS[title], rows)}\n', flush=True)
    why = '; '.join(f'{name} {reason}' for name, reason in LEFT_OUT[size].items())
    print(f'Not timed: {why}.\n', flush=True)
  print(
    f'Medians (least to most) of {options.rounds} rounds, of the rest {options.other_rounds}; one '
    f'thread; {machine.line()}.'
  )


if __name__ == '__main__':
  main()

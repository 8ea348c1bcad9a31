"""Times what each mix-in adds to an update of DQN: in turns with one without it, on one core.

    python benchmarks/remedies.py
    python benchmarks/remedies.py --sizes MinAtar --only remedies/redo --rounds=5

Of an operation three things are measured: an update at which it is not due, one at which it is, and
what that makes at the mix-in's period. Terms that read nothing but the batch's features are timed
over whole periods, and once more at each update; they are to cost at most 5%, operations at most
2%. The others have no bound and fewer rounds. Batches are in memory.
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
TOGETHER = {'Atari': 1, 'MinAtar': 64}  # updates in a call
CALLS = {'Atari': 4, 'MinAtar': 1}  # in a round: multiples of the terms' periods in updates
ROUNDS = {'Atari': 9, 'MinAtar': 41}  # of mix-ins with a bound: enough to resolve 1%
OTHER_ROUNDS = {'Atari': 3, 'MinAtar': 7}
COPIES = {'Atari': 1, 'MinAtar': 4}  # Of a short update, memory placement changes the time.
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


def updates_of(size: str, **settings: Any) -> Callable[[int], Any]:
  """As `penalty.updates_of`, for several agents after one another."""
  works = [penalty.updates_of(size, TOGETHER[size], **settings) for _ in range(COPIES[size])]
  return lambda count: [work(count) for work in works] and len(works) * count


def measure(
  size: str, path: pathlib.Path, without: Callable[[int], Any], calls: int, rounds: int
) -> list[str]:
  """Returns a row of a table; `without` is the update of none, which all rows share."""
  name, period = f'{path.parent.name}/{path.stem}', period_of(path)
  kind = kind_of(name, path)
  bindings = {WITH: [f'{period[0]} = {NEVER}'] if kind == OPERATION else []}
  if period:
    bindings[DUE] = [f'{period[0]} = 1', *SOONER.get(name, ())]
  made = {
    version: updates_of(size, bindings=lines, mix_ins=(str(path),))
    for version, lines in bindings.items()
  }
  results = turns.in_turn({NONE: without, **made}, calls, rounds)
  shares = {
    version: [one['cpu'] / base['cpu'] for one, base in zip(taken, results[NONE], strict=True)]
    for version, taken in results.items()
  }
  middle = {version: statistics.median(found) for version, found in shares.items()}
  took = middle[WITH]
  row = [name, f'{1e3 * turns.middle(results, NONE) / TOGETHER[size]:.3g}']
  row += [f'{took:.3f} ({min(shares[WITH]):.2f} to {max(shares[WITH]):.2f})']
  if kind == OPERATION:
    took += (middle[DUE] - middle[WITH]) / period[1]
    row += [f'{middle[DUE]:.2f}', f'{period[1]:,}', f'{took:.3f}']
  elif kind == TERM:
    row += [str(period[1]) if period else '1', f'{middle[DUE if period else WITH]:.3f}']
  bound = BOUNDS[kind]
  return row if bound is None else [*row, f'{bound:.2f}: {"yes" if took <= bound else "no"}']


HEADER = ['mix-in', 'CPU ms without', 'time by its']
HEADERS = {
  TERM: [*HEADER, 'period', 'at each update', 'at most'],
  OPERATION: [*HEADER, 'where it is due', 'period', 'at its period', 'at most'],
  OTHER: HEADER,
}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, help='of mix-ins with a bound')
  parser.add_argument('--other-rounds', type=int, help='of those without')
  parser.add_argument('--sizes', nargs='*', default=list(penalty.GIN), choices=list(penalty.GIN))
  parser.add_argument('--calls', type=int, help='in a round: 4 times 64 updates in MinAtar')
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
    bounded, others = options.rounds or ROUNDS[size], options.other_rounds or OTHER_ROUNDS[size]
    without = updates_of(size, mix_ins=())
    for name, path in paths.items():
      if name in LEFT_OUT[size] or (options.only and name not in options.only):
        continue
      kind = kind_of(name, path)
      rounds = bounded if BOUNDS[kind] else others
      tables[kind].append(measure(size, path, without, calls, rounds))
      print(f'{size}: {" | ".join(tables[kind][-1])}', file=sys.stderr, flush=True)
    print(f'### {size}\n')
    for title, rows in tables.items():
      if rows:
        print(f'{title}:\n\n{turns.markdown(HEADERS[title], rows)}\n', flush=True)
    if not options.only:
      why = '; '.join(f'{name} {reason}' for name, reason in LEFT_OUT[size].items())
      print(f'Not timed: {why}.\n')
    print(
      f'Medians (least to most) of {bounded} rounds, without a bound {others}; one thread; '
      f'{machine.line()}.\n',
      flush=True,
    )


if __name__ == '__main__':
  main()

"""Times MinAtar training against Dopamine's JaxDQNAgent, offline and online, on one core.

    make bench-peers && python benchmarks/minatar.py

Offline: gradient updates with the sampling, on the embedded Breakout. Online: environment steps
with their updates at the same n, ours in gymnax's game, Dopamine's in that of Young and Tian. Ours
has the penalty on. Same network, batch size and settings; the loops are in `loops.py`.
"""

from __future__ import annotations

import argparse
import pathlib

import loops
import machine
import turns


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--parts', nargs='*', default=['offline', 'online'])
  parser.add_argument(
    '--minatar', default=turns.PEERS.parent.parent / 'minatar', help='folder that MinAtar is in'
  )
  options = parser.parse_args()
  if 'online' in options.parts and not pathlib.Path(options.minatar).exists():
    raise SystemExit(f'--minatar: no {options.minatar}; make it with `make bench-peers`.')
  for part in options.parts:
    unit = 'update' if part == 'offline' else 'step'
    names = [
      name
      for name in loops.LOOPS
      if 'MinAtar' in name and 'evaluation' not in name and ('online' in name) == (part == 'online')
    ]
    made = loops.compare(names, unit, options.rounds, str(options.minatar))
    print(f'### {part}\n\n{made}\n', flush=True)
  print(f'Medians (least to most) of {options.rounds} rounds in turn, one core; {machine.line()}.')


if __name__ == '__main__':
  main()

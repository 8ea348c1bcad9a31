"""Runs the benchmarks of training one after the other and prints one Markdown report.

    make bench-peers && python benchmarks/run_all.py | tee runs/bench/report.md

Each has a page of its own below; what fails says so and the rest goes on. `--quick` takes few
rounds. Rounds in which a process had to wait for the processor are counted in the tables: CPU times
and ratios stand, wall times of such rounds don't.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import time

import machine
import turns

HERE = pathlib.Path(__file__).parent
# Script: its arguments, and those that make it short.
SCRIPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  'learner.py': ((), ('--rounds=3',)),
  'penalty.py': ((), ('--rounds=5',)),
  'remedies.py': ((), ('--rounds=3', '--calls=2')),
  'growth.py': ((), ('--rounds=3',)),
  'diagnostics.py': ((), ('--rounds=1',)),
  'atari_loop.py': ((), ('--rounds=3',)),
  'minatar.py': ((), ('--rounds=3',)),
  'evaluation.py': ((), ('--rounds=2',)),
  'startup.py': ((), ('--rounds=1',)),
  'sac.py': ((), ('--rounds=3',)),
  'seeds.py': (('--brief', '--sizes', 'online minatar', 'online gymnax'), ('--rounds=2',)),
}
TAKES_PEERS = ('learner.py', 'sac.py')
BUSY = 0.5  # load for each core above which a report says so


def main() -> None:
  """Runs and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='*', default=list(SCRIPTS), choices=list(SCRIPTS))
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--peers', nargs='*', default=[str(turns.PEERS)], help='interpreters')
  options = parser.parse_args()
  load = os.getloadavg()[0] / (os.cpu_count() or 1)
  print(f'# Benchmarks\n\n{machine.line()}.')
  if load > BUSY:
    print(f'\n**The machine is busy** (load {load:.1f} for each core): trust ratios, not times.')
  failed = []
  for script in options.only:
    arguments, quick = SCRIPTS[script]
    command = [sys.executable, str(HERE / script), *arguments, *(quick if options.quick else ())]
    if script in TAKES_PEERS:
      command += ['--peers', *options.peers]
    began = time.monotonic()
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    what = (HERE / script).read_text().splitlines()[0].strip('"')
    print(f'\n## `{script}`\n\n{what}\n\n{done.stdout.strip()}', flush=True)
    if done.returncode:
      failed.append(script)
      print(f'\n**It failed**, with {done.returncode}.')
    print(f'\n({time.monotonic() - began:.0f} s)', flush=True)
  if failed:
    raise SystemExit(f'Failed: {", ".join(failed)}.')


if __name__ == '__main__':
  main()

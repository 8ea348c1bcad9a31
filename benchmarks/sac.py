"""Updates per second of SAC's learner against Stable-Baselines3's and sbx's, in turn, on one core.

    make bench-peers && python benchmarks/sac.py

Sampling is part of an update, the environment is not. Prints a Markdown table; ratios are medians
of each round's, of CPU time, which other work on the machine disturbs least. The last row is no
learner: an update's matrix products alone, by NumPy's BLAS, than which none can be much faster.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import machine
import sac_learners
import turns

WORKER = pathlib.Path(__file__).parent / 'sac_learners.py'
PACKAGES = ('jax', 'torch', 'stable-baselines3', 'sbx-rl')


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--updates', type=int, default=1024, help='of each learner in a round')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--peers', nargs='*', default=[turns.PEERS], help='interpreters')
  parser.add_argument('--only', nargs='*', choices=sac_learners.LEARNERS)
  options = parser.parse_args()
  names = ['ours', *(n for n in options.only or sac_learners.LEARNERS if n != 'ours')]
  load = os.getloadavg()[0]
  processes = []
  for name in names:
    package = sac_learners.PEERS.get(name)
    python = turns.interpreter(package, options.peers) if package else sys.executable
    environment = turns.threads(1) | {'OPENBLAS_NUM_THREADS': '1'}
    processes.append(turns.Process(name, [python, str(WORKER), name], environment))
    print(f'{name}: ready in {processes[-1].ready["first_batch_s"]:.1f} s', file=sys.stderr)
  results = turns.take_turns(processes, dict.fromkeys(names, options.updates), options.rounds)
  print(turns.table(results, dict.fromkeys(names, 'ours')))
  pythons = [sys.executable, *(str(python) for python in options.peers if os.path.exists(python))]
  print(
    f'\nMedians (least to most) of {options.rounds} rounds of {options.updates} updates, one core; '
    f'{machine.line()} ({load:.1f} at the start). {turns.versions(pythons, PACKAGES)}.'
  )


if __name__ == '__main__':
  main()

"""Times the gridworld's speed target: 5 seeds × 500 fitting iterations × T = 200, from cold.

    python benchmarks/gridworld.py

From cold means: new processes, and no compiled program is kept from before. Two processes run the
seeds one after the other, each on one thread. The target is 60 s of wall time on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import resource
import tempfile
import time

import machine

from implicit_rl.gridworld import runs
from implicit_rl.gridworld.config import FittedQConfig

TARGET = 60.0  # seconds


def main() -> None:
  """Runs the target once and prints what it took."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--seeds', type=int, default=5)
  options = parser.parse_args()
  config = FittedQConfig()
  load = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as directory:
    began = time.monotonic()
    runs.run_all(pathlib.Path(directory), [config], range(options.seeds), options.processes)
    wall = time.monotonic() - began
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  cpu = used.ru_utime + used.ru_stime
  updates = options.seeds * config.iterations * config.steps
  print(
    f'{datetime.date.today()}: {options.seeds} seeds × {config.iterations} × {config.steps} on '
    f'{options.processes} processes: {wall:.1f} s of wall time (target {TARGET:.0f} s), '
    f'{cpu:.1f} s of CPU, {1e6 * cpu / updates:.0f} µs of CPU per update with start and compiling, '
    f'{used.ru_maxrss / 1024:.0f} MiB in the largest process'
  )
  print(
    f'{machine.processor()}, {os.cpu_count()} cores, load {load:.1f} at the start, '
    f'{platform.system()}'
  )


if __name__ == '__main__':
  main()

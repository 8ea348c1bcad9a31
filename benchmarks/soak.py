"""Watches the memory of long runs: hours of offline MinAtar training, an hour of Atari evaluation.

    python benchmarks/soak.py minatar --minutes=120 --results=docs/results/reliability
    python benchmarks/soak.py atari --minutes=60 --results=docs/results/reliability

Starts `run_experiment.py` with shipped gin files and embedded data, reads its resident memory every
ten seconds, stops it when the time is over, but not within the warm-up of two iterations, and
writes what it read as CSV. Prints how far memory moved after the warm-up: the median of the last
tenth of the readings against that of the first tenth. Anonymous memory, the part that the program
has asked for, stands beside it: a kernel may drop pages of libraries' files that nobody has read
for a while (DAMON), which lowers resident memory and says nothing of the program.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import machine

ROOT = pathlib.Path(__file__).parent.parent
PERIOD = 10  # seconds between two readings
WARM_UP = 2  # iterations: by then everything has been compiled
COMMANDS = {
  'minatar': (
    'gin_configs/minatar/offline_dqn.gin',
    'OfflineRunner.num_iterations = 1000000',
    'OfflineRunner.training_steps = 5000',
    'OfflineRunner.evaluation_steps = 2000',
  ),
  'atari': (  # One update between two evaluations.
    'gin_configs/atari/offline_dqn.gin',
    'OfflineRunner.num_iterations = 1000000',
    'OfflineRunner.training_steps = 1',
    'OfflineRunner.evaluation_steps = 2000',
    'OfflineRunner.measure_size = 64',
    'OfflineRunner.max_steps_per_episode = 1000',
  ),
}


class Reading(NamedTuple):
  """What one look at the process showed."""

  seconds: float  # since its start
  resident: float  # MiB
  anonymous: float  # MiB of it that no file holds
  iterations: int  # done so far


def memory(pid: int) -> tuple[float, float] | None:
  """Returns MiB of resident and of anonymous memory of a process; None if it has ended."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    resident, anonymous = (
      int(status.split(key)[1].split()[0]) / 1024 for key in ('VmRSS:', 'RssAnon:')
    )
    return resident, anonymous
  except (OSError, IndexError):
    return None


def watch(name: str, minutes: float, directory: str) -> tuple[list[Reading], str]:
  """Runs one command for `minutes` and returns the readings and the tail of what it printed."""
  gin_file, *bindings = COMMANDS[name]
  log = pathlib.Path(directory) / 'metrics.jsonl'
  command = [sys.executable, 'run_experiment.py', f'--base_dir={directory}']
  command += [f'--gin_files={gin_file}', *(f'--gin_bindings={line}' for line in bindings)]
  output = pathlib.Path(directory) / 'output.log'
  readings, start = [], time.monotonic()
  with open(output, 'w') as file:
    process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
      done = 0
      while process.poll() is None and (time.monotonic() - start < minutes * 60 or done < WARM_UP):
        time.sleep(PERIOD)
        held = memory(process.pid)
        if held is not None:
          done = log.read_bytes().count(b'\n') if log.exists() else 0
          readings.append(Reading(time.monotonic() - start, *held, done))
    finally:
      ended = process.poll()
      process.kill()
      process.wait()
  if ended is not None:
    raise SystemExit(f'soak: the run ended by itself with {ended}:\n{output.read_text()[-2000:]}')
  return readings, output.read_text()[-300:]


def growth(readings: list[Reading]) -> tuple[list[tuple[float, float]], float]:
  """Returns the median MiB of the first and last tenth after the warm-up, and its minutes.

  The pairs are those of resident and of anonymous memory.
  """
  warm = [reading for reading in readings if reading.iterations >= WARM_UP]
  tenth = max(1, len(warm) // 10)
  pairs = [
    (statistics.median(values[:tenth]), statistics.median(values[-tenth:]))
    for values in ([r.resident for r in warm], [r.anonymous for r in warm])
  ]
  return pairs, (warm[-1].seconds - warm[0].seconds) / 60


def main() -> None:
  """Watches one run and reports."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('name', choices=COMMANDS)
  parser.add_argument('--minutes', type=float, default=60)
  parser.add_argument('--results', type=pathlib.Path, default=None, help='Where the CSV goes.')
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    readings, tail = watch(arguments.name, arguments.minutes, directory)
  if arguments.results:
    arguments.results.mkdir(parents=True, exist_ok=True)
    with open(arguments.results / f'soak_{arguments.name}.csv', 'w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow(('seconds', 'resident_mib', 'anonymous_mib', 'iterations'))
      writer.writerows((f'{s:.0f}', f'{m:.1f}', f'{a:.1f}', done) for s, m, a, done in readings)
  pairs, minutes = growth(readings)
  print(tail)
  print(f'{machine.line()}\n')
  print('| run | minutes | of them warm | iterations | resident, MiB | anonymous, MiB |')
  print('|---|---|---|---|---|---|')
  cells = ' | '.join(f'{a:.0f} → {b:.0f} ({b / a - 1:+.1%})' for a, b in pairs)
  last = readings[-1]
  times = f'{last.seconds / 60:.0f} | {minutes:.0f} | {last.iterations:,}'
  print(f'| {arguments.name} | {times} | {cells} |')


if __name__ == '__main__':
  main()

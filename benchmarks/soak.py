"""Watches the memory of long runs: hours of offline MinAtar training, an hour of Atari evaluation.

    python benchmarks/soak.py minatar --minutes=120 --results=docs/results/reliability
    python benchmarks/soak.py atari --minutes=60 --results=docs/results/reliability

Starts `run_experiment.py` with shipped gin files and embedded data, reads its resident memory every
ten seconds, stops it when the time is over, and writes what it read as CSV. Prints how far memory
moved after the warm-up, which is two iterations: the median of the last tenth of the readings
against that of the first tenth.
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


def resident(pid: int) -> float | None:
  """Returns MiB of memory that a process holds now; None if it has ended."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    return int(status.split('VmRSS:')[1].split()[0]) / 1024
  except (OSError, IndexError):
    return None


def watch(name: str, minutes: float, directory: str) -> tuple[list[tuple[float, float, int]], str]:
  """Runs one command for `minutes` and returns (seconds, MiB, iterations) readings and its tail."""
  gin_file, *bindings = COMMANDS[name]
  log = pathlib.Path(directory) / 'metrics.jsonl'
  command = [sys.executable, 'run_experiment.py', f'--base_dir={directory}']
  command += [f'--gin_files={gin_file}', *(f'--gin_bindings={line}' for line in bindings)]
  output = pathlib.Path(directory) / 'output.log'
  readings, start = [], time.monotonic()
  with open(output, 'w') as file:
    process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
      while process.poll() is None and time.monotonic() - start < minutes * 60:
        time.sleep(PERIOD)
        memory = resident(process.pid)
        if memory is not None:
          done = log.read_bytes().count(b'\n') if log.exists() else 0
          readings.append((time.monotonic() - start, memory, done))
    finally:
      ended = process.poll()
      process.kill()
      process.wait()
  if ended is not None:
    raise SystemExit(f'soak: the run ended by itself with {ended}:\n{output.read_text()[-2000:]}')
  return readings, output.read_text()[-300:]


def growth(readings: list[tuple[float, float, int]]) -> tuple[float, float, float]:
  """Returns the median MiB of the first and last tenth after the warm-up, and its minutes."""
  warm = [reading for reading in readings if reading[2] >= WARM_UP]
  if not warm:
    raise SystemExit(f'soak: the time was over before {WARM_UP} iterations were done.')
  memory, tenth = [reading[1] for reading in warm], max(1, len(warm) // 10)
  minutes = (warm[-1][0] - warm[0][0]) / 60
  return statistics.median(memory[:tenth]), statistics.median(memory[-tenth:]), minutes


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
      writer.writerow(('seconds', 'resident_mib', 'iterations'))
      writer.writerows((f'{s:.0f}', f'{m:.1f}', done) for s, m, done in readings)
  first, last, minutes = growth(readings)
  print(tail)
  print(f'{machine.line()}\n')
  print(
    '| run | minutes | of them warm | iterations | MiB after warm-up | MiB at the end | change |'
  )
  print('|---|---|---|---|---|---|---|')
  print(
    f'| {arguments.name} | {readings[-1][0] / 60:.0f} | {minutes:.0f} | {readings[-1][2]:,} | '
    f'{first:.0f} | {last:.0f} | {last / first - 1:+.1%} |'
  )


if __name__ == '__main__':
  main()

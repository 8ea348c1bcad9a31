"""Times replay buffers against each other: batches of 32 transitions, four frames a state.

    make bench-peers                                    (once: the other libraries, in .venv-peers)
    python experiments/atari_frames.py --game=Seaquest --replay=seaquest.npz        (once: frames)
    python benchmarks/data.py --replay=seaquest.npz

Each buffer lives in a process of its own and holds the same logged steps. The processes take turns,
one at a time, round after round, so that what else the machine does falls on all of them alike. The
main figure is CPU time, all threads together, which a busy machine disturbs least; the ratio is
the median over rounds of a peer's CPU time by ours of the same round. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import data_buffers
import machine
import numpy as np
import turns

HERE = pathlib.Path(__file__).parent
PIPELINE = 'Dopamine, TFDS pipeline'
PEERS = ('d3rlpy', 'Stable-Baselines3')  # In a virtual environment of their own.
# Batches a round, so that every round of every buffer takes about a second.
BATCHES = {'ours': 1024, 'Dopamine, JAX buffer': 256, PIPELINE: 0}
OTHERS = 128
RAW, COMPRESSED = 'ours, raw in RAM', 'ours, compressed in RAM'


def prepare(replay: pathlib.Path, rows: int, folder: pathlib.Path, as_tfds: bool) -> int:
  """Writes the last whole episodes of a log, as arrays and as TFDS; returns the number of rows."""
  with np.load(replay) as file:
    end = file['episode_end']
    end[-1] = True
    last = int(np.flatnonzero(end)[-2]) + 1  # The last episode of a log is cut off.
    ends = np.flatnonzero(end)
    first = int(ends[ends < max(last - rows, 1)][-1]) + 1 if (ends < last - rows).any() else 0
    arrays = {n: file[n][first:last] for n in ('observation', 'action', 'reward', 'terminal')}
  arrays['episode_end'] = end[first:last]
  for name, array in arrays.items():
    np.save(folder / f'{name}.npy', array)
  if not as_tfds:
    return last - first
  from implicit_rl.data.formats import tfds_writer

  ends = np.flatnonzero(arrays.pop('episode_end')) + 1
  episodes = (
    (0, {name: array[a:b] for name, array in arrays.items()})
    for a, b in zip(np.append(0, ends[:-1]), ends, strict=True)
  )
  tfds_writer.write_dataset(folder / 'tfds', tfds_writer.ATARI, 'Pong_run_1', episodes)
  return last - first


def measure(processes: list[turns.Process], rows: int, rounds: int) -> dict[str, list[dict]]:
  """Lets the processes take turns; returns what each round of each took."""
  results: dict[str, list[dict]] = {p.name: [] for p in processes}
  for turn in range(rounds):
    for process in processes:
      kind = 'ours' if process.name.startswith('ours') else process.name
      # A whole pass for the pipeline: it works ahead within one.
      batches = BATCHES.get(kind, OTHERS) or rows // data_buffers.BATCH
      results[process.name].append(process.run(batches))
    print(f'round {turn + 1} of {rounds}', file=sys.stderr, flush=True)
  return results


def table(processes: list[turns.Process], results: dict[str, list[dict]]) -> str:
  """Returns the Markdown table."""
  middle = lambda name, key: statistics.median(r[key] for r in results[name])
  ratio = lambda name, base: statistics.median(
    a['cpu'] / b['cpu'] for a, b in zip(results[name], results[base], strict=True)
  )
  lines = [
    '| buffer | CPU ms a batch | batches a CPU second | batches a second, wall | '
    'CPU time by ours raw | by ours compressed | bytes a transition | RSS, peak (MiB) |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for process in processes:
    name = process.name
    cpu, wall = middle(name, 'cpu'), middle(name, 'wall')
    held = f'{process.ready["bytes"]:,.0f}' if process.ready['bytes'] else ''
    lines.append(
      f'| {name} | {1e3 * cpu:.3f} | {1 / cpu:,.0f} | {1 / wall:,.0f} | {ratio(name, RAW):.1f} | '
      f'{ratio(name, COMPRESSED):.1f} | {held} | {middle(name, "rss"):,.0f}, '
      f'{middle(name, "peak"):,.0f} |'
    )
  return '\n'.join(lines)


def versions(peers: str) -> str:
  """Returns what ran on what."""
  packages = ('numpy', 'zstandard', 'jax', 'dopamine-rl', 'tensorflow', 'tensorflow-datasets')
  here = [f'{p} {importlib.metadata.version(p)}' for p in packages]
  code = (
    'import importlib.metadata as m; print(", ".join(f"{p} {m.version(p)}" for p in '
    '("d3rlpy", "stable_baselines3", "torch")))'
  )
  there = []
  if pathlib.Path(peers).exists():
    there = [subprocess.run([peers, '-c', code], capture_output=True, text=True).stdout.strip()]
  return ', '.join([f'Python {platform.python_version()}', *here, *there])


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--replay', type=pathlib.Path, required=True, help='of atari_frames.py')
  parser.add_argument('--rows', type=int, default=20_000, help='logged steps that each holds')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--peers', default=str(HERE.parent / '.venv-peers/bin/python'))
  parser.add_argument('--only', nargs='*', choices=data_buffers.BUFFERS)
  options = parser.parse_args()
  names = options.only or list(data_buffers.BUFFERS)
  for needed in (RAW, COMPRESSED):
    if needed not in names:
      names.insert(0, needed)
  if not pathlib.Path(options.peers).exists() and set(PEERS) & set(names):
    raise SystemExit(f'--peers: no {options.peers}; make it with `make bench-peers`.')
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory)
    rows = prepare(options.replay, options.rows, folder, PIPELINE in names)
    load = os.getloadavg()[0]
    processes = []
    for name in names:
      python = options.peers if name in PEERS else sys.executable
      command = [python, str(HERE / 'data_buffers.py'), name, str(folder)]
      processes.append(turns.Process(name, command))
      print(f'{name}: ready in {processes[-1].ready["first_batch_s"]:.1f} s', file=sys.stderr)
    results = measure(processes, rows, options.rounds)
    print(table(processes, results))
    for process in processes:
      process.stop()
  print(
    f'\n{rows} steps of {options.replay.stem}; medians of {options.rounds} rounds in turn; '
    f'{machine.line()} ({load:.1f} at the start). {versions(options.peers)}.'
  )


if __name__ == '__main__':
  main()

"""Memory and robustness of `python -m implicit_rl.data prepare` on a million synthetic frames.

    python benchmarks/prepare.py --output=runs/prepare

Raw logs of 84×84 frames are made, one run prepares them undisturbed, another is killed with SIGKILL
at random moments, spread over all rows, and started again until it ends. Both stores must have the
same checksum.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np

from implicit_rl.data.store import export, prepare, store_files

_EPISODE = 1000  # Rows of an episode.


class Scene:
  """Frames of a still scene with things that move; each is a function of its number."""

  shape, dtype = (0, 84, 84), np.dtype(np.uint8)

  def __init__(self, seed):
    rng = np.random.default_rng(seed)
    self._still = np.kron(rng.integers(0, 256, (12, 12)), np.ones((7, 7))).astype(np.uint8)
    self._things = rng.integers(1, 256, (12, 6, 6)).astype(np.uint8)
    self._speed = rng.integers(-3, 4, (12, 2))

  def take(self, rows):
    """Returns frames [m, 84, 84]."""
    frames = np.repeat(self._still[None], len(rows), axis=0)
    for i, thing in enumerate(self._things):
      at = (self._speed[i] * rows[:, None] + 7 * i + rows[:, None] // 50) % 78
      for frame, (y, x) in zip(frames, at.tolist(), strict=True):
        frame[y : y + 6, x : x + 6] = thing
    return frames


def make_logs(folder, rows, capacity, seed):
  """Writes raw logs of synthetic rows."""
  rng = np.random.default_rng(seed)
  end = np.arange(rows) % _EPISODE == _EPISODE - 1
  end[-1] = True
  columns = {
    'action': rng.integers(0, 6, rows).astype(np.int32),
    'reward': rng.integers(-1, 2, rows).astype(np.float32),
    'terminal': end,
    'episode_end': end,
  }
  stored = types.SimpleNamespace(columns=columns, frames=Scene(seed))
  export.write_logs(stored, folder, capacity=capacity, compression=1)


def run(logs, store, kill_at=None, delay=0.0):
  """Runs the command, killed `delay` seconds after row `kill_at` is safe.

  Returns:
    Exit status, seconds, peak resident MiB.
  """
  began = time.monotonic()
  command = [sys.executable, '-m', 'implicit_rl.data', 'prepare', str(logs), str(store)]
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  ended = None
  while ended is None:
    if kill_at is not None and safe_rows(store) >= kill_at:
      time.sleep(delay)
      # Popen's own kill would take the status of a process that has ended.
      os.kill(process.pid, signal.SIGKILL)
      kill_at = None
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    ended = (status, usage) if pid else None
    time.sleep(0.01)
  process.returncode = os.waitstatus_to_exitcode(ended[0])
  return process.returncode, time.monotonic() - began, ended[1].ru_maxrss / 1024


def safe_rows(store):
  """Returns how many rows an interrupted writer would go on from."""
  progress = store_files.partial(store) / 'progress.json'
  return json.loads(progress.read_text())['rows'] if progress.exists() else 0


def main():
  """Makes the logs, prepares them both ways and compares."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('--rows', type=int, default=1_000_000)
  parser.add_argument('--capacity', type=int, default=100_000, help='rows of a log')
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  logs = options.output / 'logs'
  if not logs.exists():
    make_logs(logs, options.rows, options.capacity, options.seed)
  stores = [options.output / name for name in ('undisturbed', 'killed')]
  for store in stores:
    for folder in (store, store_files.partial(store)):
      shutil.rmtree(folder, ignore_errors=True)
  status, seconds, memory = run(logs, stores[0])
  if status:
    raise SystemExit(f'prepare ended with status {status}.')
  print(f'undisturbed: {seconds:.0f} s, peak {memory:.0f} MiB', flush=True)
  rng, peaks, committed, kills, total = random.Random(options.seed), [memory], [], 0, 0.0
  moments = sorted(rng.uniform(0, 0.99 * options.rows) for _ in range(options.kills))
  while not stores[1].exists():
    delay = rng.uniform(0, 2)
    status, took, memory = run(logs, stores[1], moments[kills] if moments[kills:] else None, delay)
    kills, total = kills + (status < 0), total + took
    peaks.append(memory)
    committed.append(safe_rows(stores[1]))
    print(f'status {status} after {took:.1f} s, peak {memory:.0f} MiB, {committed[-1]} rows safe')
    if status > 0:
      raise SystemExit('prepare failed.')
  settings = [store_files.read_index(store)['settings'] for store in stores]
  prepare.verify(stores[1])
  result = {
    'rows': settings[0]['rows'],
    'bytes_of_store': sum(f.stat().st_size for f in stores[0].iterdir()),
    'bytes_of_logs': sum(f.stat().st_size for f in logs.iterdir()),
    'kills': kills,
    'seconds_undisturbed': round(seconds),
    'seconds_killed': round(total),
    'peak_rss_mib': round(max(peaks)),
    'rows_safe_after_each': committed,
    'content_sha256': [s['content_sha256'] for s in settings],
    'same': settings[0] == settings[1],
  }
  print(json.dumps(result, indent=2))
  (options.output / 'prepare.json').write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  main()

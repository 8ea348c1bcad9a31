"""Runs that the tests kill, signal and starve, in processes of their own, or harm, in this one."""

import os
import pathlib
import sys
import time

import jax

from implicit_rl.logs import checkpoints, jsonl
from tests import forks
from tests.command_line import OFFLINE, ROOT, run, strip_speed

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
SMALL = OFFLINE | {'MinAtarCNN.hidden_units': 16}


def more(base_dir, iterations=2, **bindings):
  """Begins the small run, or goes on with it, in this process; returns all its rows."""
  return run(base_dir, MINATAR, **SMALL | {'OfflineRunner.num_iterations': iterations} | bindings)


def start(base_dir, gin_file, bindings, seed=0):
  """Starts the command line in a new process; what it prints goes to BASE_DIR.log."""
  process = forks.context.Process(
    target=_main, args=(os.fspath(base_dir), gin_file, dict(bindings), seed), daemon=True
  )
  process.start()
  return process


def finish(base_dir, gin_file, bindings, timeout=300):
  """Runs the command line to its end and returns what it exited with."""
  process = start(base_dir, gin_file, bindings)
  process.join(timeout)
  assert process.exitcode is not None, output(base_dir)
  return process.exitcode


def output(base_dir):
  """What the processes of this directory have printed."""
  path = pathlib.Path(f'{base_dir}.log')
  return path.read_text() if path.exists() else ''


def wait_for(condition, process, seconds=120):
  """Polls until the condition holds; false if the process ended before."""
  end = time.monotonic() + seconds
  while not condition():
    if not process.is_alive():
      return False
    assert time.monotonic() < end, 'waited too long'
    time.sleep(0.001)
  return True


def begun(base_dir):
  """A condition: the process that starts next has built its runner and is about to train."""
  record = pathlib.Path(base_dir) / 'run.json'
  before = record.stat().st_mtime_ns if record.exists() else 0
  return lambda: record.exists() and record.stat().st_mtime_ns != before


def rows(base_dir):
  """The run's rows without what depends on the clock."""
  path = pathlib.Path(base_dir) / 'metrics.jsonl'
  return strip_speed(jsonl.read(path)) if path.exists() else []


def assert_same_run(one, other):
  """Parameters, optimiser, replay, counters, rows and spectra agree bit for bit."""
  one, other = pathlib.Path(one), pathlib.Path(other)
  assert rows(one) == rows(other)
  assert (one / 'spectra.jsonl').read_bytes() == (other / 'spectra.jsonl').read_bytes()
  for read in (
    lambda path: checkpoints.load_newest(path / 'checkpoints'),
    lambda path: checkpoints.read(path / 'checkpoints' / checkpoints.BEST),
  ):
    a, b = map(_comparable, (read(one), read(other)))
    assert a == b


def _comparable(tree):
  """A tree as nested tuples; arrays by shape, dtype and bytes; without speeds."""
  if isinstance(tree, dict):
    timed = ('_per_second', 'eval_seconds')
    return tuple((key, _comparable(tree[key])) for key in sorted(tree) if not key.endswith(timed))
  if isinstance(tree, list | tuple):
    return tuple(map(_comparable, tree))
  if hasattr(tree, 'tobytes'):
    return tree.shape, str(tree.dtype), tree.tobytes()
  return tree


def _main(base_dir, gin_file, bindings, seed):
  forks.print_into(f'{base_dir}.log', f'{base_dir}.log')
  sys.stderr.isatty = lambda: True  # Its bars tell a test which phase has begun.
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  from absl import flags

  import run_experiment

  arguments = ['run_experiment.py', f'--base_dir={base_dir}', f'--seed={seed}']
  arguments += [f'--gin_files={ROOT / gin_file}']
  arguments += [f'--gin_bindings={name} = {value}' for name, value in bindings.items()]
  run_experiment.main(flags.FLAGS(arguments))

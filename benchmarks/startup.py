"""Times a run from the process's start to its first gradient update, cold and with kept programs.

    python benchmarks/startup.py

Starts `run_experiment.py` as a user would, with an empty `--compilation_cache`, and then again with
what the first start left there. Wall time, and CPU time, which other work disturbs less. Also says
which heavy modules were loaded by then.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import machine
import turns

ROOT = pathlib.Path(__file__).parent.parent
# What the issue of lazy imports is about; a run needs none that it does not use.
HEAVY = 'tensorflow tensorflow_probability tensorflow_datasets torch matplotlib pandas cv2'.split()
HEAVY += 'ale_py gymnax gymnasium dopamine flax optax jax orbax ray wandb'.split()
RUNS = {
  'Atari': ('gin_configs/atari/offline_dqn.gin', 20),
  'MinAtar': ('gin_configs/minatar/offline_dqn.gin', 10),
  'MinAtar online': ('gin_configs/minatar/online_dqn.gin', 10),
}


def child(arguments: list[str]) -> None:
  """In a process of its own: runs the experiment up to what its first update reports."""
  from implicit_rl.logs import running_means  # NumPy alone.

  add = running_means.RunningMeans.add

  def first(self: running_means.RunningMeans, *given: object) -> None:
    add(self, *given)
    loaded = [name for name in HEAVY if name in sys.modules]
    said = {'at': time.time(), 'cpu': time.process_time(), 'loaded': loaded}
    print(json.dumps(said), flush=True)
    os._exit(0)

  running_means.RunningMeans.add = first  # type: ignore[method-assign]
  sys.argv = ['run_experiment.py', *arguments]
  import runpy

  runpy.run_path(str(ROOT / 'run_experiment.py'), run_name='__main__')


def start(gin_file: str, cache: str) -> dict:
  """Starts once; returns seconds of wall and CPU time, modules, and what it said on stderr."""
  with tempfile.TemporaryDirectory() as base_dir:
    bindings = ['OfflineRunner.training_steps = 1'] if 'offline' in gin_file else []
    command = [sys.executable, __file__, '--child', f'--base_dir={base_dir}']
    command += [f'--gin_files={gin_file}', '--gin_files=gin_configs/penalties/lp.gin']
    command += [f'--gin_bindings={line}' for line in bindings] + [f'--compilation_cache={cache}']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    began = time.time()
    done = subprocess.run(
      command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
  lines = [line for line in done.stdout.splitlines() if line.startswith('{')]
  if not lines:
    raise SystemExit(f'{gin_file} did not start:\n{done.stderr[-2000:]}')
  found = json.loads(lines[-1])
  return {**found, 'wall': found['at'] - began, 'said': done.stderr}


def main() -> None:
  """Measures and prints."""
  if sys.argv[1:2] == ['--child']:
    child(sys.argv[2:])
    return
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--runs', nargs='*', default=list(RUNS), choices=list(RUNS))
  parser.add_argument('--rounds', type=int, default=2, help='warm starts')
  options = parser.parse_args()
  rows, loaded, said = [], {}, {}
  for name in options.runs:
    gin_file, most = RUNS[name]
    with tempfile.TemporaryDirectory() as cache:
      cold = start(gin_file, cache)
      warm = min((start(gin_file, cache) for _ in range(options.rounds)), key=lambda s: s['wall'])
    cells = [f'{s["wall"]:.1f} s, {s["cpu"]:.1f} s' for s in (cold, warm)]
    rows.append([name, *cells, f'{most} s'])
    loaded[name] = ', '.join(warm['loaded'])
    said[name] = warm['said'].strip().splitlines()
  header = ['run', 'cold: wall, CPU', 'with kept programs: wall, CPU', 'wanted']
  print(turns.markdown(header, rows))
  for name in options.runs:
    print(f'\nLoaded in {name}: {loaded[name]}. Lines on stderr with kept programs: ', end='')
    print(len(said[name]), *said[name][:3], sep='\n')
  print(f'\nThe fastest of {options.rounds} warm starts; {machine.line()}.')


if __name__ == '__main__':
  main()

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
import statistics
import subprocess
import sys

import machine
import sac_learners
import turns

HERE = pathlib.Path(__file__).parent
_ONE_THREAD = {
  'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1',
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
  'MKL_NUM_THREADS': '1',
  'JAX_PLATFORMS': 'cpu',
}
_VERSIONS = (
  'import importlib.metadata as m; found = {d.name.lower(): d.version for d in m.distributions()}; '
  'print(*(f"{p} {found[p]}" for p in ("jax", "torch", "stable_baselines3", "sbx-rl") '
  'if p in found), sep=", ")'
)


def table(results: dict[str, list[dict]]) -> str:
  """The Markdown table of what each round of each took."""
  lines = [
    '| learner | ms an update, CPU | wall | updates a CPU second | ours is faster by | '
    'RSS, peak (MiB) |',
    '|---|---|---|---|---|---|',
  ]
  for name, rounds in results.items():
    cpu, wall, peak = (statistics.median(r[k] for r in rounds) for k in ('cpu', 'wall', 'peak'))
    ratio = statistics.median(
      r['cpu'] / o['cpu'] for r, o in zip(rounds, results['ours'], strict=True)
    )
    lines.append(
      f'| {name} | {1e3 * cpu:.2f} | {1e3 * wall:.2f} | {1 / cpu:.0f} | {ratio:.2f} | {peak:,.0f} |'
    )
  return '\n'.join(lines)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--updates', type=int, default=1024, help='of each learner in a round')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--peers', default=str(HERE.parent / '.venv-peers/bin/python'))
  parser.add_argument('--only', nargs='*', choices=sac_learners.LEARNERS)
  options = parser.parse_args()
  names = ['ours', *(n for n in options.only or sac_learners.LEARNERS if n != 'ours')]
  if not pathlib.Path(options.peers).exists() and set(names) & set(sac_learners.PEERS):
    raise SystemExit(f'--peers: no {options.peers}; make it with `make bench-peers`.')
  load = os.getloadavg()[0]
  processes = []
  for name in names:
    python = options.peers if name in sac_learners.PEERS else sys.executable
    command = [python, str(HERE / 'sac_learners.py'), name]
    processes.append(turns.Process(name, command, _ONE_THREAD))
    print(f'{name}: ready in {processes[-1].ready["first_batch_s"]:.1f} s', file=sys.stderr)
  results: dict[str, list[dict]] = {name: [] for name in names}
  for turn in range(options.rounds):
    for process in processes:
      results[process.name].append(process.run(options.updates))
    print(f'round {turn + 1} of {options.rounds}', file=sys.stderr, flush=True)
  print(table(results))
  for process in processes:
    process.stop()
  pythons = [sys.executable, *[options.peers] * (len(names) > 1)]
  versions = (subprocess.check_output([p, '-c', _VERSIONS], text=True).strip() for p in pythons)
  print(
    f'\nMedians of {options.rounds} rounds of {options.updates} updates in turn, one core; '
    f'{machine.line()} ({load:.1f} at the start). {"; peers: ".join(versions)}.'
  )


if __name__ == '__main__':
  main()

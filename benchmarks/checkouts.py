"""Times this checkout's training against another checkout of the project, in turn, on one core.

    git worktree add ../before COMMIT && python benchmarks/checkouts.py --before=../before

Both run their own workers, as `run_experiment.py` sets a process up. A third row of each kind is
this checkout with the CPU kernels off, as it is for whoever imports the library. A ratio is a row's
CPU time by the other checkout's of the same round; below 1 this checkout is faster.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import machine
import turns

HERE = pathlib.Path(__file__).parent
# What is timed: its worker with arguments, and how much each does in a round.
WORKS: dict[str, tuple[tuple[str, ...], int]] = {
  'DQN + penalty': (('learners.py', 'ours, DQN + penalty', 'SAME', '32', '1', 'cpu'), 16),
  'full Rainbow + penalty': (
    ('learners.py', 'ours, full Rainbow + penalty', 'SAME', '32', '1', 'cpu'),
    8,
  ),
  'MinAtar offline': (('loops.py', 'ours, MinAtar'), 1024),
  'MinAtar online, n = 1': (('loops.py', 'ours, MinAtar online, n = 1'), 4000),
  'SAC': (('sac_learners.py', 'ours'), 256),
}
BEFORE, NOW, OFF = 'before', 'now', 'now, kernels off'


def main() -> None:
  """Measures and prints one table for each kind of training."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--before', required=True, help='directory of the other checkout')
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--only', nargs='*', choices=WORKS, default=list(WORKS))
  options = parser.parse_args()
  before = pathlib.Path(options.before).resolve()
  if not (before / 'benchmarks').is_dir():
    parser.error(f'--before: {before} is no checkout of this project.')
  for what in options.only:
    (script, *arguments), count = WORKS[what]
    processes = []
    for name, folder in ((BEFORE, before / 'benchmarks'), (NOW, HERE), (OFF, HERE)):
      variables = turns.threads(1) | {'PYTHONPATH': str(folder.parent)}
      if name == OFF:
        variables[turns.KERNELS_OFF] = '1'
      command = [sys.executable, str(folder / script), *arguments]
      processes.append(turns.Process(name, command, variables, folder=folder.parent))
    results = turns.take_turns(processes, dict.fromkeys((BEFORE, NOW, OFF), count), options.rounds)
    table = turns.table(results, dict.fromkeys(results, BEFORE))
    print(f'### {what}\n\n{table}\n', flush=True)
  print(f'Medians (least to most) of {options.rounds} rounds, one core; {machine.line()}.')


if __name__ == '__main__':
  main()

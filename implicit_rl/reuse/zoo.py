"""Command line: `implicit-rl zoo` trains three small agents, each under a minute or two of a core.

They are ordinary runs, which can be played, evaluated, diagnosed and exported.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from implicit_rl.reuse import options as run_options
from implicit_rl.running import parallel_runs

# Gin file, iterations and additional bindings of each.
AGENTS: dict[str, tuple[str, int, tuple[str, ...]]] = {
  'catch': (
    'gin_configs/gymnax/catch_online_dqn.gin',
    8,
    ('GymnaxEnvironment.image = True', 'MLP.observation_max = 1.0'),  # For pictures.
  ),
  'cartpole': ('gin_configs/gymnasium/cartpole_online_dqn.gin', 12, ()),
  'breakout': (
    'gin_configs/minatar/offline_cql.gin',
    20,
    ('OfflineRunner.training_steps = 1000', 'OfflineRunner.evaluation_steps = 1000'),
  ),
}


def jobs(
  output: pathlib.Path, names: Sequence[str], iterations: int | None = None
) -> list[parallel_runs.Job]:
  """Returns the runs of the named agents, each in its own directory within `output`."""
  found = []
  for name in names:
    gin_file, own, bindings = AGENTS[name]
    count = own if iterations is None else iterations
    runner = 'OnlineRunner' if 'online' in gin_file else 'OfflineRunner'
    bound = (f'{runner}.num_iterations = {count}', *bindings)
    found.append(parallel_runs.Job(output / name, (gin_file,), bound, 0, count))
  return found


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='implicit-rl zoo', description='Trains small agents, on all cores; resumes if stopped.'
  )
  parser.add_argument('--output', default='runs/zoo', metavar='DIR', help='default: runs/zoo')
  parser.add_argument(
    '--agents', nargs='+', choices=AGENTS, default=list(AGENTS), help='default: all'
  )
  parser.add_argument(
    '--iterations', type=run_options.at_least_one, help='of each agent; default: its own number'
  )
  options = parser.parse_args(arguments)
  output = pathlib.Path(options.output)
  made = jobs(output, options.agents, options.iterations)
  try:
    parallel_runs.run_all(made)
  except (OSError, ValueError) as error:
    print(f'implicit-rl zoo: {error}', file=sys.stderr)
    return 1
  for job in made:
    print(job.base_dir)
  print(f'Watch one: implicit-rl play {made[-1].base_dir} --checkpoint=best --output=game.gif')
  return 0


if __name__ == '__main__':
  sys.exit(main())

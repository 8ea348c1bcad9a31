"""The console command `implicit-rl`: a table of subcommands, each imported when it is used."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
  """A subcommand.

  Attributes:
    module: below `implicit_rl`. Its `main(arguments)` gets the arguments after the subcommand's
      name, and returns the exit status or None.
    summary: what it does, for the list of subcommands.
    before: arguments that `main` gets before the user's.
  """

  module: str
  summary: str
  before: tuple[str, ...] = ()


COMMANDS = {
  'train': Command('train', 'trains an agent, or resumes a run'),
  'demo': Command('demo', 'trains offline DQN with remedies and controls, and draws them'),
  'diagnose': Command('diagnostics.__main__', 'measures trained runs and judges their networks'),
  'report': Command('analysis.__main__', 'writes one HTML page about runs', ('report',)),
  'analysis': Command('analysis.__main__', 'draws figures and tables of runs'),
  'evaluate': Command('reuse.evaluating', 'plays a trained run and prints its return'),
  'play': Command('reuse.playing', 'records an episode of a trained run, as .gif or .mp4'),
  'export': Command('reuse.exporting', 'writes a policy to a file that needs only JAX'),
  'zoo': Command('reuse.zoo', 'trains three small example agents'),
  'data': Command('data.__main__', 'makes, checks and exports stores of transitions'),
  'sweep': Command('sweep.__main__', 'starts the runs of a YAML file, on Ray or SLURM'),
  'leaderboard': Command(
    'leaderboard.__main__', 'runs every method in every regime, and draws the rows'
  ),
  'configs': Command('configs', 'lists and copies the shipped gin files and sweeps'),
  'environments': Command('environments.__main__', 'lists the tasks of each environment'),
  'measure-device': Command(
    'measure_device.__main__', 'measures the GPU, TPU or CPU that JAX finds'
  ),
  'gridworld': Command('gridworld.__main__', "draws the paper's gridworld figures"),
  'theory': Command('theory.__main__', "checks the paper's theory and draws its figures"),
}


def _usage() -> str:
  """What `implicit-rl --help` prints."""
  width = max(map(len, COMMANDS))
  rows = [f'  {name:{width}}  {command.summary}' for name, command in COMMANDS.items()]
  return '\n'.join(
    ['usage: implicit-rl COMMAND [ARGUMENT ...]', '', *rows, '', 'implicit-rl COMMAND --help']
  )


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a subcommand and returns the exit status; by default it uses the process's arguments."""
  name, *rest = (sys.argv[1:] if arguments is None else arguments) or ['']
  if name in ('-h', '--help', '--version'):
    from implicit_rl import __version__

    print(f'implicit-rl {__version__}' if name == '--version' else _usage())
    return 0
  if not name:
    print(_usage(), file=sys.stderr)
    return 2
  if name not in COMMANDS:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f' Did you mean {near[0]}?' if near else ''
    print(
      f'implicit-rl: unknown command {name!r}.{hint} List them: implicit-rl --help', file=sys.stderr
    )
    return 2
  # As with `python -m`, a gin file can import modules of the working directory; installed ones win.
  sys.path.append(os.getcwd())
  command = COMMANDS[name]
  module = importlib.import_module(f'implicit_rl.{command.module}')
  return module.main([*command.before, *rest]) or 0

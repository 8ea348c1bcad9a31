"""Shared arguments of commands on trained runs: the run, its checkpoint, and its policy."""

from __future__ import annotations

import argparse

from implicit_rl.running import loading
from implicit_rl.running.loading import LoadedRun


def add(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments that `load` reads."""
  parser.add_argument('run', metavar='RUN', help='the --base_dir of a run, or a seed_S within it')
  parser.add_argument(
    '--checkpoint',
    default='newest',
    help='newest (default), best (the highest evaluation so far) or the number of an iteration',
  )
  parser.add_argument(
    '--gin_bindings', action='append', default=[], help='gin lines added to the record'
  )


def load(options: argparse.Namespace) -> LoadedRun:
  """Loads the run; raises the errors of `load_run`."""
  which = options.checkpoint
  return loading.load_run(
    options.run,
    int(which) if which.isdecimal() else which,
    gin_bindings=options.gin_bindings,
  )


def at_least_one(text: str) -> int:
  """Parses a number for argparse.

  Raises:
    argparse.ArgumentTypeError: unless it is an int of at least 1.
  """
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'must be an int of at least 1, got {text}')
  return int(text)

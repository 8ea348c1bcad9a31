"""Lists and copies the shipped gin files and sweeps: `implicit-rl configs [WORD...]`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from implicit_rl.compat import config_files

_EPILOG = """
A shipped file needs no copy: implicit-rl train --gin_files=gin_configs/minatar/offline_dqn.gin
finds it in any directory, and so does a line include 'gin_configs/minatar/offline_dqn.gin' in a
file of yours. Copy a file to change it; a copy below the working directory comes before the
shipped one.
"""


def shipped(words: Sequence[str] = ()) -> list[str]:
  """Returns the shipped files whose paths contain every word, relative to `SHIPPED`, sorted.

  Raises:
    FileNotFoundError: if there is none.
  """
  files = (*_below('gin_configs', '.gin'), *_below('sweeps', '.yaml'))
  found = [path for path in files if all(word in path for word in words)]
  if not found:
    raise FileNotFoundError(
      f'No shipped file has {" and ".join(map(repr, words))} in its path. '
      'List them all: implicit-rl configs'
    )
  return found


def _below(folder: str, ending: str) -> list[str]:
  paths = (config_files.SHIPPED / folder).rglob(f'*{ending}')
  return sorted(path.relative_to(config_files.SHIPPED).as_posix() for path in paths)


def copy(paths: Sequence[str], directory: pathlib.Path) -> list[pathlib.Path]:
  """Copies shipped files below a directory and returns the copies; overwrites nothing.

  Raises:
    FileExistsError: if another file is in a copy's place; nothing is copied then.
  """
  texts = {directory / path: (config_files.SHIPPED / path).read_bytes() for path in paths}
  for target, text in texts.items():
    if target.exists() and (not target.is_file() or target.read_bytes() != text):
      raise FileExistsError(f'{target} exists and differs from the shipped file: move it away.')
  for target, text in texts.items():
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text)
  return list(texts)


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='implicit-rl configs',
    description='Lists or copies the shipped gin files and sweeps.',
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'words', nargs='*', metavar='WORD', help='words in the path, such as minatar dqn'
  )
  parser.add_argument(
    '--copy', type=pathlib.Path, metavar='DIRECTORY', help='copy the listed files into this folder'
  )
  options = parser.parse_args(arguments)
  try:
    found = shipped(options.words)
    for path in found if options.copy is None else copy(found, options.copy):
      print(path)
  except OSError as error:
    print(f'implicit-rl configs: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())

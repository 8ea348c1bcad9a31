"""Finds gin files and the files they include, in the working directory, beside them, or here.

It loads gin alone, so that a launcher can check its files before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import pathlib
import re
from collections.abc import Iterator
from typing import IO

import gin
from gin import config as gin_config

_PACKAGE = pathlib.Path(__file__).parent.parent
# A checkout has gin_configs/ beside the package.
_SHIPPED = (_PACKAGE.parent, _PACKAGE)
_INCLUDE = re.compile(r"""^(\s*include\s+)(["'])(.+?)\2""", re.MULTILINE)
_MARK = 'implicit_rl:'  # What follows is read by `_open`.


def find(path: str, said: str = '--gin_files: ', beside: str | None = None) -> str:
  """Returns where a gin file is.

  Args:
    path: absolute, or relative to the working directory, to the including file's directory, or to
      the directory that has the shipped `gin_configs/`. The first that is there is taken.
    said: how an error begins, before the path: what names the file.
    beside: the including file, if one does.

  Raises:
    ValueError: for an address.
    FileNotFoundError: if it is not there; says where it was looked for, or the nearest name.
  """
  if '://' in path:
    raise ValueError(
      f'{said}{path} is an address. A gin file can import and so run any code: fetch it, read it, '
      'then name the file.'
    )
  directories = ['', os.path.dirname(beside or ''), *map(str, _SHIPPED)]
  candidates = list(dict.fromkeys(os.path.join(one, path) for one in directories))
  for candidate in candidates:
    if os.path.isfile(candidate):
      return candidate
  if os.path.isdir(path):
    raise FileNotFoundError(f'{said}{path}, which is a directory.')
  message = f'{said}{path}: no such file.'
  for candidate in candidates:
    there = pathlib.Path(candidate).parent.glob('*.gin')
    near = difflib.get_close_matches(candidate, map(str, there), n=1)
    if near:
      name = os.path.join(os.path.dirname(path), os.path.basename(near[0]))
      raise FileNotFoundError(f'{message} Did you mean {name}?')
  places = ', '.join(str(pathlib.Path(candidate).absolute()) for candidate in candidates)
  raise FileNotFoundError(message if os.path.isabs(path) else f'{message} Looked for {places}.')


def parse(path: str) -> None:
  """Has gin parse a file, with its includes found as `find` does.

  Raises:
    ValueError, FileNotFoundError: see `find`; or what gin raises of the file's lines.
  """
  gin.parse_config_file(_MARK + find(path))


@contextlib.contextmanager
def _open(marked: str) -> Iterator[IO[str]]:
  """A gin file whose includes name the files that were found for them."""
  path = marked.removeprefix(_MARK)

  def resolved(match: re.Match) -> str:
    before, _, included = match.groups()
    return f'{before}{_MARK + find(included, f"{path} includes ", path)!r}'

  file = io.StringIO(_INCLUDE.sub(resolved, pathlib.Path(path).read_text(encoding='utf-8')))
  file.name = path  # Gin's messages name it.
  yield file


# Before gin's own readers: the one that looks in packages logs an error for what it does not find.
gin_config._FILE_READERS.insert(0, (_open, lambda path: path.startswith(_MARK)))

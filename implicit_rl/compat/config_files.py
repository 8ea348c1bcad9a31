"""Finds gin files and the files they include: in the working directory, beside them, or shipped.

It loads gin alone, so that a launcher can check its files before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

import gin
from gin import config as gin_config

_PACKAGE = pathlib.Path(__file__).parent.parent
# `gin_configs/` and `sweeps/` are in an installed package, and beside the package in a checkout.
SHIPPED = _PACKAGE if (_PACKAGE / 'gin_configs').is_dir() else _PACKAGE.parent
_INCLUDE = re.compile(r"""^(\s*include\s+)(["'])(.+?)\2""", re.MULTILINE)
_MARK = 'implicit_rl:'  # What follows is read by `_open`.
_reading: list[str] = []  # Files, the outermost first.
_included: dict[tuple[str, str, str], Any] = {}  # {(scope, selector, parameter): value}


def find(path: str, said: str = '--gin_files: ', beside: str | None = None) -> str:
  """Returns where a gin file, or a sweep's YAML file, is.

  Args:
    path: absolute, or relative to the working directory, to the including file's directory, or to
      `SHIPPED`, which has `gin_configs/` and `sweeps/`. The first that is there is taken.
    said: how an error begins, before the path: what names the file.
    beside: the including file, if one does.

  Raises:
    ValueError: for an address.
    FileNotFoundError: if it is not there; says where it was looked for, or the nearest name.
  """
  if '://' in path:
    raise ValueError(
      f'{said}{path} is a URL. A gin file can run any code: download it, read it, then pass the '
      'file.'
    )
  directories = ['', os.path.dirname(beside or ''), str(SHIPPED)]
  candidates = list(dict.fromkeys(os.path.join(one, path) for one in directories))
  for candidate in candidates:
    if os.path.isfile(candidate):
      return candidate
  if os.path.isdir(path):
    raise FileNotFoundError(f'{said}{path}, which is a directory.')
  message = f'{said}{path}: no such file.'
  for candidate in candidates:
    there = pathlib.Path(candidate).parent.glob(f'*{pathlib.Path(path).suffix or ".gin"}')
    near = difflib.get_close_matches(candidate, map(str, there), n=1)
    if near:
      name = os.path.join(os.path.dirname(path), os.path.basename(near[0]))
      raise FileNotFoundError(f'{message} Did you mean {name}?')
  places = ', '.join(str(pathlib.Path(candidate).absolute()) for candidate in candidates)
  raise FileNotFoundError(message if os.path.isabs(path) else f'{message} Looked for {places}.')


def parse(paths: Iterable[str]) -> None:
  """Has gin parse files, with their includes found as `find` does.

  Raises:
    ValueError, FileNotFoundError: see `find`; or what gin raises of the files' lines.
  """
  _included.clear()
  for path in paths:
    gin.parse_config_file(_MARK + find(path))


def is_included(scope: str, selector: str, parameter: str) -> bool:
  """Whether what gin has for a parameter comes from an included file, of those parsed last."""
  key = (scope, selector, parameter)
  return key in _included and _included[key] is gin_config._CONFIG[scope, selector][parameter]


@contextlib.contextmanager
def _open(marked: str) -> Iterator[IO[str]]:
  """A gin file whose includes name the files that were found for them."""
  path = marked.removeprefix(_MARK)

  def resolved(match: re.Match) -> str:
    before, _, included = match.groups()
    found = find(included, f'{path} includes ', path)
    return f'{before}{_MARK + found!r}'

  file = io.StringIO(_INCLUDE.sub(resolved, pathlib.Path(path).read_text(encoding='utf-8')))
  file.name = path  # Gin's messages name it.
  before = _bound()
  _reading.append(path)
  try:
    yield file
  finally:
    _reading.pop()
  if _reading:
    _included.update(
      {
        key: value
        for key, value in _bound().items()
        if key not in before or value is not before[key]
      }
    )


def _bound() -> dict[tuple[str, str, str], Any]:
  return {
    (*owner, parameter): value
    for owner, parameters in gin_config._CONFIG.items()
    for parameter, value in parameters.items()
  }


# Before gin's own readers: the one that looks in packages logs an error for what it does not find.
gin_config._FILE_READERS.insert(0, (_open, lambda path: path.startswith(_MARK)))

"""Finds gin files and the files they include: in the working directory, beside them, or shipped.

It loads only gin, so that a launcher can check its files before slow imports.
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
_MARK = 'implicit_rl:'  # `_open` reads the following two.
_reading: list[str] = []  # Files, the outermost first.
_included: dict[tuple[str, str, str], Any] = {}  # {(scope, selector, parameter): value}


def find(path: str, said: str = '--gin_files: ', beside: str | None = None) -> str:
  """Returns the path of a gin file or of a sweep's YAML file.

  Args:
    path: absolute, or relative to the working directory, to the including file's directory, or to
      `SHIPPED`, which has `gin_configs/` and `sweeps/`. The first existing one is used.
    said: the start of an error, before the path: what names the file.
    beside: the including file, if any.

  Raises:
    ValueError: for a URL.
    FileNotFoundError: if it does not exist; names the searched places, or the nearest name.
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
  """Parses gin files, with their includes found as in `find`.

  Raises:
    ValueError, FileNotFoundError: see `find`; or as gin raises them for the files' lines.
  """
  _included.clear()
  for path in paths:
    gin.parse_config_file(_MARK + find(path))


def is_included(scope: str, selector: str, parameter: str) -> bool:
  """Whether a parameter's value comes from an included file of the last parsed files."""
  key = (scope, selector, parameter)
  return key in _included and _included[key] is gin_config._CONFIG[scope, selector][parameter]


@contextlib.contextmanager
def _open(marked: str) -> Iterator[IO[str]]:
  """A gin file whose includes are replaced by the found files."""
  path = marked.removeprefix(_MARK)

  def resolved(match: re.Match) -> str:
    before, _, included = match.groups()
    found = find(included, f'{path} includes ', path)
    return f'{before}{_MARK + found!r}'

  file = io.StringIO(_INCLUDE.sub(resolved, pathlib.Path(path).read_text(encoding='utf-8')))
  file.name = path  # Gin's messages use this name.
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


# Before gin's own readers, one of which logs an error for every file that it does not find in
# packages.
gin_config._FILE_READERS.insert(0, (_open, lambda path: path.startswith(_MARK)))

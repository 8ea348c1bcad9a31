"""Writes and reads metrics.jsonl: one JSON object per iteration, each written in one call."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from implicit_rl.logs.errors import DamagedLogError


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
  """Appends one row in a single write; non-finite numbers become null, as JSON has none."""
  line = json.dumps(plain(row), allow_nan=False) + '\n'
  with open(path, 'ab') as file:
    file.write(line.encode())
    file.flush()
    os.fsync(file.fileno())


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Returns the rows in order, without a truncated last line.

  Raises:
    DamagedLogError: if a complete line is not a JSON object.
    OSError: if the file can't be read.
  """
  rows = []
  with open(path, 'rb') as file:
    for number, line in enumerate(file, 1):
      if line.endswith(b'\n'):
        rows.append(_row(path, number, line))
  return rows


def last(path: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the last complete row, or None if there is none yet; raises as `read` does."""
  *lines, _ = pathlib.Path(path).read_bytes().split(b'\n') if os.path.exists(path) else [b'']
  return _row(path, len(lines), lines[-1]) if lines else None


def _row(path: str | os.PathLike, number: int, line: bytes) -> dict[str, Any]:
  try:
    row = json.loads(line)
    if not isinstance(row, dict):
      raise ValueError(f'{type(row).__name__} instead of a row')
  except (ValueError, RecursionError) as error:
    raise DamagedLogError(
      f'{path} is damaged at line {number} ({error}): remove that line, or use a copy.'
    ) from error
  return row


def keep_before(path: str | os.PathLike, iteration: int) -> None:
  """Removes the rows of `iteration` and later, which a resumed run is about to write again.

  Raises:
    DamagedLogError: as `read`, or if a row has no iteration; the file stays as it is.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  rows = read(path)
  for number, row in enumerate(rows, 1):
    if not isinstance(row.get('iteration'), int):
      raise DamagedLogError(f'{path} is damaged: row {number} has no iteration.')
  aside = path.with_suffix('.partial')
  with open(aside, 'wb') as file:
    for row in rows:
      if row['iteration'] < iteration:
        file.write(json.dumps(row).encode() + b'\n')
    file.flush()
    os.fsync(file.fileno())
  os.replace(aside, path)


def plain(value: Any) -> Any:
  """Converts arrays, numbers, lists and mappings to JSON values; non-finite numbers become None."""
  if isinstance(value, Mapping):
    return {name: plain(one) for name, one in value.items()}
  if isinstance(value, str | bool | None):
    return value
  array = np.asarray(value)
  if array.dtype == np.float32:
    array = array.astype(str).astype(np.float64)  # Nine digits represent a float32 exactly.
  if array.ndim:
    return [plain(element) for element in array]
  number = array.item()
  return number if isinstance(number, int) or math.isfinite(number) else None

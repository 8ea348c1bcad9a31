"""metrics.jsonl: one JSON object per iteration, whole or absent, never twice."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def append(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
  """Appends one row in a single write; non-finite numbers become null, which JSON can hold."""
  line = json.dumps({name: _plain(value) for name, value in row.items()}, allow_nan=False) + '\n'
  with open(path, 'ab') as file:
    file.write(line.encode())
    file.flush()
    os.fsync(file.fileno())


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The whole rows, in order; a line that was cut short is left out."""
  rows = []
  with open(path, 'rb') as file:
    for line in file:
      if line.endswith(b'\n'):
        rows.append(json.loads(line))
  return rows


def keep_before(path: str | os.PathLike, iteration: int) -> None:
  """Drops the rows of `iteration` and later, which a resumed run is about to write again."""
  path = pathlib.Path(path)
  if not path.exists():
    return
  aside = path.with_suffix('.partial')
  with open(aside, 'wb') as file:
    for row in read(path):
      if row['iteration'] < iteration:
        file.write(json.dumps(row).encode() + b'\n')
    file.flush()
    os.fsync(file.fileno())
  os.replace(aside, path)


def _plain(value: Any) -> Any:
  if isinstance(value, str | bool | None):
    return value
  array = np.asarray(value)
  if array.dtype == np.float32:
    array = array.astype(str).astype(np.float64)  # Nine digits say all that a float32 holds.
  if array.ndim:
    return [_plain(element) for element in array]
  number = array.item()
  return number if isinstance(number, int) or math.isfinite(number) else None

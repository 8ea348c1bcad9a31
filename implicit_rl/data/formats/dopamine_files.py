"""Finds the files of Dopamine's logged replay buffers and checks that they are consistent."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from implicit_rl.data.formats import gzip_arrays, recordings
from implicit_rl.logs.errors import DamagedLogError

COLUMNS = ('action', 'reward', 'terminal')
_REQUIRED = ('observation', *COLUMNS, 'add_count', 'invalid_range')
_READING = 2  # Increased whenever the same files are read as other rows.
_FILE = re.compile(r'(?:\$store\$_)?(\w+)_ckpt\.(\d+)\.gz')


def find_folder(folder: str | os.PathLike) -> pathlib.Path:
  """Returns the folder that holds the log files: `folder` itself, or its `replay_logs`.

  Raises:
    FileNotFoundError: if there are none; the error lists what is there.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise FileNotFoundError(f'There is no folder {folder}.')
  for candidate in (folder, folder / 'replay_logs'):
    if candidate.is_dir() and list_logs(candidate):
      return candidate
  layouts = ('*/replay_logs', '*/*/replay_logs', '*/*/*/replay_logs')
  inside = sorted(found.parent for layout in layouts for found in folder.glob(layout))
  hint = f' Name one run: {", ".join(map(str, inside[:3]))}.' if inside else ''
  raise FileNotFoundError(
    f'{folder} holds no Dopamine logs ({file_name("observation", 0)} and so on).{hint}'
  )


def list_logs(folder: pathlib.Path) -> dict[int, dict[str, pathlib.Path]]:
  """Returns the files of each checkpoint in a folder, by name."""
  found: dict[int, dict[str, pathlib.Path]] = {}
  for path in folder.iterdir():
    match = _FILE.fullmatch(path.name)
    if match and match[1] in (*_REQUIRED, 'episode_end_indices'):
      found.setdefault(int(match[2]), {})[match[1]] = path
  return found


def file_name(name: str, checkpoint: int) -> str:
  """Returns the name of a checkpoint's file."""
  stored = '$store$_' if name in ('observation', *COLUMNS) else ''
  return f'{stored}{name}_ckpt.{checkpoint}.gz'


def names(folder: pathlib.Path) -> tuple[str, str]:
  """Returns game and run of the layout {game}/{run}/replay_logs; '' for other layouts."""
  folder = folder.resolve()
  run = folder.parent if folder.name == 'replay_logs' else folder
  return (run.parent.name, run.name) if run.name.isdigit() else ('', '')


def wanted(found: Mapping[int, Any], checkpoints: Iterable[int] | None) -> list[int]:
  """Returns which checkpoints to read: those given, or all from 0 to the last."""
  return list(range(max(found) + 1)) if checkpoints is None else sorted(set(checkpoints))


def identity(
  folder: str | os.PathLike,
  *,
  checkpoints: Iterable[int] | None = None,
  skip_missing: bool = False,
) -> dict[str, Any]:
  """Returns `DopamineLogs.identity` for the same arguments, without opening a file.

  Raises:
    FileNotFoundError: if the folder holds no logs.
  """
  folder = find_folder(folder)
  found = list_logs(folder)
  numbers = wanted(found, checkpoints)
  game, run = names(folder)
  return {
    'format': 'dopamine_logs',
    'reading': _READING,
    'dataset': f'replay_logs/{game}/{run}' if game else 'replay_logs',
    **({'game': game} if game else {}),
    'checkpoints': recordings.ranges(numbers),
    'skip_missing': skip_missing,
    'files': recordings.file_stamps(
      path for n in numbers for path in sorted(found.get(n, {}).values())
    ),
  }


def counts(files: Mapping[str, gzip_arrays.GzipArray], capacity: int) -> tuple[int, int]:
  """Returns add_count and the stack size, which invalid_range implies."""
  added = files['add_count'].read()
  invalid = files['invalid_range'].read()
  if np.ndim(added) or added < 0:
    raise DamagedLogError(f'{files["add_count"].path} holds {added}; expected a count of rows.')
  # It lists the positions from cursor - n to cursor + stack_size - 1, where n is the update
  # horizon.
  horizon = int(added - invalid[0]) % capacity if invalid.ndim == 1 and len(invalid) else 0
  if not 1 <= horizon < len(invalid):
    raise DamagedLogError(
      f'{files["invalid_range"].path} ({invalid}) and {files["add_count"].path.name} ({added}) do '
      f'not fit each other and {capacity} rows.'
    )
  return int(added), len(invalid) - horizon


def open_log(
  folder: pathlib.Path, found: Mapping[int, Mapping[str, pathlib.Path]], checkpoint: int
) -> dict[str, gzip_arrays.GzipArray]:
  """Opens the files of one checkpoint and checks that they are consistent.

  Args:
    folder: the folder of the files.
    found: from `list_logs`.
    checkpoint: its number.

  Raises:
    FileNotFoundError: if a file is missing.
    DamagedLogError: if a file's content does not match its name.
  """
  there = found.get(checkpoint, {})
  missing = [name for name in _REQUIRED if name not in there]
  if len(missing) == len(_REQUIRED):
    raise FileNotFoundError(
      f'{folder} lacks checkpoint {checkpoint}; it holds {recordings.ranges(found) or "none"}.'
    )
  if missing:
    raise FileNotFoundError(f'{folder / file_name(missing[0], checkpoint)} is missing.')
  files = {name: gzip_arrays.GzipArray(there[name]) for name in _REQUIRED}
  capacity = files['observation'].shape[:1]
  if not capacity or not capacity[0]:
    raise DamagedLogError(f'{files["observation"].path} holds no frames.')
  for name, kinds in {'action': 'iu', 'reward': 'f', 'terminal': 'iub'}.items():
    held = files[name]
    if held.shape != capacity or held.dtype.kind not in kinds:
      kind = 'float' if kinds == 'f' else 'integer'
      raise DamagedLogError(
        f'{held.path} holds {held.dtype} {held.shape}; expected one {kind} for each of the '
        f'{capacity[0]} frames.'
      )
  return files


def repeats(
  before: Mapping[str, np.ndarray], before_end: int, after: Mapping[str, np.ndarray], after_end: int
) -> bool:
  """Whether a ring that ends at row `after_end` holds the same rows as at `before_end`."""
  capacity = len(after['action'])
  at = np.arange(max(after_end - capacity, before_end - capacity, 0), before_end) % capacity
  return all(np.array_equal(before[name][at], after[name][at]) for name in COLUMNS)

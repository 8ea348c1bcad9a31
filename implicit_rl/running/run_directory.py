"""Locks a run's directory for one process, and counts the iterations in its logs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import IO

_LOCK = '.lock'
_held: dict[pathlib.Path, IO[str]] = {}  # Locks of this process.


class InUseError(OSError):
  """Another process uses the directory."""


def iterations_done(base_dir: str | os.PathLike) -> int:
  """Counts the iterations in the log of a run, or in the logs of its seeds together."""
  path = pathlib.Path(base_dir)
  logs = [path / 'metrics.jsonl', *path.glob('seed_*/metrics.jsonl')]
  return sum(log.read_bytes().count(b'\n') for log in logs if log.exists())


def acquire(base_dir: str | os.PathLike) -> None:
  """Creates the directory, checks that it is writable and locks it for this process.

  The operating system releases the lock when the process ends, even by SIGKILL.

  Raises:
    ValueError: if it is a file.
    InUseError: if another process uses it; names the process.
    OSError: if it can't be created or written.
  """
  path = pathlib.Path(base_dir)
  if path.exists() and not path.is_dir():
    raise ValueError(f'--base_dir: {base_dir} is a file.')
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
    path = path.resolve()
    if path in _held:
      return
    file = open(path / _LOCK, 'a+')
  except OSError as error:
    raise OSError(f'--base_dir: {base_dir} cannot be written: {error.strerror}.') from error
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    file.seek(0)
    owner = file.read().strip() or 'another process'
    file.close()
    raise InUseError(
      f'--base_dir: {base_dir} is in use by {owner}. Wait for it, stop it, or use another '
      'directory.'
    ) from error
  file.truncate(0)
  file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
  file.flush()
  _held[path] = file


def release(base_dir: str | os.PathLike) -> None:
  """Unlocks the directory; does nothing if this process does not hold it."""
  file = _held.pop(pathlib.Path(base_dir).resolve(), None)
  if file is not None:
    file.close()


@contextlib.contextmanager
def nothing_left_if_refused(base_dir: str | os.PathLike) -> Iterator[None]:
  """Removes what the block created in the directory, and a new directory, if the block raises.

  Existing files stay, and so does a directory that another process uses.
  """
  path = pathlib.Path(base_dir).absolute()
  there = set(os.listdir(path)) if path.is_dir() else set()
  made = [one for one in (path, *path.parents) if not one.exists()]
  try:
    yield
  except BaseException:
    ours = [one for one in _held if path.resolve() in (one, *one.parents)]
    for name in set(os.listdir(path)) - there if ours else ():  # Otherwise another process's.
      new = path / name
      shutil.rmtree(new) if new.is_dir() else new.unlink()
    for one in ours:
      release(one)
    with contextlib.suppress(OSError):  # Another run may have started in it.
      for one in made:
        one.rmdir()
    raise

"""Where XLA's compiled programs are kept from one run to the next."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

_DIRECTORY = 'JAX_COMPILATION_CACHE_DIR'


def variables(directory: str | os.PathLike | None = None) -> dict[str, str]:
  """What to set before JAX loads, so that it keeps what takes a tenth of a second to compile.

  Each kind of processor has a folder of its own: programs for the CPU use all that the one they
  were compiled on can do, and a home directory may be shared with another.

  Args:
    directory: '' keeps nothing; None is `implicit_rl` in the user's cache directory, unless JAX's
      own variable says something else.
  """
  if directory is None and _DIRECTORY in os.environ:
    return {}
  if directory is None:
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    directory = pathlib.Path(base) / 'implicit_rl' / 'programs'
  if not os.fspath(directory):
    return {_DIRECTORY: ''}
  kept = pathlib.Path(directory).expanduser() / _processor()
  return {_DIRECTORY: str(kept), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'}


def _processor() -> str:
  """A short name of what the processor can do."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    able = next(line for line in lines if line.startswith(('flags', 'Features')))
  except (OSError, StopIteration):  # No Linux, or a processor that says nothing.
    able = platform.processor()
  return f'{platform.machine()}-{hashlib.sha256(able.encode()).hexdigest()[:8]}'

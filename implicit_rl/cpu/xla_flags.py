"""How XLA compiles programs of training, and where they are kept from one run to the next."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

_DIRECTORY = 'JAX_COMPILATION_CACHE_DIR'
_WIDTH = '--xla_cpu_prefer_vector_width'


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


def wide_vectors() -> dict[str, str]:
  """What to set before JAX loads, so that its programs for the CPU use all of a vector's width.

  XLA keeps to vectors of 256 bits, for the first processors that had 512 slowed down when they used
  them. AVX-512 VBMI2 tells later ones (Ice Lake, Zen 4 and after); on Zen 5 a MinAtar update takes
  8% less time with them. What the user's XLA_FLAGS say of it stands, and so do flags in a file.
  """
  flags = os.environ.get('XLA_FLAGS', '').strip()
  in_a_file = flags and not flags.startswith('-')
  if _WIDTH in flags or in_a_file or 'avx512_vbmi2' not in _abilities().split():
    return {}
  return {'XLA_FLAGS': f'{_WIDTH}=512 {flags}'.strip()}  # First: XLA stops at what is no flag.


def _processor() -> str:
  """A short name of what the processor can do."""
  return f'{platform.machine()}-{hashlib.sha256(_abilities().encode()).hexdigest()[:8]}'


def _abilities() -> str:
  """What the processor says that it can do."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    return next(line for line in lines if line.startswith(('flags', 'Features')))
  except (OSError, StopIteration):  # No Linux, or a processor that says nothing.
    return platform.processor()

"""XLA's flags for training programs, and the cache of compiled programs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform

from implicit_rl.cpu import allocator

_DIRECTORY = 'JAX_COMPILATION_CACHE_DIR'
_WIDTH = '--xla_cpu_prefer_vector_width'
_BLOCKS = '--xla_multiheap_size_constraint_per_heap'


def variables(directory: str | os.PathLike | None = None) -> dict[str, str]:
  """Returns variables to set before JAX loads, so that it caches programs slow to compile.

  Each kind of processor has its own folder: programs for the CPU use all features of the processor
  that compiled them, and a home directory may be shared with another.

  Args:
    directory: '' disables the cache; None is `implicit_rl` in the user's cache directory, unless
      JAX's own variable is set.
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


def for_training() -> dict[str, str]:
  """Returns variables to set before JAX starts, so that its programs for the CPU train fast.

  Programs use vectors of the full width. XLA's default is 256 bits, since the first processors with
  512 slowed down when they used them; AVX-512 VBMI2 identifies later ones (Ice Lake, Zen 4 and
  after). Temporaries are in blocks of at most `allocator.BLOCK` bytes, which fit into a heap of the
  C library. This applies only without an accelerator, whose memory needs no such blocks. A larger
  array has its own block.

  The user's XLA_FLAGS, also in a file, take precedence.
  """
  flags = os.environ.get('XLA_FLAGS', '').strip()
  if flags and not flags.startswith('-'):  # They are in a file.
    return {}
  ours = {}
  if 'avx512_vbmi2' in _abilities().split():
    ours[_WIDTH] = 512
  if _cpu_alone():
    ours[_BLOCKS] = allocator.BLOCK
  added = [f'{name}={value}' for name, value in ours.items() if name not in flags]
  found = {}
  if added:
    found['XLA_FLAGS'] = ' '.join([*added, flags]).strip()  # First: XLA stops at non-flags.
  if _BLOCKS in ours and 'TF_CPP_MIN_LOG_LEVEL' not in os.environ:
    found['TF_CPP_MIN_LOG_LEVEL'] = '2'  # XLA warns of each array that is larger than a block.
  return found


def _cpu_alone() -> bool:
  """Whether JAX will compute on the CPU, as far as is known before it loads."""
  if chosen := os.environ.get('JAX_PLATFORMS'):
    return chosen == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None


def _processor() -> str:
  """Returns a short name of the processor's features."""
  return f'{platform.machine()}-{hashlib.sha256(_abilities().encode()).hexdigest()[:8]}'


def _abilities() -> str:
  """Returns the processor's reported features."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    return next(line for line in lines if line.startswith(('flags', 'Features')))
  except (OSError, StopIteration):  # Not Linux, or a processor without this information.
    return platform.processor()

"""What becomes of freed memory: the C library keeps it, since the next update wants it again."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import sys
import warnings

import jax

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h
_HUGEPAGE, _COLLAPSE = 14, 25  # mman.h
_KEPT = 1 << 30  # bytes
_HEAP = 64 << 20  # bytes; an arena is made of heaps of this size
_ARENAS = 8  # from which all threads take memory; each keeps what it once had to give
_MOST = 8 * _HEAP  # bytes; larger mappings are somebody's data, not heaps in a row
_LARGE_PAGES = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
BLOCK = _HEAP - (1 << 18)  # bytes; a block up to this size has room in a heap


@functools.cache
def keep_freed_memory() -> bool:
  """Lets glibc keep what a thread frees, in blocks that fit a heap, and serve the next from it.

  XLA's CPU programs take memory for their temporaries at every call. Blocks above 32 MB come from
  the operating system and go back to it, and so do an arena's heaps but the first; touching all
  their pages anew costs an Atari update a fifth of its time. Blocks that have no room in a heap
  still come and go, so `compiler_options` has XLA ask for several instead. Whoever has set
  MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES has decided otherwise.

  Returns:
    Whether it was done, for blocks of any size: there is glibc, and the user said nothing else.
  """
  if {'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'} & set(os.environ) or sys.platform != 'linux':
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  whole = mallopt(_MMAP_THRESHOLD, _KEPT)
  if not (whole or mallopt(_MMAP_THRESHOLD, _HEAP // 2)):  # All that glibc took until 2.34.
    return False
  mallopt(_TRIM_THRESHOLD, _KEPT)
  mallopt(_ARENA_MAX, _ARENAS)
  mallopt(_TOP_PAD, _HEAP)  # A free heap goes back where the one before has as much room.
  return bool(whole)


def compiler_options() -> dict[str, int]:
  """For `jax.jit` of updates: on a CPU, temporaries come in blocks of `BLOCK` at most.

  A single array that is larger has a block of its own. What takes several blocks, such as a DQN's
  update on 128 of Atari's states, is compiled anew by every run: JAX can't keep it in a file.
  """
  if jax.default_backend() != 'cpu':
    return {}
  warnings.filterwarnings('ignore', 'Error writing persistent .*: Multiple temp buffer allocations')
  return {'xla_multiheap_size_constraint_per_heap': BLOCK}


@functools.cache
def use_large_pages() -> None:
  """Has Linux put what heaps hold by now into pages of 2 MB, once: they are found faster.

  Where `keep_freed_memory` did nothing, and where Linux is set never to have such pages, neither
  does this. It takes mappings for heaps that begin where heaps do; others that happen to look alike
  come to no harm. Pages that were touched in part become whole, so memory grows a little.
  """
  if not keep_freed_memory():
    return
  try:
    if '[never]' in _LARGE_PAGES.read_text():
      return
    mappings = pathlib.Path('/proc/self/maps').read_bytes().split(b'\n')
  except OSError:
    return
  madvise = ctypes.CDLL(None).madvise
  for mapping in filter(None, mappings):
    addresses, access, *more = mapping.split()
    start, end = (int(address, 16) for address in addresses.split(b'-'))
    nameless = len(more) == 3 and access == b'rw-p'
    if nameless and start % _HEAP == 0 and end - start <= _MOST:
      for advice in (_HUGEPAGE, _COLLAPSE):  # Allowed there; and at once, from Linux 6.1 on.
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)

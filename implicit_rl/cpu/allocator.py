"""What becomes of freed memory: the C library keeps it, since the next update wants it again."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h
_KEPT = 1 << 30  # bytes
_HEAP = 64 << 20  # bytes; an arena is made of heaps of this size
_ARENAS = 8  # from which all threads take memory; each keeps what it once had to give
BLOCK = _HEAP - (1 << 18)  # bytes; a block up to this size has room in a heap


@functools.cache
def keep_freed_memory() -> bool:
  """Lets glibc keep what a thread frees, in blocks that fit a heap, and serve the next from it.

  XLA's CPU programs take memory for their temporaries at every call. Blocks above 32 MB come from
  the operating system and go back to it, and so do an arena's heaps but the first; touching all
  their pages anew costs an Atari update a fifth of its time. Blocks that have no room in a heap
  still come and go, so `xla_flags.for_training` has XLA ask for several instead. A user's
  MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES wins.

  For launchers: it changes how the whole process allocates.

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

"""Makes the C library keep freed memory, since the next update needs it again."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h
_KEPT = 1 << 30  # bytes
_HEAP = 64 << 20  # bytes; an arena consists of heaps of this size
_ARENAS = 8  # from which all threads take memory; each keeps freed memory
BLOCK = _HEAP - (1 << 18)  # bytes; a block up to this size fits into a heap


@functools.cache
def keep_freed_memory() -> bool:
  """Makes glibc keep and reuse a thread's freed memory, in blocks that fit into a heap.

  XLA's CPU programs take memory for their temporaries at every call. By default, blocks above 32 MB
  are returned to the operating system, and so are all heaps of an arena except the first. Getting
  their pages again takes a fifth of an Atari update's time. Blocks that do not fit into a heap are
  still returned, so `xla_flags.for_training` makes XLA request several smaller ones. A user's
  MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES takes precedence.

  For launchers: it changes how the whole process allocates.

  Returns:
    Whether it was done: with glibc, and without settings of the user.
  """
  if {'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'} & set(os.environ) or sys.platform != 'linux':
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  whole = mallopt(_MMAP_THRESHOLD, _KEPT)
  if not (whole or mallopt(_MMAP_THRESHOLD, _HEAP // 2)):  # The maximum in glibc before 2.34.
    return False
  mallopt(_TRIM_THRESHOLD, _KEPT)
  mallopt(_ARENA_MAX, _ARENAS)
  mallopt(_TOP_PAD, _HEAP)  # A free heap is returned if the previous one has this much space.
  return bool(whole)

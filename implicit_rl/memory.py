"""What the C library does with freed memory: it keeps it, since the next update wants it again."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> bool:
  """Lets glibc keep up to a gibibyte of freed memory, and serve blocks of that size from it.

  XLA's CPU programs take their temporaries as one block at every call. Blocks above 32 MB come from
  the operating system and go back to it, and touching all their pages anew costs an Atari update a
  fifth of its time. Whoever has set MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES has decided otherwise.

  Returns:
    Whether it was done: there is glibc, and the user has said nothing else.
  """
  if {'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'} & set(os.environ) or sys.platform != 'linux':
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  return mallopt is not None and all(
    [
      mallopt(_MMAP_THRESHOLD, _KEPT),
      mallopt(_TRIM_THRESHOLD, _KEPT),
      mallopt(_ARENA_MAX, 1),  # That of a thread serves no block above 64 MB.
    ]
  )

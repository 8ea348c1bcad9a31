"""How long a process computes before Linux lets another have its core."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

# sched_setattr's number by machine (asm/unistd.h); glibc has had no function for it.
_SYSTEM_CALL = {'x86_64': 314, 'aarch64': 274}
_SECONDS = 0.1  # The most that Linux grants.


class _Attributes(ctypes.Structure):
  """`struct sched_attr` of sched_setattr(2)."""

  _fields_ = [
    ('size', ctypes.c_uint32),
    ('policy', ctypes.c_uint32),
    ('flags', ctypes.c_uint64),
    ('nice', ctypes.c_int32),
    ('priority', ctypes.c_uint32),
    ('runtime', ctypes.c_uint64),
    ('deadline', ctypes.c_uint64),
    ('period', ctypes.c_uint64),
    ('util_min', ctypes.c_uint32),
    ('util_max', ctypes.c_uint32),
  ]


def lengthen(seconds: float = _SECONDS) -> bool:
  """Asks for long turns on a core, for this thread and those that it starts from now on.

  Where runs are more than cores they take turns of a few milliseconds, and each finds the caches
  full of another's network. The share of each is as before; what else wants a core may wait longer
  for it. Policy and niceness stay.

  Args:
    seconds: of a turn, 0.0001 to 0.1; Linux takes the nearest.

  Returns:
    Whether Linux took the wish. From 6.12 on it follows it, for everyone; earlier ones take it and
    go on as before. It is not asked of other systems, or under other policies.
  """
  number = _SYSTEM_CALL.get(platform.machine())
  if sys.platform != 'linux' or number is None:
    return False
  policy = os.sched_getscheduler(0)
  if policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
    return False
  nice = os.getpriority(os.PRIO_PROCESS, 0)
  wanted = _Attributes(
    size=ctypes.sizeof(_Attributes), policy=policy, nice=nice, runtime=round(1e9 * seconds)
  )
  return ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0) == 0

"""Long turns on a core are what Linux then says of the thread, and nothing else of it changes."""

import ctypes
import os
import platform
import struct
import sys
import threading

import pytest

from implicit_rl import time_slices

GET = {'x86_64': 315, 'aarch64': 275}.get(platform.machine())  # sched_getattr
LAYOUT = 'IIQiIQQQII'
RELEASE = (
  tuple(int(part) for part in platform.release().split('.')[:2]) if os.name == 'posix' else ()
)

if sys.platform != 'linux' or GET is None or RELEASE < (6, 12):
  pytest.skip('Linux 6.12 came with it', allow_module_level=True)


def attributes() -> dict[str, int]:
  """Of the calling thread."""
  found = ctypes.create_string_buffer(struct.calcsize(LAYOUT))
  assert not ctypes.CDLL(None).syscall(GET, 0, found, len(found), 0)
  names = ('size', 'policy', 'flags', 'nice', 'priority', 'runtime')
  return dict(zip(names, struct.unpack(LAYOUT, found.raw), strict=False))


def in_a_thread(function):
  """What a function returns in a thread of its own, so that the tests' stays as it is."""
  found = []
  thread = threading.Thread(target=lambda: found.append(function()))
  thread.start()
  thread.join()
  return found[0]


@pytest.mark.parametrize('seconds', [0.1, 0.02])
@pytest.mark.parametrize('policy', [os.SCHED_OTHER, os.SCHED_BATCH])
def test_it_is_granted_and_policy_and_niceness_stay(seconds, policy):
  def changed():
    os.sched_setscheduler(0, policy, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)  # Of this thread alone, on Linux.
    assert time_slices.lengthen(seconds)
    return attributes()

  nice = os.getpriority(os.PRIO_PROCESS, 0) + 2
  found = in_a_thread(changed)
  assert (found['policy'], found['nice']) == (policy, nice)
  assert found['runtime'] == round(seconds * 1e9)


def test_threads_inherit_it():
  def started():
    assert time_slices.lengthen()
    return in_a_thread(attributes)

  assert in_a_thread(started)['runtime'] == 100_000_000


def test_what_linux_schedules_otherwise_is_left_alone():
  def idle():
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return time_slices.lengthen(), os.sched_getscheduler(0)

  assert in_a_thread(idle) == (False, os.SCHED_IDLE)

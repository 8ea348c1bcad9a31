"""Stops a run gracefully on the first SIGTERM or SIGINT, and at once on the second."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_requested: list[int] = []  # Signals received so far.


class StoppedError(Exception):
  """Raised where a run that was asked to stop can be saved."""


def requested() -> bool:
  """Returns whether this process was asked to stop; stays true until `forget`."""
  return bool(_requested)


def check() -> None:
  """Raises StoppedError if the process was asked to stop. Call it where a run can be saved."""
  if _requested:
    raise StoppedError(f'by {signal.Signals(_requested[0]).name}')


def forget() -> None:
  """Clears all requests, for a process that continues with something else."""
  _requested.clear()


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Treats the first signal inside the block as a request; the second ends the process at once.

  Does nothing outside the main thread, where Python can't set handlers.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, _handle) for number in SIGNALS}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
  del frame
  if _requested:
    os._exit(128 + number)  # Safe even if something hangs: checkpoints are written atomically.
  _requested.append(number)
  # Bypasses print, which the signal may have interrupted.
  name = signal.Signals(number).name
  os.write(
    sys.__stderr__.fileno() if sys.__stderr__ else 2,
    f'\n{name}: saving, then stopping. Send it again to end at once.\n'.encode(),
  )

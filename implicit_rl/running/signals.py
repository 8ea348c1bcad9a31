"""SIGTERM and SIGINT: the first asks a run to stop at the next good place, the second ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_requested: list[int] = []  # Signals that came and were not acted on yet.


class StoppedError(Exception):
  """The run was asked to stop, and stands where it can be saved."""


def requested() -> bool:
  """Whether this process was asked to stop. It stays so: what was to follow must not start."""
  return bool(_requested)


def check() -> None:
  """Raises StoppedError if the process was asked to stop; called where a run can be saved."""
  if _requested:
    raise StoppedError(f'by {signal.Signals(_requested[0]).name}')


def forget() -> None:
  """Takes requests back, for a process that goes on with something else."""
  _requested.clear()


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Within it the first signal is a request; the second ends the process at once.

  Outside the main thread, where Python sets no handlers, it changes nothing.
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
    os._exit(128 + number)  # Whatever hangs: checkpoints are whole or absent.
  _requested.append(number)
  # Straight to the descriptor: the signal may have come within a print.
  name = signal.Signals(number).name
  os.write(
    sys.__stderr__.fileno() if sys.__stderr__ else 2,
    f'\n{name}: saving, then stopping. Once more ends it at once.\n'.encode(),
  )

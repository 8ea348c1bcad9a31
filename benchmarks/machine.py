"""What a benchmark says about the machine it ran on."""

from __future__ import annotations

import datetime
import os
import pathlib
import platform


def processor() -> str:
  """Returns the name of the processor."""
  information = pathlib.Path('/proc/cpuinfo')
  if information.exists():
    for line in information.read_text().splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()


def line() -> str:
  """Returns the date, the processor, its cores and how busy they are."""
  return (
    f'{datetime.date.today()}; {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}'
  )


def memory(field: str) -> float:
  """Returns MiB of 'VmRSS', memory held now, or 'VmHWM', the most ever held (Linux)."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(status.split(field + ':')[1].split()[0]) / 1024

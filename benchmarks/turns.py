"""Processes that take turns: each waits for a number, does that much and says what it took."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import machine


class Process:
  """Something measured, in a process of its own.

  Args:
    name: what it is called.
    command: starts a program that calls `serve`.
    environment: variables added to this process's.
  """

  def __init__(self, name: str, command: list[str], environment: Mapping[str, str] = {}):
    here = pathlib.Path(__file__).parent
    common = {'PYTHONPATH': str(here.parent), 'TF_CPP_MIN_LOG_LEVEL': '3'}
    common['CUDA_VISIBLE_DEVICES'] = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    self._errors = tempfile.TemporaryFile('w+')
    pipe = subprocess.PIPE
    self._process = subprocess.Popen(
      command,
      stdin=pipe,
      stdout=pipe,
      stderr=self._errors,
      env={**os.environ, **common, **environment},
      text=True,
    )
    self.name = name
    self.ready = self._answer()

  def run(self, count: int) -> dict[str, float]:
    """Does it `count` times; returns seconds of wall and CPU time for each, and MiB."""
    self._process.stdin.write(f'{count}\n')
    self._process.stdin.flush()
    answer = self._answer()
    return {**answer, 'wall': answer['wall'] / count, 'cpu': answer['cpu'] / count}

  def stop(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()

  def _answer(self) -> dict[str, float]:
    line = self._process.stdout.readline()
    if not line:
      self._errors.seek(0)
      raise SystemExit(f'{self.name} failed:\n{self._errors.read()[-3000:]}')
    return json.loads(line)


def serve(make: Callable[[], tuple[Callable[[int], Any], Any]], warm_up: int) -> None:
  """Makes what is measured, warms it up, then answers until the input ends.

  Args:
    make: returns the function of a count, and what is said of it beforehand (JSON, or None).
    warm_up: the count of the first call, which is not measured.
  """
  out = sys.stdout
  sys.stdout = sys.stderr  # Libraries that print must not disturb the answers.
  began = time.perf_counter()
  work, held = make()
  work(warm_up)
  answer = {'bytes': held, 'first_batch_s': time.perf_counter() - began}
  print(json.dumps(answer), file=out, flush=True)
  for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    work(int(line))
    answer = {'wall': time.perf_counter() - wall, 'cpu': time.process_time() - cpu}
    answer |= {'rss': machine.memory('VmRSS'), 'peak': machine.memory('VmHWM')}
    print(json.dumps(answer), file=out, flush=True)

"""Processes forked from one that has imported everything: they start in no time.

What they run is the real thing: an entry point or a script, on real files. JAX has only been
imported when they are forked; each starts its own.
"""

import gc
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

import pytest  # noqa: F401 - what targets import is imported here, once
import tensorflow_datasets  # noqa: F401

from implicit_rl.running import (
  configurables,
  experiment,  # noqa: F401
)

configurables.load()  # Not the environments: gymnax starts JAX when it is imported.
gc.freeze()  # Else each process would copy all of it, to look for garbage.
context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload([__name__])


def script(path, *arguments, timeout=600):
  """What `python PATH ARGUMENTS` does, as a `subprocess.CompletedProcess` with text."""
  path = pathlib.Path(path)
  arguments = [os.fspath(path), *map(str, arguments)]
  with tempfile.TemporaryDirectory() as folder:
    outputs = [pathlib.Path(folder) / name for name in ('stdout', 'stderr')]
    process = context.Process(target=_script, args=(arguments, outputs), daemon=True)
    process.start()
    process.join(timeout)
    said = [file.read_text() for file in outputs]
  assert process.exitcode is not None, said
  return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def print_into(stdout, stderr):
  """Appends what this process prints to two files, or to one."""
  for number, path in enumerate((stdout, stderr), start=1):
    with open(path, 'ab', buffering=0) as file:
      os.dup2(file.fileno(), number)
  sys.stdout = os.fdopen(1, 'w', buffering=1)
  sys.stderr = os.fdopen(2, 'w', buffering=1)


def _script(arguments, outputs):
  print_into(*outputs)
  sys.argv = arguments
  sys.path.insert(0, os.path.dirname(arguments[0]))
  runpy.run_path(arguments[0], run_name='__main__')

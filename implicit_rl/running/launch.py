"""What a process that does a run starts with: its environment variables, JAX and its log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
from collections.abc import Iterator

from implicit_rl.cpu import xla_flags

# One run per core does more than one run on all cores: these networks are small.
_ONE_THREAD = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'


def environment(
  compilation_cache: str | os.PathLike | None = None, *, one_thread: bool = True
) -> dict[str, str]:
  """What to set in a run's process before JAX loads, when several runs share a machine.

  Args:
    compilation_cache: directory where XLA's programs are kept for the next run; None keeps none.
    one_thread: whether the run computes on one core.
  """
  variables = xla_flags.wide_vectors()
  if one_thread:
    flags = variables.get('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
    variables['XLA_FLAGS'] = f'{flags} {_ONE_THREAD}'.strip()
  if 'XLA_PYTHON_CLIENT_PREALLOCATE' not in os.environ:
    variables['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # The runs share a GPU.
  if compilation_cache is not None:
    variables |= xla_flags.variables(compilation_cache)
  return variables


def start_jax() -> None:
  """Starts JAX in a run's process; where `environment` said so, with one thread to compute on.

  XLA's flags for that leave a pool with a thread for each core that the process may use as JAX
  starts, so for that moment it may use one. Where runs are as many as cores, two small networks
  trained a quarter faster for it.
  """
  if _ONE_THREAD not in os.environ.get('XLA_FLAGS', '') or not hasattr(os, 'sched_setaffinity'):
    return
  import jax

  cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(cores)})
  try:
    jax.devices()
  finally:
    for thread in os.listdir('/proc/self/task'):  # The new ones have inherited it.
      with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(int(thread), cores)


@contextlib.contextmanager
def log_of(base_dir: str | os.PathLike) -> Iterator[None]:
  """What is printed within goes to run.log in a directory that is there."""
  with (
    open(pathlib.Path(base_dir) / 'run.log', 'a') as log,
    contextlib.redirect_stdout(log),
    contextlib.redirect_stderr(log),
  ):
    yield


def stop_with_parent() -> None:
  """Sends this process SIGTERM when the one that started it ends, however it ends.

  Else runs would go on after `kill` of what shows their progress. Linux alone has it (prctl's
  PR_SET_PDEATHSIG, 1).
  """
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)

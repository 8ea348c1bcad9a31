"""Prepares a process for a run: environment variables, JAX, the log file, its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
from collections.abc import Iterator

from implicit_rl.cpu import launcher, xla_flags

# With these small networks, one run per core is faster in total than runs on all cores.
_ONE_THREAD = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'


def environment(
  compilation_cache: str | os.PathLike | None = None, *, one_thread: bool = True
) -> dict[str, str]:
  """Returns environment variables for a run that shares its machine; set them before JAX loads.

  Args:
    compilation_cache: directory of compiled programs, which later runs reuse; None keeps none.
    one_thread: compute on one core.
  """
  variables = xla_flags.for_training()
  if one_thread:
    flags = variables.get('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
    variables['XLA_FLAGS'] = f'{flags} {_ONE_THREAD}'.strip()
  if 'XLA_PYTHON_CLIENT_PREALLOCATE' not in os.environ:
    variables['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # The runs share a GPU.
  if compilation_cache is not None:
    variables |= xla_flags.variables(compilation_cache)
  return variables


def start_jax() -> None:
  """Prepares a run's process and starts JAX, with one thread if `environment` requires it.

  Despite XLA's flags, JAX starts one thread for each core that the process may use. This function
  therefore restricts the process to one core while JAX starts.
  """
  launcher.prepare()
  if _ONE_THREAD not in os.environ.get('XLA_FLAGS', '') or not hasattr(os, 'sched_setaffinity'):
    return
  import jax

  cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(cores)})
  try:
    jax.devices()
  finally:
    for thread in os.listdir('/proc/self/task'):  # JAX's threads inherited the restriction.
      with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(int(thread), cores)


@contextlib.contextmanager
def log_of(base_dir: str | os.PathLike) -> Iterator[None]:
  """Sends printed output to `base_dir/run.log`; the directory must exist."""
  with (
    open(pathlib.Path(base_dir) / 'run.log', 'a') as log,
    contextlib.redirect_stdout(log),
    contextlib.redirect_stderr(log),
  ):
    yield


def stop_with_parent() -> None:
  """Asks the system to send this process SIGTERM when its parent ends, even by SIGKILL.

  Linux only (prctl's PR_SET_PDEATHSIG, 1); elsewhere the process outlives its parent.
  """
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)

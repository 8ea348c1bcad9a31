"""What a process that trains starts with on a CPU: XLA's flags, kept memory and the kernels."""

from __future__ import annotations

import os
import warnings

from implicit_rl import cpu
from implicit_rl.cpu import allocator, xla_flags


def prepare() -> None:
  """Makes this process train fast on a CPU. Call it before JAX computes anything.

  For launchers, since it changes the whole process: `run_experiment.py` and all that starts runs
  call it. It sets XLA_FLAGS, as far as the user has not, has the C library keep freed memory, and
  turns the kernels on. On a GPU or TPU only the memory matters.
  """
  os.environ.update(xla_flags.for_training())
  allocator.keep_freed_memory()
  # JAX can't write a program with several blocks of temporaries to its cache; it is compiled anew.
  warnings.filterwarnings('ignore', 'Error writing persistent .*: Multiple temp buffer allocations')
  cpu.use_kernels()

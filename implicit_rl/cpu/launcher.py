"""Prepares a training process for a CPU: XLA's flags, kept memory and the kernels."""

from __future__ import annotations

import os
import warnings

from implicit_rl import cpu
from implicit_rl.cpu import allocator, xla_flags


def prepare() -> None:
  """Makes this process train fast on a CPU. Call it before JAX computes anything.

  It changes the whole process, so only launchers call it: `run_experiment.py` and everything that
  starts runs. It sets XLA_FLAGS that the user has not set, makes the C library keep freed memory,
  and turns the kernels on. On a GPU or TPU only the memory setting has an effect.
  """
  os.environ.update(xla_flags.for_training())
  allocator.keep_freed_memory()
  # JAX can't cache a program with several blocks of temporaries; it is compiled again.
  warnings.filterwarnings('ignore', 'Error writing persistent .*: Multiple temp buffer allocations')
  cpu.use_kernels()

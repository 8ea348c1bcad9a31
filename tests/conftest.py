"""What every test runs under: the CPU, strict shapes, no gin bindings left over, fixed seeds."""

from __future__ import annotations

import os
import pathlib
import random

# Before JAX is imported, so that tests give the same numbers on every machine. Set JAX_PLATFORMS to
# run them on an accelerator instead.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import gin
import jax
import numpy as np
import pytest

# Also mends tensorflow-probability for rlax, which the tests compare losses with.
from implicit_rl import dopamine_compat  # noqa: F401

# A [B] array against a [B, 1] one is a silent bug, never a wish. Code of others that is laxer runs
# under `with jax.numpy_rank_promotion('allow')`.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Most of the tests' time is XLA compiling; the same program is compiled once for all of them.
_PROGRAMS = pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla_programs'
jax.config.update('jax_compilation_cache_dir', str(_PROGRAMS))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


@pytest.fixture(autouse=True)
def _isolated():
  """Starts each test from the same seeds and leaves no gin state behind."""
  random.seed(0)
  np.random.seed(0)  # noqa: NPY002 - libraries draw from it
  yield
  gin.clear_config()


@pytest.fixture
def compiled_quickly():
  """For tests that run what they compile once or twice: without XLA's costly passes.

  Measured on the test of every gin file: saves four tenths of its time.
  """
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)

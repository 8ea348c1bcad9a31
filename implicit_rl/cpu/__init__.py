"""Optional kernels and settings for XLA's CPU backend, off unless a launcher turns them on.

A kernel computes the same as JAX, in an order that is fast on XLA's CPU backend. Kernels have no
forward-mode derivative (`jax.jvp`), and do not accept batches of symbolic size. `import
implicit_rl` therefore leaves them off, and `launcher.prepare`, which starts training runs, calls
`use_kernels`.
"""

from __future__ import annotations

import functools
from typing import Any


def use_kernels(use: bool = True) -> None:
  """Turns the kernels of dense layers and convolutions on or off, for this process.

  Functions that were compiled before are traced again when they are called next. On other backends
  than the CPU this does nothing. Parameters are the same with and without kernels; results are
  equal up to rounding.
  """
  _switch().set_global(bool(use))


def kernels_in_use() -> bool:
  """Whether networks use the kernels: if they are on and JAX's default backend is the CPU."""
  import jax

  return bool(_switch().value) and jax.default_backend() == 'cpu'


@functools.cache
def _switch() -> Any:
  import jax  # Not above: a launcher sets variables before JAX loads.

  return jax.make_user_context(default_value=False)  # Part of the key of JAX's own caches.

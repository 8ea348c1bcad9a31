"""Optional kernels and settings for XLA's CPU backend, off unless a launcher turns them on.

A kernel computes what JAX computes, in an order that XLA's CPU backend is fast in. Kernels have no
forward-mode derivative (`jax.jvp`), and no batch of symbolic size. So `import implicit_rl` leaves
networks plain Flax, and `launcher.prepare`, which starts training runs, calls `use_kernels`.
"""

from __future__ import annotations

import functools
from typing import Any


def use_kernels(use: bool = True) -> None:
  """Turns the kernels of dense layers and convolutions on or off, for this process.

  Functions that were compiled before are traced again when they are called next. On other backends
  than the CPU this does nothing. Parameters are the same either way; results are, up to rounding.
  """
  _switch().set_global(bool(use))


def kernels_in_use() -> bool:
  """Whether networks use the kernels: they are turned on, and JAX's default backend is the CPU."""
  import jax

  return bool(_switch().value) and jax.default_backend() == 'cpu'


@functools.cache
def _switch() -> Any:
  import jax  # Not above: a launcher sets variables before JAX loads.

  return jax.make_user_context(default_value=False)  # Part of the key of JAX's own caches.

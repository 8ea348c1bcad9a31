"""Chooses how several seeds of one experiment run, and the directory of each.

Each seed has its own directory, BASE_DIR/seed_S, with everything that a separate run of that seed
writes. Each can be resumed or extended.
"""

from __future__ import annotations

import os

import jax

WAYS = ('auto', 'vmap', 'processes')


def choose(way: str, *, one_program: bool) -> str:
  """Returns 'vmap' or 'processes', resolving 'auto' for this machine.

  Args:
    way: one of `WAYS`.
    one_program: whether training is a compiled program: offline, or online with a `DeviceReplay`.

  Raises:
    ValueError: for an unknown way.
  """
  if way not in WAYS:
    raise ValueError(f"seeds_as must be 'auto', 'vmap' or 'processes', got {way!r}.")
  if way == 'auto':
    return 'vmap' if one_program and jax.default_backend() != 'cpu' else 'processes'
  return way


def directory(base_dir: str, seed: int) -> str:
  """Returns the directory of one seed's run."""
  return os.path.join(base_dir, f'seed_{seed}')

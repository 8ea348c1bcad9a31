"""Double precision for the theory experiments alone; the process around keeps JAX's float32."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from implicit_rl import rank


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
  """Runs a JAX function with float64 enabled and returns its arrays as NumPy arrays.

  NumPy, because a float64 JAX array used outside the scope would silently fall to float32.
  """

  @functools.wraps(function)
  def scoped(*args, **kwargs):
    with jax.enable_x64(True):
      return jax.tree.map(np.asarray, function(*args, **kwargs))

  return scoped


_sranks = jax.jit(jax.vmap(rank.srank_from_singular_values, in_axes=(0, None)))


def sranks(values: np.ndarray, delta: float = 0.01) -> np.ndarray:
  """srank_δ of many spectra [..., m] (singular values or eigenvalue norms) at once: [...] int."""
  values = np.asarray(values, np.float64)
  with jax.enable_x64(True):
    flat = np.asarray(_sranks(values.reshape(-1, values.shape[-1]), delta))
  if not np.all(np.isfinite(flat)):
    raise ValueError('sranks: a spectrum is negative or not finite; did the dynamics diverge?')
  return flat.astype(int).reshape(values.shape[:-1])

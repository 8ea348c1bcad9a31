"""Double precision only for the theory experiments; the rest of the process keeps float32."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from implicit_rl import rank


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
  """Runs a JAX function with float64 enabled and returns its arrays as NumPy arrays.

  They are NumPy arrays because a float64 JAX array used outside would silently become float32.
  """

  @functools.wraps(function)
  def scoped(*args, **kwargs):
    with jax.enable_x64(True):
      return jax.tree.map(np.asarray, function(*args, **kwargs))

  return scoped


_sranks = jax.jit(jax.vmap(rank.srank_from_singular_values, in_axes=(0, None)))


def sranks(values: np.ndarray, delta: float = 0.01) -> np.ndarray:
  """Returns srank_δ of many spectra [..., m] (singular values or eigenvalue norms): [...] int."""
  values = np.asarray(values, np.float64)
  with jax.enable_x64(True):
    flat = np.asarray(_sranks(values.reshape(-1, values.shape[-1]), delta))
  if not np.all(np.isfinite(flat)):
    raise ValueError('sranks: a spectrum is negative or not finite; did the dynamics diverge?')
  return flat.astype(int).reshape(values.shape[:-1])

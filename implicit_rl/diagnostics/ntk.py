"""The neural tangent kernel: its rank, and whether bootstrapping with it makes values diverge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from implicit_rl import rank
from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey

Scalar = Callable[[Params, Any], jax.Array]  # (params, one input) -> []


def gram(
  function: Scalar,
  params: Params,
  rows: Any,
  columns: Any,
  other: Scalar | None = None,
  chunk: int = 16,
) -> jax.Array:
  """Returns the inner products of gradients, ⟨∇f(x_i), ∇g(y_j)⟩: [n, m].

  Only the gradients of two chunks are in memory at once.

  Args:
    function: f, of parameters and one input.
    params: parameters at which the gradients are taken.
    rows: the inputs x, a pytree of arrays [n, ...].
    columns: the inputs y, a pytree of arrays [m, ...].
    other: g; None is f.
    chunk: the maximum number of inputs at once; the largest divisor of both counts within it is
      used.
  """
  counts = [len(jax.tree.leaves(inputs)[0]) for inputs in (rows, columns)]
  size = max(k for k in range(1, chunk + 1) if math.gcd(*counts) % k == 0)
  cut = lambda inputs: jax.tree.map(
    lambda x: jnp.asarray(x).reshape(-1, size, *x.shape[1:]), inputs
  )
  gradients = lambda f, inputs: jax.vmap(jax.grad(f), (None, 0))(params, inputs)

  def row_block(x: Any) -> jax.Array:
    left = gradients(function, x)

    def block(y: Any) -> jax.Array:
      right = gradients(other or function, y)
      product = lambda a, b: jnp.matmul(
        a.reshape(size, -1), b.reshape(size, -1).T, precision=lax.Precision.HIGHEST
      )
      return jax.tree.reduce(jnp.add, jax.tree.map(product, left, right))

    return lax.map(block, cut(columns))  # [m/size, size, size]

  blocks = lax.map(row_block, cut(rows))  # [n/size, m/size, size, size]
  return blocks.transpose(0, 2, 1, 3).reshape(counts[0], counts[1])


def largest_real_eigenvalue(matrix: jax.Array) -> jax.Array:
  """Returns the largest real part of a square matrix's eigenvalues: [], NaN if not finite."""
  sound = jnp.all(jnp.isfinite(matrix))
  matrix = jnp.where(sound, matrix, 0)
  on_host = lambda m: np.linalg.eigvals(np.asarray(m)).real.astype(m.dtype)
  values = lax.platform_dependent(
    matrix,
    cpu=lambda m: jnp.real(jnp.linalg.eigvals(m)),
    default=lambda m: jax.pure_callback(
      on_host, jax.ShapeDtypeStruct(m.shape[:-1], m.dtype), m, vmap_method='broadcast_all'
    ),
  )
  return jnp.where(sound, jnp.max(values), jnp.nan)


def seem_matrix(kernel: jax.Array, next_kernel: jax.Array, discount: jax.Array) -> jax.Array:
  """Returns γ·K(s′*, s) − K(s, s) [n, n] (Yue et al., NeurIPS 2023).

  With a positive eigenvalue, gradient steps on the TD error make the values grow without bound.

  Args:
    kernel: K(s, s) [n, n].
    next_kernel: K(s′*, s) [n, n], with the rows of the next states and their greedy actions.
    discount: [n], γ, and 0 where there is no next state.
  """
  return discount[:, None] * next_kernel - kernel


def spectral_ranks(kernel: jax.Array, prefix: str) -> dict[str, jax.Array]:
  """Returns srank and the entropy rank of a kernel's eigenvalues [n, n]."""
  sound = jnp.all(jnp.isfinite(kernel))
  values = jnp.abs(jnp.linalg.eigvalsh(jnp.where(sound, kernel, 0)))
  values = jnp.where(sound, values, jnp.nan)
  return {
    f'{prefix}_srank': rank.srank_from_singular_values(values),
    f'{prefix}_effective_rank': rank.effective_rank_from_singular_values(values),
  }


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NeuralTangentKernel(Diagnostic):
  """The kernel of ∇Q(s, a), SEEM's eigenvalue, and the kernel of the loss's own gradients.

  Attributes:
    period: iterations between two measurements.
    states: n; the cost grows with its square.
    chunk: number of states whose gradients are in memory at once, twice.
  """

  period: int = 1
  states: int = 64
  chunk: int = 16

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns ranks `ntk_*` and `gradient_*`, `gradient_cosine` and `seem_eigenvalue`."""
    some = jax.tree.map(jnp.asarray, first(batch, self.states))
    kernels = lambda rows, columns, f, g=None: gram(
      f, state.params, rows, columns, g, chunk=self.chunk
    )
    here = (some.state, some.action)
    data = lambda params, x: _value(context, params, *x)
    kernel = kernels(here, here, data)
    greedy = lambda params, s: _greedy_value(context, params, s, discrete=some.action.ndim == 1)
    next_kernel = kernels(some.next_state, here, greedy, data)
    seem = seem_matrix(kernel, next_kernel, context.discount * some.discount)

    def loss(params: Params, one: Batch) -> jax.Array:
      single = jax.tree.map(lambda x: x[None], one)
      return context.loss(params, state.target_params, single, key)[0]

    covariance = kernels(some, some, loss)
    sizes = jnp.sqrt(jnp.maximum(jnp.diag(covariance), 0))
    scale = sizes[:, None] * sizes[None, :]
    cosines = jnp.where(scale == 0, 0, covariance / jnp.where(scale == 0, 1, scale))
    n = len(cosines)
    return {
      **spectral_ranks(kernel, 'ntk'),
      **spectral_ranks(cosines, 'gradient'),
      'gradient_cosine': (jnp.sum(cosines) - jnp.trace(cosines)) / max(n * (n - 1), 1),
      'seem_eigenvalue': largest_real_eigenvalue(seem),
    }


def _value(context: Context, params: Params, state: jax.Array, action: jax.Array) -> jax.Array:
  """Q of one state and action: []; the mean of several critics."""
  if action.ndim == 0:
    return context.apply(params, state[None]).q_values[0, action]
  critics = context.apply(params, state[None], action[None], method='critics')
  return jnp.mean(critics.q_values)


def _greedy_value(
  context: Context, params: Params, state: jax.Array, *, discrete: bool
) -> jax.Array:
  """Q of one state and its greedy action, or the policy's mean one: []."""
  values = context.apply(params, state[None]).q_values[0]
  return jnp.max(values) if discrete else jnp.mean(values)

"""Sharpness of the loss: the largest eigenvalue of its Hessian, and its trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import gin
import jax
import jax.numpy as jnp
import optax
from jax import lax

from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey

Product = Callable[[Params], Params]  # v -> H·v


def hessian_product(loss: Callable[[Params], jax.Array], params: Params) -> Product:
  """Returns v -> H·v for the Hessian H of a scalar function; two reverse passes per call."""

  def slope(params: Params, direction: Params) -> jax.Array:
    return optax.tree.vdot(jax.grad(loss)(params), direction)

  return lambda direction: jax.grad(slope)(params, direction)


def _extreme(product: Product, like: Params, key: PRNGKey, steps: int) -> jax.Array:
  """Returns the eigenvalue of largest absolute value, by power iteration: []."""
  unit = lambda v: optax.tree.scale(1 / jnp.maximum(optax.tree.norm(v), 1e-30), v)
  begin = unit(optax.tree.random_like(key, like))
  vector = lax.fori_loop(0, steps, lambda _, v: unit(product(v)), begin)
  return optax.tree.vdot(vector, product(vector))


def largest_eigenvalue(product: Product, like: Params, key: PRNGKey, steps: int) -> jax.Array:
  """Returns λ_max of a symmetric operator: [].

  Power iteration finds the eigenvalue of largest absolute value. If it is negative, the operator is
  shifted by it and iterated once more.

  Args:
    product: v -> H·v.
    like: a pytree of the vectors' shape.
    key: draws the first vector.
    steps: of each power iteration.
  """
  found = _extreme(product, like, key, steps)

  def shifted() -> jax.Array:
    moved = lambda v: jax.tree.map(lambda hv, x: hv - found * x, product(v), v)
    return found + _extreme(moved, like, jax.random.fold_in(key, 1), steps)

  return lax.cond(found < 0, shifted, lambda: found)


def trace(product: Product, like: Params, key: PRNGKey, probes: int) -> jax.Array:
  """Returns Hutchinson's estimate of a trace, the mean of vᵀHv over random signs v: []."""

  def probe(key: PRNGKey) -> jax.Array:
    signs = optax.tree.random_like(key, like, sampler=jax.random.rademacher)
    return optax.tree.vdot(signs, product(signs))

  return jnp.mean(lax.map(probe, jax.random.split(key, probes)))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Sharpness(Diagnostic):
  """λ_max and the trace of the Hessian of the agent's loss, its targets held fixed.

  Attributes:
    period: iterations between two measurements.
    states: transitions of the loss.
    steps: of power iteration.
    probes: of the trace's estimate.
  """

  period: int = 1
  states: int = 128
  steps: int = 20
  probes: int = 8

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `hessian_max_eigenvalue` and `hessian_trace`."""
    some = first(batch, self.states)
    loss = lambda params: context.loss(params, state.target_params, some, state.key)[0]
    product = hessian_product(loss, state.params)
    first_key, second_key = jax.random.split(key)
    return {
      'hessian_max_eigenvalue': largest_eigenvalue(product, state.params, first_key, self.steps),
      'hessian_trace': trace(product, state.params, second_key, self.probes),
    }

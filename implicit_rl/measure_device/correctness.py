"""Correctness checks of the device: against NumPy in float64, and between two methods."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from implicit_rl import rank
from implicit_rl.measure_device import workloads
from implicit_rl.measure_device.report import Case


def cases(networks: Sequence[str], rows: int, features: int) -> Iterator[Case]:
  """Yields the checks; each returns its error, the limit and whether it passed.

  Args:
    networks: keys of `workloads.SIZES`.
    rows: number of rows of the matrix whose srank is computed.
    features: its number of features; the penalty's minibatch is [32, 512].
  """
  for solver in reversed(rank.SOLVERS):
    yield f'penalty by {solver}', functools.partial(_penalty, solver)
  yield 'srank by SVD', functools.partial(_srank, rows, features)
  for network in reversed(networks):
    for name, check in (
      ('scan = dispatch', _scan_is_dispatch),
      ('vmapped = separate', _vmapped_is_separate),
      ('resumed = uninterrupted', _resumed),
    ):
      yield f'{network}: {name}', functools.partial(check, network)


def _result(error: float, limit: float) -> dict[str, Any]:
  return {'error': float(error), 'limit': limit, 'passed': bool(error <= limit)}


def _penalty(solver: str) -> dict[str, Any]:
  """Checks value and gradient on 32 rows against NumPy in float64, relative to the largest."""
  x = np.maximum(np.random.default_rng(0).normal(size=(32, 512)), 0).astype(np.float32)
  value, gradient = jax.jit(jax.value_and_grad(functools.partial(rank.lp_penalty, solver=solver)))(
    x
  )
  wide = x.astype(np.float64)
  values, vectors = np.linalg.eigh(wide @ wide.T)
  ends = vectors[:, [-1, 0]].T
  expected = 2 * np.einsum('k,ki,kj->ij', np.array([1, -1]), ends, ends @ wide)
  errors = [
    abs(float(value) / (values[-1] - values[0]) - 1),
    np.abs(np.float64(gradient) - expected).max() / np.abs(expected).max(),
  ]
  return _result(max(errors), 1e-4)


def _srank(rows: int, features: int) -> dict[str, Any]:
  """Counts how many of three spectra get another srank than in float64; none is near a tie."""
  rng, wrong = np.random.default_rng(0), 0
  for condition in (1e2, 1e4, 1e8):
    u = np.linalg.qr(rng.normal(size=(rows, features)))[0]
    v = np.linalg.qr(rng.normal(size=(features, features)))[0]
    x = ((u * np.geomspace(1, 1 / condition, features)) @ v.T).astype(np.float32)
    values = np.linalg.svd(np.float64(x), compute_uv=False)
    expected = 1 + int(np.argmax(np.cumsum(values) / np.sum(values) >= 0.99))
    wrong += int(rank.srank(x)) != expected
  return _result(wrong, 0)


def _apart(one: Any, other: Any) -> float:
  """Returns the distance of two pytrees relative to the second's norm, both over all arrays.

  Single parameters would say little: if a gradient is nearly 0, rounding determines the direction
  of Adam's step.
  """
  one, other = ([np.float64(leaf) for leaf in jax.tree.leaves(tree)] for tree in (one, other))
  norm = lambda leaves: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves))
  return norm([a - b for a, b in zip(one, other, strict=True)]) / norm(other)


def _scan_is_dispatch(network: str) -> dict[str, Any]:
  some, ends = jax.device_put(workloads.batches(workloads.SIZES[network], 8, 32)), []
  with jax.default_matmul_precision('highest'):
    for loop in ('scan', 'dispatch'):
      learner = workloads.learner(network, 32, loop=loop, penalty_weight=0.001)
      ends.append(learner.update_many(workloads.states(network, learner, 1), some)[0].params)
  return _result(_apart(*ends), 1e-4)


def _vmapped_is_separate(network: str, seeds: int = 3) -> dict[str, Any]:
  learner = workloads.learner(network, 32, loop='scan', penalty_weight=0.001)
  some = jax.device_put(workloads.batches(workloads.SIZES[network], 4, seeds, 32))
  with jax.default_matmul_precision('highest'):
    states = workloads.states(network, learner, seeds)
    each = [
      learner.update_many(
        jax.tree.map(lambda x, n=n: jnp.copy(x[n]), states),
        jax.tree.map(lambda x, n=n: x[:, n], some),
      )[0].params
      for n in range(seeds)
    ]
    together = learner.over_seeds(seeds).update_many(states, some)[0].params
  return _result(_apart(together, jax.tree.map(lambda *x: jnp.stack(x), *each)), 1e-4)


def _resumed(network: str) -> dict[str, Any]:
  """Compares bit for bit with a state that is saved as bytes after half the updates."""
  learner = workloads.learner(network, 32, penalty_weight=0.001)
  some = jax.device_put(workloads.batches(workloads.SIZES[network], 4, 32))
  half = lambda state: learner.update_many(state, some)[0]
  whole = half(half(workloads.states(network, learner, 1)))
  middle = half(workloads.states(network, learner, 1))
  kept = serialization.from_bytes(middle, serialization.to_bytes(middle))
  return _result(_apart(half(jax.device_put(kept)).params, whole.params), 0.0)

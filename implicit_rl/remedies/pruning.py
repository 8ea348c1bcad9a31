"""Gradual magnitude pruning (Zhu and Gupta, 2017; in value-based agents Graesser et al., 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import traverse_util

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.layer_graph import Path, layer_graph
from implicit_rl.remedies.base import PeriodicRemedy
from implicit_rl.types import Batch, LearnerState, Metrics, Params, PRNGKey


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MagnitudePruning(PeriodicRemedy):
  """Sets the smallest weights of each kernel permanently to 0, with a growing share.

  After update t the share s·(1 − (1 − (t − begin)/(end − begin))³) of every kernel's weights is
  pruned, chosen every `period` updates among the remaining weights. Pruned weights stay at 0, in
  the target network too. If a reset reinitialises them, the next update prunes them again; in the
  target network this happens when it is next updated. In a noisy layer the mean weights also decide
  for the noise. Biases and normalisations are not pruned. MagnitudePruning/Sparsity is the share of
  weights that are pruned.

  Attributes:
    sparsity: s, the final share, in [0, 1); 0 removes the remedy from the program.
    begin: updates before which nothing is pruned.
    end: updates after which the share is s.

  Raises:
    ValueError: for a setting out of its range.
  """

  period: int | None = 5000
  sparsity: float = 0.95
  begin: int = 500_000
  end: int = 2_000_000

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    check_number('MagnitudePruning.sparsity', self.sparsity, least=0, below=1)
    check_number('MagnitudePruning.begin', self.begin, least=0, whole=True)
    check_number('MagnitudePruning.end', self.end, above=self.begin, whole=True)

  @property
  def active(self) -> bool:
    """Whether `period` is set and `sparsity` is above 0."""
    return super().active and self.sparsity > 0

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Returns a mask of remaining weights for each kernel, all True, and the pruned share, 0."""
    flat = traverse_util.flatten_dict(params)
    masks = {_name(paths): jnp.ones(flat[paths[0]].shape, bool) for paths in _kernels(context)}
    return {'masks': masks, 'share': jnp.zeros(())}

  def project(self, context: Context, params: Params, extra: Any) -> Params:
    """Keeps pruned weights at 0; see `Remedy.project`."""
    return _pruned(params, extra['masks'], _kernels(context))

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Chooses the pruned weights when this is due; see `Remedy.after_update`."""
    assert self.period is not None  # An inactive remedy is not called.
    last = self.end + self.period - 1  # The first that is due from `end` on.
    last = last if self.until is None else min(last, self.until)
    due = (state.updates % self.period == 0) & (self.begin <= state.updates)
    due = due & (state.updates <= last)
    state = jax.lax.cond(due, lambda: self._prune(context, state), lambda: state)
    return state, {'MagnitudePruning/Sparsity': state.extra['share']}

  def _prune(self, context: Context, state: LearnerState) -> LearnerState:
    kernels, flat = _kernels(context), traverse_util.flatten_dict(state.params)
    share, old = self.share(state.updates), state.extra['masks']
    masks = {_name(paths): left(flat[paths[0]], old[_name(paths)], share) for paths in kernels}
    gone = [jnp.sum(~mask, dtype=jnp.float32) for mask in masks.values()]
    total = sum(mask.size for mask in masks.values())
    return state._replace(
      params=_pruned(state.params, masks, kernels),
      target_params=_pruned(state.target_params, masks, kernels),
      extra={'masks': masks, 'share': jnp.sum(jnp.stack(gone)) / total},
    )

  def share(self, updates: jax.Array) -> jax.Array:
    """Returns the share of weights [] that are pruned after a number of updates."""
    done = jnp.clip((updates - self.begin) / (self.end - self.begin), 0.0, 1.0)
    return self.sparsity * (1 - (1 - done) ** 3)


def left(weights: jax.Array, mask: jax.Array, share: jax.Array) -> jax.Array:
  """Returns a mask of the weights that remain when the smallest are pruned.

  Args:
    weights: of any shape.
    mask: of the weights that remained before; pruned weights stay pruned.
    share: of all weights that are pruned afterwards, [].
  """
  # The bits of positive numbers, read as integers, have the numbers' order. So 31 counts find the
  # same threshold as a sort, in an eighth of its time.
  bits = jax.lax.bitcast_convert_type(jnp.abs(weights).astype(jnp.float32), jnp.int32)
  sizes = jnp.where(mask, bits, -1).ravel()
  count = jnp.round(share * sizes.size).astype(jnp.int32)

  def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = ends
    middle = low + (high - low) // 2
    enough = jnp.sum(sizes <= middle) >= count
    return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

  _, most = jax.lax.fori_loop(0, 31, halve, (jnp.int32(-1), jnp.int32(0x7F800000)))
  smaller, tied = sizes < most, sizes == most
  gone = smaller | (tied & (jnp.cumsum(tied) <= count - jnp.sum(smaller)))
  return ~gone.reshape(mask.shape) & mask


def _kernels(context: Context) -> list[tuple[Path, ...]]:
  """The paths of each module's kernels; the first determines the mask."""
  modules: dict[Path, tuple[Path, ...]] = {}
  for kernel in layer_graph(context.init).kernels:
    module = kernel.path[:-1]
    if kernel.path not in modules.get(module, ()):
      modules[module] = (*modules.get(module, ()), kernel.path)
  return list(modules.values())


def _name(paths: tuple[Path, ...]) -> str:
  return '/'.join(paths[0])


def _pruned(
  params: Params, masks: Mapping[str, jax.Array], kernels: list[tuple[Path, ...]]
) -> Params:
  flat = traverse_util.flatten_dict(params)
  for paths in kernels:
    flat |= {path: jnp.where(masks[_name(paths)], flat[path], 0) for path in paths}
  return traverse_util.unflatten_dict(flat)

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
  """Sets the smallest weights of each kernel to 0 for good, more and more of them.

  After update t the share s·(1 − (1 − (t − begin)/(end − begin))³) of every kernel's weights is
  pruned, chosen anew every `period` updates among those that are left. Pruned weights are held at
  0, in the target network too. Of a noisy layer the mean weights decide for those of the noise.
  Biases and normalisations stay. MagnitudePruning/Sparsity is the share of weights that are pruned.

  Attributes:
    sparsity: s, the share in the end, in [0, 1); 0 takes the remedy out of the program.
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
    """Whether there is a period, and something to prune."""
    return super().active and self.sparsity > 0

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Returns a mask for each kernel of the weights that are left: all."""
    flat = traverse_util.flatten_dict(params)
    return {_name(paths): jnp.ones(flat[paths[0]].shape, bool) for paths in _kernels(context)}

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """Chooses what is pruned where that is due, and prunes; see `Remedy.after_update`."""
    assert self.period is not None  # An inactive remedy is not called.
    last = self.end + self.period - 1  # The first that is due from `end` on.
    last = last if self.until is None else min(last, self.until)
    due = (state.updates % self.period == 0) & (self.begin <= state.updates)
    due = due & (state.updates <= last)
    kernels = _kernels(context)
    flat = traverse_util.flatten_dict(state.params)
    share = self.share(state.updates)
    masks = jax.lax.cond(
      due,
      lambda: {
        _name(paths): left(flat[paths[0]], state.extra[_name(paths)], share) for paths in kernels
      },
      lambda: state.extra,
    )
    state = state._replace(
      params=_pruned(state.params, masks, kernels),
      target_params=_pruned(state.target_params, masks, kernels),
      extra=masks,
    )
    sizes = [jnp.sum(~mask, dtype=jnp.float32) for mask in masks.values()]
    total = sum(mask.size for mask in masks.values())
    return state, {'MagnitudePruning/Sparsity': jnp.sum(jnp.stack(sizes)) / total}

  def share(self, updates: jax.Array) -> jax.Array:
    """Returns the share of weights [] that are pruned after so many updates."""
    done = jnp.clip((updates - self.begin) / (self.end - self.begin), 0.0, 1.0)
    return self.sparsity * (1 - (1 - done) ** 3)


def left(weights: jax.Array, mask: jax.Array, share: jax.Array) -> jax.Array:
  """Returns which weights are left when the smallest are pruned.

  Args:
    weights: of any shape.
    mask: what was left before; none comes back.
    share: of all weights that are pruned in the end, [].
  """
  sizes = jnp.where(mask, jnp.abs(weights), -1.0).ravel()
  order = jnp.argsort(sizes)
  count = jnp.round(share * sizes.size).astype(jnp.int32)
  kept = jnp.zeros(sizes.shape, bool).at[order].set(jnp.arange(sizes.size) >= count)
  return kept.reshape(mask.shape) & mask


def _kernels(context: Context) -> list[tuple[Path, ...]]:
  """The paths of each module's kernels; the first decides."""
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

"""The offline data source of vector observations: MuJoCo replays, D4RL files, Minari datasets."""

from __future__ import annotations

import os
from typing import Any

import gin

from implicit_rl.data import source, subsets
from implicit_rl.data.sources.arrays import ArraySource


@gin.configurable(denylist=[*source.FROM_AGENT, 'action_shape'])
class VectorReplay(ArraySource):
  """A part of a dataset; the default is the paper's: 20% of single transitions, drawn uniformly.

  Args:
    path: as `ArraySource.data`: a file, a folder that an online run wrote, or a Minari dataset's
      folder.
    subset: as in `ArraySource`, like the following.
    fraction: in (0, 1], how much of the data is used.
    subset_seed: seed of a random subset.
    time_limit: steps after which episodes were truncated, for data that does not record truncation.
    on_device: keep the data in the accelerator's memory and gather batches there.
    return_to_go: compute the discounted return from every row to its episode's end.
    held_out: share of the chosen data that no update draws, in whole episodes, for measures on
      unseen transitions.
    **settings: the agent's, as in `ArraySource`.

  Raises:
    FileNotFoundError: if the dataset does not exist.
    ValueError: if a setting is out of range or the data is of another environment.
  """

  def __init__(
    self,
    *,
    path: str | os.PathLike = gin.REQUIRED,
    subset: str | subsets.Subset = 'random_transitions',
    fraction: float = 0.2,
    subset_seed: int = 0,
    time_limit: int | None = None,
    on_device: bool = False,
    return_to_go: bool = False,
    held_out: float = 0.0,
    **settings: Any,
  ):
    super().__init__(
      data=path,
      subset=subset,
      fraction=fraction,
      subset_seed=subset_seed,
      time_limit=time_limit,
      on_device=on_device,
      held_out=held_out,
      return_to_go=return_to_go,
      **settings,
    )

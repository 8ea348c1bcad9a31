"""The offline data source of arrays: in memory, in files, logged by a run, or a Minari dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import gin
import numpy as np

from implicit_rl.data import source, subsets, transitions
from implicit_rl.data.formats import flat_arrays, vector_files
from implicit_rl.data.store import frame_store


@gin.configurable(denylist=[*source.FROM_AGENT, 'action_shape'])
class ArraySource(source.StoredSource):
  """Transitions of arrays with one row per step; everything is kept in memory.

  `flat_arrays.episodes_of` lists the required arrays. If the data has the observation after an
  episode's last action, it is kept, so that a truncated transition has its next state. Otherwise
  that transition is left out.

  Args:
    stack_size: S, observations per state; the agent's.
    update_horizon: n. As the agent's.
    gamma: discount per step. As the agent's.
    seed: all sampling derives from it, but not the subset.
    observation_shape: shape of the environment's observations, which the data must have; None does
      not check.
    observation_dtype: ignored; the data is float32, images uint8.
    action_shape: the same for an action.
    data: arrays by name; or the path of an HDF5, .npz or .parquet file, of a folder that an online
      run wrote, or of a Minari dataset's folder.
    subset: a name from `subsets`, or a function with the same arguments.
    fraction: in (0, 1], how much of the data is used.
    subset_seed: seed of a random subset.
    time_limit: steps after which episodes were truncated, for data that does not record truncation.
    on_device: keep the data in the accelerator's memory and gather batches there.
    return_to_go: compute the discounted return from every row to its episode's end.
    held_out: share of the chosen data that no update draws, in whole episodes, for measures on
      unseen transitions.

  Raises:
    FileNotFoundError: if the dataset does not exist.
    ValueError: if a setting is out of range or the data is of another environment.
  """

  def __init__(
    self,
    *,
    stack_size: int = 1,
    update_horizon: int = 1,
    gamma: float = 0.99,
    seed: int = 0,
    observation_shape: tuple[int, ...] | None = None,
    observation_dtype: Any = None,
    action_shape: tuple[int, ...] | None = None,
    data: Mapping[str, Any] | str | os.PathLike = gin.REQUIRED,
    subset: str | subsets.Subset = 'random_transitions',
    fraction: float = 1.0,
    subset_seed: int = 0,
    time_limit: int | None = None,
    on_device: bool = False,
    return_to_go: bool = False,
    held_out: float = 0.0,
  ):
    del observation_dtype
    subsets.check(subset, fraction)
    where, dataset = _read(data, time_limit)
    found = dataset.episodes[0].observation.shape[1:], dataset.episodes[0].action.shape[1:]
    wanted = observation_shape or found[0], found[1] if action_shape is None else action_shape
    if found != wanted:
      raise ValueError(
        f'{where} has observations and actions of the shapes {found}, the environment {wanted}: '
        'they are not the same.'
      )
    observation, columns, counted = _rows(dataset.episodes)
    lengths = np.array([len(episode.reward) for episode in dataset.episodes])
    episodes = subsets.Episodes(lengths, np.zeros(len(lengths), np.int64))
    chosen = subsets.choose(subset, episodes, fraction, subset_seed, counted)
    super().__init__(
      columns,
      frame_store.RawFrames(observation),
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
      selected=chosen.rows,
      return_to_go=return_to_go,
      on_device=on_device,
      held_out=held_out,
      description={
        **dataset.about,
        **chosen.description,
        'fingerprint': _fingerprint(observation, columns),
      },
    )


def _read(
  data: Mapping[str, Any] | str | os.PathLike, time_limit: int | None
) -> tuple[str, vector_files.Dataset]:
  """Returns the data's name for error messages, and its episodes."""
  if isinstance(data, Mapping):
    where = 'ArraySource.data'
    episodes = flat_arrays.episodes_of(data, where, time_limit)
    return where, vector_files.Dataset(episodes, {'dataset': 'arrays'})
  found = vector_files.read(data, time_limit)
  return str(data), found._replace(about={**found.about, 'path': os.fspath(data)})


def _rows(
  episodes: list[vector_files.VectorEpisode],
) -> tuple[np.ndarray, transitions.Columns, np.ndarray]:
  """Returns the episodes as rows: observations [N, D], columns, and whether rows [N] are logged.

  A truncated episode with a known last observation gets a row for it, which starts no transition.
  """
  observations, actions, rewards, terminals, ends, counted = [], [], [], [], [], []
  for episode in episodes:
    steps = len(episode.reward)
    rows = steps if episode.terminal else len(episode.observation)
    observations.append(episode.observation[:rows])
    blank = np.zeros((rows - steps, *episode.action.shape[1:]), episode.action.dtype)
    actions.append(np.concatenate([episode.action, blank]))
    rewards.append(np.append(episode.reward, np.zeros(rows - steps, np.float32)))
    last = np.arange(rows) == rows - 1
    terminals.append(last & episode.terminal)
    ends.append(last)
    counted.append(np.arange(rows) < steps)
  columns = transitions.make_columns(
    *(np.concatenate(parts) for parts in (actions, rewards, terminals, ends))
  )
  return np.concatenate(observations), columns, np.concatenate(counted)


def _fingerprint(observation: np.ndarray, columns: transitions.Columns) -> str:
  digest = hashlib.sha256(np.ascontiguousarray(observation).tobytes())
  for column in (columns.action, columns.reward, columns.terminal, columns.episode_end):
    digest.update(np.ascontiguousarray(column).tobytes())
  return digest.hexdigest()[:16]

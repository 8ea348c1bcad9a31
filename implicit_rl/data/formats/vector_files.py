"""Datasets of vector observations on disk: files of flat arrays, and local Minari datasets.

An online run writes its whole replay in D4RL's flat HDF5 layout. Other files are HDF5, .npz or
Parquet. Minari's own library reads and writes its datasets.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from implicit_rl.data.formats import array_files
from implicit_rl.data.formats.flat_arrays import VectorEpisode as VectorEpisode
from implicit_rl.data.formats.flat_arrays import episodes_of

FILE = 'transitions.hdf5'
MINARI_FILE = 'data/main_data.hdf5'
_ATTRIBUTES = ('dataset', 'environment', 'game', 'run')


class Dataset(NamedTuple):
  """Episodes in logged order, and facts on their origin, as JSON values."""

  episodes: list[VectorEpisode]
  about: dict[str, Any]


def read(path: str | os.PathLike, time_limit: int | None = None) -> Dataset:
  """Reads a file of flat arrays, a folder that an online run wrote, or a Minari dataset's folder.

  Args:
    path: the file or folder.
    time_limit: steps after which an episode was truncated; needed for a flat file that has neither
      `timeouts` nor `next_observations`.

  Raises:
    FileNotFoundError: if there is nothing readable.
    ValueError: if it has another layout.
  """
  path = pathlib.Path(path).expanduser()
  if (path / MINARI_FILE).is_file():
    return read_minari(path)
  found = path / FILE if (path / FILE).is_file() else path
  if not path.exists():
    raise FileNotFoundError(f'No such file or folder: {path}.')
  if not found.is_file():
    raise FileNotFoundError(
      f'The folder {path} holds neither {FILE} of an online run nor {MINARI_FILE}.'
    )
  return read_flat(found, time_limit)


# --- flat arrays ----------------------------------------------------------------------------------


def read_flat(path: pathlib.Path, time_limit: int | None = None) -> Dataset:
  """Reads a file of flat arrays; see `flat_arrays.episodes_of` for its content."""
  arrays, attributes = array_files.read(path)
  about = {
    name: value.item() if isinstance(value, np.generic) else value
    for name, value in attributes.items()
    if name in _ATTRIBUTES
  }
  episodes = episodes_of(arrays, str(path), time_limit)
  return Dataset(episodes, {'dataset': about.get('environment', path.stem), **about})


def write_flat(
  path: pathlib.Path, episodes: Iterable[VectorEpisode], about: Mapping[str, Any]
) -> None:
  """Writes episodes in the flat layout, compressed without loss.

  If all episodes have T+1 observations, the file has `next_observations`. Otherwise a truncated
  episode's last step cannot start a transition.

  Raises:
    ValueError: if there is no episode.
  """
  episodes = list(episodes)
  if not episodes:
    raise ValueError(f'{path}: there is no episode to write.')
  whole = all(len(e.observation) == len(e.reward) + 1 for e in episodes)
  last = [np.arange(len(e.reward)) == len(e.reward) - 1 for e in episodes]
  columns = {
    'observations': [e.observation[: len(e.reward)] for e in episodes],
    'actions': [e.action for e in episodes],
    'rewards': [e.reward for e in episodes],
    **({'next_observations': [e.observation[1:] for e in episodes]} if whole else {}),
    'terminals': [at & e.terminal for at, e in zip(last, episodes, strict=True)],
    'timeouts': [at & (not e.terminal) for at, e in zip(last, episodes, strict=True)],
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_suffix('.partial')
  with h5py.File(aside, 'w') as file:
    for name, parts in columns.items():
      file.create_dataset(name, data=np.concatenate(parts), compression='gzip', shuffle=True)
    file.attrs.update(about)
  os.replace(aside, path)


def _check_whole(episodes: Sequence[VectorEpisode]) -> None:
  for number, episode in enumerate(episodes):
    if len(episode.observation) != len(episode.reward) + 1:
      raise ValueError(
        f'Episode {number} lacks the observation after its last action, which the format has: the '
        'data comes from a file without next_observations.'
      )


# --- what an online run writes --------------------------------------------------------------------


def check_config(name: str, config: str) -> None:
  """Raises ValueError if `write_dataset` could not write a dataset of this name and config."""
  if not re.fullmatch(r'[\w.-]+', name) or not re.fullmatch(r'[\w.-]+_run_\d+', config):
    raise ValueError(
      f'Dataset {name!r} and configuration {config!r} must be names of letters, digits, "_", "-" '
      'and ".", such as mujoco and Hopper_run_1; they come from the environment and its name.'
    )


def write_dataset(
  directory: str | os.PathLike,
  name: str,
  config: str,
  episodes: Iterable[tuple[int, Mapping[str, Any]]],
  overwrite: bool = False,
  about: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes a replay of vectors; otherwise as `tfds_writer.write_dataset`.

  Args:
    directory: folder of datasets.
    name: the dataset's, such as 'mujoco'.
    config: such as 'Hopper_run_1'.
    episodes: (stage, rows) in logged order; rows hold `observation` [T, D], `action`, `reward`,
      `terminal` [T] and, if all have it, `final_observation` [D].
    overwrite: replace a dataset that is already there.
    about: facts to record besides the game's name, such as gymnasium's id as `environment`.

  Returns:
    The folder written.

  Raises:
    FileExistsError: if it is there already and `overwrite` is False.
  """
  check_config(name, config)
  folder = pathlib.Path(directory) / name / config
  if (folder / FILE).exists() and not overwrite:
    raise FileExistsError(f'{folder / FILE} already exists; pass overwrite=True to replace it.')
  game, _, run = config.rpartition('_run_')
  facts = {'dataset': f'{name}/{config}', **(about or {}), 'game': game, 'run': int(run)}
  write_flat(folder / FILE, (_episode(rows) for _, rows in episodes), facts)
  return folder


def _episode(rows: Mapping[str, Any]) -> VectorEpisode:
  observation = rows['observation']
  if 'final_observation' in rows:
    observation = np.concatenate([observation, rows['final_observation'][None]])
  return VectorEpisode(
    observation,
    rows['action'],
    rows['reward'],
    bool(rows['terminal'][-1]),
  )


# --- Minari ---------------------------------------------------------------------------------------


def read_minari(folder: str | os.PathLike) -> Dataset:
  """Reads a local Minari dataset; observations that are dictionaries or tuples are concatenated.

  Args:
    folder: the dataset's folder, with `data/main_data.hdf5`; nothing is read from a network.

  Raises:
    ImportError: if Minari is not installed.
    ValueError: if observations are images: `python -m implicit_rl.data prepare` reads those.
  """
  minari = _import_minari()
  dataset = minari.MinariDataset(pathlib.Path(folder) / 'data')
  states, actions = dataset.observation_space, dataset.action_space
  episodes = []
  for found in dataset.iterate_episodes():
    observation = _flatten(found.observations, states)
    if observation.dtype == np.uint8:
      raise ValueError(
        f'{folder} has images: make a store of it with python -m implicit_rl.data prepare.'
      )
    episodes.append(
      VectorEpisode(
        observation,
        _as_actions(found.actions, actions),
        np.asarray(found.rewards, np.float32),
        bool(found.terminations[-1]),
      )
    )
  about: dict[str, Any] = {'dataset': str(dataset.spec.dataset_id)}
  spec = dataset.spec.env_spec
  if spec is not None and str(spec.entry_point).startswith('gymnasium.envs.mujoco'):
    about['game'] = spec.name  # The name of our environment: Hopper.
  return Dataset(episodes, about)


def write_minari(
  name: str, dataset: Dataset, environment: str | None = None, **metadata: Any
) -> pathlib.Path:
  """Writes a local Minari dataset, below `MINARI_DATASETS_PATH` or Minari's own default.

  Args:
    name: such as 'mujoco/hopper/sac-v0'.
    dataset: episodes of T+1 observations.
    environment: gymnasium's id of its environment; 'my_module:MyGame-v0' imports `my_module` first.
      None uses the id that the dataset records.
    **metadata: other facts that Minari records, such as `author` and `description`.

  Returns:
    The folder written.

  Raises:
    ImportError: if Minari is not installed.
    ValueError: if an episode lacks its last observation, the environment cannot be made, or the
      dataset exists.
  """
  minari = _import_minari()
  import gymnasium
  from minari.data_collector import EpisodeBuffer

  _check_whole(dataset.episodes)
  game = _make(environment or dataset.about.get('environment'))
  first = dataset.episodes[0]
  box = gymnasium.spaces.Box
  buffers = [
    EpisodeBuffer(
      id=number,
      observations=episode.observation,
      actions=episode.action,
      rewards=episode.reward,
      terminations=[*[False] * (len(episode.reward) - 1), episode.terminal],
      truncations=[*[False] * (len(episode.reward) - 1), not episode.terminal],
    )
    for number, episode in enumerate(dataset.episodes)
  ]
  written = minari.create_dataset_from_buffers(
    name,
    buffers,
    env=game,
    eval_env=game,
    observation_space=box(-np.inf, np.inf, first.observation.shape[1:], np.float32),
    action_space=box(-1, 1, first.action.shape[1:], np.float32)
    if first.action.ndim > 1
    else gymnasium.spaces.Discrete(1 + max(int(e.action.max()) for e in dataset.episodes)),
    **metadata,
  )
  return pathlib.Path(written.storage.data_path).parent


def _make(environment: str | None) -> Any:
  """Creates the task that Minari describes; fails before Minari has created a folder."""
  if environment is None:
    return None
  import gymnasium

  try:
    game = gymnasium.make(environment)
    assert game.spec is not None
    game.spec.to_json()  # Minari writes it; a class as entry_point has no JSON form.
  except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
    raise ValueError(
      f'gymnasium cannot make {environment!r}: {" ".join(str(error).split())} Pass --environment '
      "with a registered id, such as 'my_module:MyGame-v0'; my_module must be on PYTHONPATH."
    ) from error
  return game


def _import_minari() -> Any:
  try:
    import minari
  except ImportError as error:
    raise ImportError("Minari datasets need: pip install 'minari[hdf5]'.") from error
  return minari


def _flatten(values: Any, space: Any) -> np.ndarray:
  """Joins arrays [T, ...] in dictionaries and tuples into one [T, D]; images are unchanged.

  Discrete states become one-hot vectors, as in `gymnasium.spaces.flatten`.
  """
  if isinstance(values, Mapping):
    return np.concatenate([_flatten(values[name], space[name]) for name in space], axis=1)
  if isinstance(values, tuple):
    parts = [_flatten(value, own) for value, own in zip(values, space, strict=True)]
    return np.concatenate(parts, axis=1)
  values = np.asarray(values)
  if type(space).__name__ == 'Discrete':
    return np.eye(int(space.n), dtype=np.float32)[values.reshape(-1) - int(space.start)]
  if values.dtype == np.uint8:
    return values
  return values.reshape(len(values), -1).astype(np.float32)


def _as_actions(actions: Any, space: Any) -> np.ndarray:
  """Returns whole numbers from 0 [T], or float32 [T, A] scaled to [−1, 1] from the bounds."""
  if type(space).__name__ == 'Discrete':
    return (np.asarray(actions).reshape(-1) - int(space.start)).astype(np.int32)
  actions = _flatten(actions, space)
  if type(space).__name__ == 'Box' and space.is_bounded():
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    actions = (actions - (high + low) / 2) / ((high - low) / 2)
  return actions.astype(np.float32)

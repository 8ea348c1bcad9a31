"""The log of an online run's whole replay, and its export as a dataset.

Each iteration writes one folder, completely or not at all, so a killed run can resume with the
existing ones. Afterwards the episodes are joined across iterations and written as a dataset: images
in the format of DQN Replay, which TFDS and `TFDSReplay` read, vectors in D4RL's flat HDF5.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from implicit_rl.data.formats import tfds_writer, vector_files
from implicit_rl.data.store import frame_store, store_files
from implicit_rl.environments import Capabilities, Environment

_NAME = re.compile(r'iteration_(\d{6})')
_EXPORTED = 'exported_iterations'  # File beside the dataset with its number of iterations.
STAGES = 50  # As in DQN Replay: stages of equal length, one split each.


class Rows(NamedTuple):
  """Rows of one iteration: T rows of each of E streams, in order.

  Attributes:
    observation: [E, T, *observation_shape], before acting.
    action: [E, T] int32, or [E, T, A] float32.
    reward: [E, T] float32, as the agent got it.
    terminal: [E, T] bool.
    episode_end: [E, T] bool.
    final_observation: the observation after each episode's last action, in the order of their ends;
      only for one stream, otherwise None.
  """

  observation: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  terminal: np.ndarray
  episode_end: np.ndarray
  final_observation: np.ndarray | None = None


COLUMNS = ('observation', 'action', 'reward', 'terminal', 'episode_end')


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The dataset that a logged replay is written as.

  Attributes:
    name: the dataset's.
    config: '{Game}_run_{n}'.
    vectors: whether it is flat HDF5, for vector observations, instead of TFDS's records.
    about: facts that flat HDF5 records besides the game's name.
  """

  name: str
  config: str
  vectors: bool
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, environment: Environment, able: Capabilities, run: int) -> Dataset:
    """Returns the dataset for an environment's observations and actions.

    Raises:
      ValueError: if there is none, or the environment does not name it; raised before training.
    """
    who = f'OnlineRunner.log_replay: {type(environment).__name__}'
    if able.dataset is None:
      raise ValueError(
        f"{who} names no dataset. Give it the attribute dataset, such as dataset = 'my_games'."
      )
    shape = tuple(environment.observation_shape)
    if len(shape) > 1 and able.action_shape:
      raise ValueError(
        f'{who} has continuous actions and observations of shape {shape}; with continuous actions '
        'only vectors, of shape (D,), can be logged.'
      )
    found = cls(able.dataset, f'{environment.name}_run_{run}', len(shape) == 1, able.about)
    found._writer.check_config(found.name, found.config)
    return found

  @property
  def _writer(self) -> ModuleType:
    """The module that writes it, with `check_config` and `write_dataset`."""
    return vector_files if self.vectors else tfds_writer

  def write(self, data_dir: str | os.PathLike, episodes: Iterable[Any]) -> pathlib.Path:
    """Writes (stage, episode) pairs; replaces an existing dataset. Returns the folder."""
    more = {'about': self.about} if self.vectors else {}
    return self._writer.write_dataset(
      data_dir, self.name, self.config, episodes, overwrite=True, **more
    )

  def how_to_read(self, data_dir: str | os.PathLike, path: pathlib.Path) -> str:
    """Returns the flags or bindings of an offline run on it."""
    if self.vectors:
      return f"VectorReplay.path = '{path}'"
    game, _, run = self.config.rpartition('_run_')
    bound = {'dataset': repr(self.name), 'game': repr(game), 'run': run}
    lines = [f'--gin_bindings="TFDSReplay.{name} = {value}"' for name, value in bound.items()]
    return ' '.join([f'--data_dir={data_dir}', *lines])


class ReplayLog:
  """The rows of each iteration, in separate folders.

  Args:
    directory: created with the first rows.
  """

  def __init__(self, directory: str | os.PathLike):
    self._directory = pathlib.Path(directory)

  def write(self, iteration: int, rows: Rows) -> None:
    """Writes an iteration's rows; replaces those of an interrupted one."""
    folder = self._directory / f'iteration_{iteration:06d}'
    shutil.rmtree(folder, ignore_errors=True)
    observation = rows.observation.reshape(-1, *rows.observation.shape[2:])
    frames = frame_store.pack(observation)
    columns = {n: a for n, a in rows._asdict().items() if n != 'observation' and a is not None}
    settings = {'frames': frames.settings(), 'streams': len(rows.action)}
    store_files.save(folder, {**columns, **frames.arrays()}, settings)

  def keep_before(self, iteration: int) -> None:
    """Removes the rows of `iteration` and later ones, which a resumed run writes again."""
    for found in self._iterations():
      if found >= iteration:
        shutil.rmtree(self._directory / f'iteration_{found:06d}')

  def episodes(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the episodes in the order of their ends, including those that the run's end truncated.

    Yields:
      The number of the episode's first environment step (step t of stream e of E is number t·E +
      e), and its rows: `observation` [T, ...], `action`, `reward`, `terminal` [T], and
      `final_observation` if it was kept.

    Raises:
      ValueError: if an iteration is missing.
    """
    iterations = self._iterations()
    if iterations != list(range(len(iterations))):
      raise ValueError(
        f'{self._directory} holds the iterations {iterations}: the log is not whole.'
      )
    pending: list[list[Rows]] = []
    began: list[int] = []
    step = 0
    for iteration in iterations:
      rows = self._read(iteration)
      streams, length = rows.reward.shape
      pending = pending or [[] for _ in range(streams)]
      began = began or list(range(streams))
      ends = np.argwhere(rows.episode_end.T)[:, ::-1]  # (stream, t), in order of t
      starts = [0] * streams
      for number, (stream, t) in enumerate(ends):
        pending[stream].append(_cut(rows, stream, starts[stream], t + 1))
        whole: dict[str, Any] = _joined(pending[stream])
        if rows.final_observation is not None:
          whole['final_observation'] = rows.final_observation[number]
        yield began[stream], whole
        pending[stream], starts[stream] = [], t + 1
        began[stream] = step + (t + 1) * streams + stream
      for stream in range(streams):
        if starts[stream] < length:
          pending[stream].append(_cut(rows, stream, starts[stream], length))
      step += streams * length
    for stream, parts in enumerate(pending):
      if parts:
        yield began[stream], _joined(parts)

  def export(self, data_dir: str | os.PathLike, dataset: Dataset) -> pathlib.Path:
    """Writes the log as a dataset. A TFDS one has a split for each of 50 equal stages of the run.

    Args:
      data_dir: the `data_dir` of TFDS and of `TFDSReplay`.
      dataset: the dataset to write.

    Returns:
      The folder written. An existing dataset is replaced.
    """
    total = sum(self._read(i).reward.size for i in self._iterations())
    episodes = ((began * STAGES // total, rows) for began, rows in self.episodes())
    path = dataset.write(data_dir, episodes)
    (pathlib.Path(data_dir) / _EXPORTED).write_text(f'{len(self._iterations())}\n')
    return path

  def is_exported(self, data_dir: str | os.PathLike) -> bool:
    """Whether `export` has written all iterations, and not only those of a shorter run."""
    path = pathlib.Path(data_dir) / _EXPORTED
    return path.exists() and path.read_text() == f'{len(self._iterations())}\n'

  def _iterations(self) -> list[int]:
    if not self._directory.is_dir():
      return []
    return sorted(int(m[1]) for m in map(_NAME.fullmatch, os.listdir(self._directory)) if m)

  def _read(self, iteration: int) -> Rows:
    folder = self._directory / f'iteration_{iteration:06d}'
    found = store_files.load(folder)
    if found is None:
      raise ValueError(f'{folder} was written by another version of implicit_rl.')
    arrays, settings = found
    frames = frame_store.from_arrays(settings['frames'], arrays)
    observation = frames.take(np.arange(frames.shape[0]))
    shape = arrays['reward'].shape
    return Rows(
      observation=observation.reshape(*shape, *frames.shape[1:]),
      final_observation=arrays.get('final_observation'),
      **{name: arrays[name] for name in COLUMNS[1:]},
    )


def _cut(rows: Rows, stream: int, start: int, end: int) -> Rows:
  return Rows(*(getattr(rows, name)[stream, start:end] for name in COLUMNS))


def _joined(parts: list[Rows]) -> dict[str, np.ndarray]:
  names = (name for name in COLUMNS if name != 'episode_end')
  return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}

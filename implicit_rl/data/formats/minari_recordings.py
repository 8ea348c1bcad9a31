"""Recordings of an online agent's replay memory and of local Minari datasets."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from implicit_rl.data.formats import recordings
from implicit_rl.logs import checkpoints

_ROWS = 512  # Rows yielded at once.
_SAMPLE_FRAMES = 1024  # Number of frames that a dictionary is trained on.
MINARI_FILE = 'data/main_data.hdf5'


class OnlineReplayRecording(recordings.Recording):
  """The replay memory of an online run in its newest checkpoint.

  Args:
    base_dir: the run's directory, or its `checkpoints`.

  Raises:
    FileNotFoundError: if there is no checkpoint with a replay memory.
  """

  def __init__(self, base_dir: str | os.PathLike):
    folder = checkpoint_folder(base_dir)
    found = checkpoints.load_newest(folder) if folder else None
    if found is None:
      raise FileNotFoundError(f'{base_dir} holds no checkpoint of a run.')
    self._iteration, tree = found
    state = tree.get('agent', {}).get('source')
    if not isinstance(state, Mapping) or 'observation' not in state:
      raise FileNotFoundError(
        f'The checkpoints in {base_dir} hold no replay memory that can be read: the run is '
        'offline, or keeps its replay on the device.'
      )
    self._state = state
    self._game = tree.get('dataset', {}).get('game')
    self._folder = folder

  @property
  def frame_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return tuple(self._state['observation'].shape[1:])

  @property
  def frame_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return self._state['observation'].dtype

  def identity(self) -> dict[str, Any]:
    """See `Recording.identity`; it describes the read file, since the run may delete it."""
    digest = hashlib.sha256()
    for name in ('action', 'reward', 'terminal'):
      digest.update(np.ascontiguousarray(self._state[name]).tobytes())
    return {
      'format': 'online_replay',
      'dataset': 'online replay',
      **({'game': self._game} if self._game else {}),
      'iteration': self._iteration,
      'rows_added': int(self._state['added']),
      'rows_sha256': digest.hexdigest()[:32],
    }

  def __len__(self) -> int:
    return len(self._state['action'])

  def sample(self) -> np.ndarray:
    """See `Recording.sample`."""
    return self._state['observation'][:: -(-len(self) // _SAMPLE_FRAMES)]

  def read(self, start: int = 0) -> Iterator[recordings.Rows]:
    """See `Recording.read`."""
    state, count = self._state, len(self)
    number = np.arange(int(state['added']) - count, int(state['added']))
    end = np.array(state['episode_end'], bool)
    end[-1:] = True
    for at in range(start, count, _ROWS):
      part = slice(at, at + _ROWS)
      yield recordings.Rows(
        observation=state['observation'][part],
        action=state['action'][part],
        reward=state['reward'][part],
        terminal=np.asarray(state['terminal'][part], bool),
        episode_end=end[part],
        is_first=np.asarray(state['episode_start'][part] == number[part]),
        checkpoint=np.zeros(len(number[part]), np.int16),
      )


class MinariRecording(recordings.Recording):
  """A Minari dataset on this machine whose observations are images; reads nothing from a network.

  Of a stack of frames the newest frame is kept. Screens of 210×160 pixels become grey frames of
  84×84 as in Dopamine, but without the maximum over two screens. Rewards are unchanged: clip them
  with `StoreReplay.clip_rewards`.

  Args:
    folder: the dataset's folder, with `data/main_data.hdf5`.

  Raises:
    FileNotFoundError: if that file is missing.
    ImportError: if Minari is not installed.
    ValueError: if observations or actions are of another kind.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)
    if not (self._folder / MINARI_FILE).is_file():
      raise FileNotFoundError(f'{folder} holds no {MINARI_FILE}: it is not a Minari dataset.')
    try:
      import minari
    except ImportError as error:
      raise ImportError("Reading Minari datasets needs: pip install 'minari[hdf5]'.") from error
    self._dataset = minari.MinariDataset(self._folder / 'data')
    self._lengths = np.array(
      [int(e['total_steps']) for e in self._dataset.storage.get_episode_metadata(self._indices)]
    )
    first = next(iter(self._episodes(self._indices[:1])))
    if not np.issubdtype(np.asarray(first.actions).dtype, np.integer):
      raise ValueError(f'{folder} has continuous actions; only discrete ones are supported.')
    self._frame = newest_frames(np.asarray(first.observations)[:1])[0]

  @property
  def frame_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return self._frame.shape

  @property
  def frame_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return self._frame.dtype

  def identity(self) -> dict[str, Any]:
    """See `Recording.identity`."""
    return {
      'format': 'minari',
      'dataset': str(self._dataset.spec.dataset_id),
      'files': recordings.file_stamps([self._folder / MINARI_FILE]),
    }

  def __len__(self) -> int:
    return int(self._lengths.sum())

  def sample(self) -> np.ndarray:
    """See `Recording.sample`: from up to a hundred episodes, evenly spaced."""
    chosen = self._indices[:: -(-len(self._indices) // 100)]
    found = []
    for episode in self._episodes(chosen):
      observations = np.asarray(episode.observations)[:-1]
      found.append(newest_frames(observations[:: -(-len(observations) // 20)]))
    return np.concatenate(found)

  def read(self, start: int = 0) -> Iterator[recordings.Rows]:
    """See `Recording.read`."""
    ends = np.cumsum(self._lengths)
    first = int(np.searchsorted(ends, start, side='right'))
    before = int(ends[first - 1]) if first else 0
    return recordings.drop_before(self._read(self._indices[first:]), start - before)

  def _read(self, indices: np.ndarray) -> Iterator[recordings.Rows]:
    for episode in self._episodes(indices):
      rows = recordings.episode_rows(
        np.asarray(episode.observations)[:-1],  # The last observation follows the last action.
        episode.actions,
        episode.rewards,
        bool(episode.terminations[-1]),
        0,
      )
      for at in range(0, len(rows.action), _ROWS):
        part = recordings.Rows(*(column[at : at + _ROWS] for column in rows))
        yield part._replace(observation=newest_frames(part.observation))

  @property
  def _indices(self) -> np.ndarray:
    return np.asarray(self._dataset.episode_indices)

  def _episodes(self, indices: np.ndarray) -> Iterator[Any]:
    return self._dataset.iterate_episodes(indices)


def checkpoint_folder(base_dir: str | os.PathLike) -> pathlib.Path | None:
  """Returns the directory of a run's checkpoints; None if there are none."""
  for folder in (pathlib.Path(base_dir), pathlib.Path(base_dir) / 'checkpoints'):
    if folder.is_dir() and checkpoints.iterations(folder):
      return folder
  return None


def newest_frames(observations: np.ndarray) -> np.ndarray:
  """Returns one grey frame for each observation: [m, ...] uint8 -> [m, height, width] uint8.

  Args:
    observations: frames [m, H, W] or [m, H, W, 1], stacks of them [m, S, H, W] or [m, H, W, S] with
      the newest last, or screens [m, 210, 160] or [m, 210, 160, 3].

  Raises:
    ValueError: for anything else.
  """
  shape = observations.shape[1:]
  if observations.dtype == np.uint8 and shape in ((210, 160), (210, 160, 3)):
    import cv2

    grey = (
      observations
      if len(shape) == 2
      else np.stack([cv2.cvtColor(o, cv2.COLOR_RGB2GRAY) for o in observations])
    )
    return np.stack([cv2.resize(o, (84, 84), interpolation=cv2.INTER_AREA) for o in grey])
  if observations.dtype == np.uint8 and len(shape) == 2:
    return observations
  if observations.dtype == np.uint8 and len(shape) == 3 and min(shape) <= 8:
    return observations[:, -1] if shape[0] <= 8 else observations[..., -1]
  raise ValueError(
    f'Observations are {observations.dtype} {shape}; expected grey frames, stacks of them, or '
    'screens of (210, 160, 3).'
  )

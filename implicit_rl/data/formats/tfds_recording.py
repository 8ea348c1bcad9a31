"""A TFDS dataset of episodes, or some of its rows, as a recording for making a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from implicit_rl.data import transitions
from implicit_rl.data.formats import recordings, tfds_files

# Number of episodes, and maximum number of frames of each, for training a dictionary.
_SAMPLE_EPISODES, _SAMPLE_FRAMES = 100, 20


class TfdsRecording(recordings.Recording):
  """The rows of a dataset in logged order.

  Args:
    files: from `tfds_files.open_dataset`.
    index: from `tfds_files.read_index`; its lengths are the numbers of rows of each episode to use.
    keep: [N] bool, which rows are wanted; None for all.
  """

  def __init__(
    self, files: tfds_files.Dataset, index: tfds_files.Index, keep: np.ndarray | None = None
  ):
    self._files, self._index = files, index
    self._all = keep is None
    self._ends = episode_ends(index)
    self._keep = np.ones(len(self._ends), bool) if keep is None else keep

  @property
  def frame_shape(self) -> tuple[int, ...]:
    """Shape of one frame."""
    return self._files.frame_shape

  @property
  def frame_dtype(self) -> np.dtype:
    """Data type of a frame."""
    return np.dtype(self._files.observation.np_dtype)

  def identity(self) -> dict[str, Any]:
    """Returns the data's identity, with the files' names, sizes and modification times."""
    rows = {}
    if not self._all:  # Which rows are kept, and the episodes that these flags belong to.
      digest = hashlib.sha256(np.asarray(self._index.length, np.int64).tobytes())
      digest.update(np.packbits(self._keep).tobytes())
      rows = {'rows_sha256': digest.hexdigest()[:32]}
    return {
      'format': 'tfds',
      'game': self._files.name.rpartition('/')[2].rpartition('_run_')[0],
      **self._files.identity(),
      **rows,
    }

  def __len__(self) -> int:
    return int(self._keep.sum())

  def sample(self) -> np.ndarray:
    """See `Recording.sample`: some frames of some episodes, evenly spaced."""
    end = np.cumsum(self._index.length)
    begin = end - self._index.length
    kept = np.concatenate([[0], np.cumsum(self._keep)])
    episodes = np.flatnonzero(kept[end] > kept[begin])

    def some(episode: int) -> np.ndarray:
      rows = np.flatnonzero(self._keep[begin[episode] : end[episode]])
      return rows[:: -(-len(rows) // _SAMPLE_FRAMES)]

    chosen = episodes[:: -(-len(episodes) // _SAMPLE_EPISODES)]
    parts = tfds_files.read_steps(self._files, self._index, some, chosen)
    return np.concatenate([steps.observation for steps in parts])

  def read(self, start: int = 0) -> Iterator[recordings.Rows]:
    """See `Recording.read`."""
    wanted = self._keep & (np.cumsum(self._keep) > start)
    end = np.cumsum(self._index.length)
    begin = end - self._index.length
    before = np.concatenate([[0], np.cumsum(wanted)])
    episodes = np.flatnonzero(before[end] > before[begin])
    terminal = np.zeros(len(wanted), bool)
    terminal[end[self._index.terminal & (self._index.length > 0)] - 1] = True
    last = np.zeros(len(wanted), bool)  # Of the kept rows.
    last[self._keep] = transitions.segment_ends(self._ends, self._keep)

    def rows_of(episode: int) -> np.ndarray:
      return np.flatnonzero(wanted[begin[episode] : end[episode]])

    for steps in tfds_files.read_steps(self._files, self._index, rows_of, episodes):
      rows = begin[steps.episode] + steps.row
      yield recordings.Rows(
        observation=steps.observation,
        action=steps.action,
        reward=steps.reward,
        terminal=terminal[rows],
        episode_end=last[rows],
        is_first=steps.row == 0,
        checkpoint=np.full(len(rows), self._index.checkpoint[steps.episode], np.int16),
      )


def episode_ends(index: tfds_files.Index) -> np.ndarray:
  """Returns which rows of a dataset end an episode: [N] bool."""
  end = np.cumsum(index.length)
  ends = np.zeros(int(end[-1]), bool)
  ends[end[index.length > 0] - 1] = True
  return ends

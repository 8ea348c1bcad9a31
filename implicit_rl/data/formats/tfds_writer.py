"""Writes episodes of our own agents as datasets that TFDS itself reads, in DQN Replay's layout.

Atari episodes become `rlu_atari_checkpoints_ordered/{Game}_run_{n}`, with the official builder's
features, split names and version, so `tfds.load` reads them with its own registered builder.
MinAtar episodes become `minatar_checkpoints_ordered/{Game}_run_{n}`: the same fields, observations
as compressed boolean tensors; `tfds.load` reads them from their own metadata. Any other name is
written like MinAtar's, with observations of their own shape and dtype.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

ATARI = 'rlu_atari_checkpoints_ordered'
MINATAR = 'minatar_checkpoints_ordered'
_VERSION = '1.1.0'
_DESCRIPTION = (
  'Transitions logged by an agent while it learnt to play a game, one split per '
  'checkpoint, episodes in the order they were played. The last step of an episode is a logged '
  'step like any other; is_terminal is False there if a time limit cut the episode off.'
)

Episode = Mapping[str, Any]
Kind = tuple[tuple[int, ...], np.dtype]  # shape and dtype of an observation
Splits = Mapping[str, Iterable[tuple[int, dict]]]  # examples by split, each with its key


def write_dataset(
  directory: str | os.PathLike,
  name: str,
  config: str,
  episodes: Iterable[tuple[int, Episode]] | Mapping[int, Iterable[Episode]],
  *,
  description: str = _DESCRIPTION,
  overwrite: bool = False,
) -> pathlib.Path:
  """Writes a dataset that `tfds.load(f'{name}/{config}', data_dir=directory)` reads.

  It appears under its final name only when it is complete. Pairs may come from a generator: frames
  are compressed one by one and kept in memory. With a mapping of checkpoints to generators only one
  episode is in memory.

  Args:
    directory: the `data_dir` of TFDS and of our loader.
    name: 'rlu_atari_checkpoints_ordered', 'minatar_checkpoints_ordered', or a name of your own.
    config: '{Game}_run_{n}', as 'Pong_run_1'.
    episodes: pairs of a checkpoint's number (0 to 99, giving the split `checkpoint_07`) and an
      episode, or episodes by checkpoint, in the order they were played. An episode maps
      `observation` [T, *shape] (Atari: 84×84 or 84×84×1 uint8; MinAtar: 10×10×C, zeros and ones;
      otherwise any numbers), `action` [T] integers, `reward` [T] (Atari: within [-1, 1], as the
      official data is clipped) and `terminal`, a bool or [T] bool: True on the last step if the
      episode terminated, False if a time limit truncated it. Row t has the observation, action and
      reward of step t; nothing is shifted.
    description: text about the dataset; the official one has its own.
    overwrite: whether to replace an existing dataset.

  Returns:
    The folder written.

  Raises:
    FileExistsError: if it exists and `overwrite` is False.
    ValueError: if an episode does not fit the format.
  """
  check_config(name, config)
  directory = pathlib.Path(directory)
  target = directory / name / config / _VERSION
  if target.exists() and not overwrite:
    raise FileExistsError(f'{target} already exists; pass overwrite=True to replace it.')
  if isinstance(episodes, Mapping):
    splits, kind = _lazily(episodes, name)
  else:
    splits, kind = _at_once(episodes, name)

  directory.mkdir(parents=True, exist_ok=True)
  aside = pathlib.Path(tempfile.mkdtemp(prefix='.writing.', dir=directory))
  try:
    builder_class = (
      _atari_builder(splits) if name == ATARI else _plain_builder(config, splits, kind, description)
    )
    builder_class.name = name
    builder = builder_class(data_dir=os.fspath(aside), config=config)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      builder.download_and_prepare()  # A bar for each split would fill the screen.
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
      os.rename(target, aside / 'replaced')
    os.rename(builder.data_path, target)
  finally:
    shutil.rmtree(aside, ignore_errors=True)
  return target


def check_config(name: str, config: str) -> None:
  """Raises ValueError if `write_dataset` could not write a dataset of this name and config."""
  if not re.fullmatch(r'[a-z][a-z0-9_]*', name) or not re.fullmatch(r'[\w.-]+_run_\d+', config):
    raise ValueError(
      f'Dataset {name!r} must be lower-case letters, digits and "_", such as my_games, and its '
      f'configuration {config!r} a name such as Maze_run_1; they come from the environment.'
    )
  if name == ATARI and config not in _official_builder().builder_configs:
    raise ValueError(
      f'{ATARI} has no configuration {config!r}: expected Game_run_n, as Pong_run_1, with n from 1 '
      'to 5 and one of its 46 games.'
    )


def _official_builder() -> Any:
  from tensorflow_datasets.rl_unplugged.rlu_atari_checkpoints_ordered import (
    rlu_atari_checkpoints_ordered as official,
  )

  return official.RluAtariCheckpointsOrdered


def _kind(episode: Episode, name: str) -> Kind:
  """Returns shape and dtype of a stored observation."""
  observation = np.asarray(episode['observation'])
  return observation.shape[1:], np.dtype(bool) if name == MINATAR else observation.dtype


def _at_once(episodes: Iterable[tuple[int, Episode]], name: str) -> tuple[Splits, Kind]:
  """Returns the examples of all splits, and an observation's shape and dtype."""
  splits: dict[str, list[tuple[int, dict]]] = {}
  kinds = {}
  for checkpoint, episode in episodes:
    split = splits.setdefault(_split_name(checkpoint), [])
    split.append((_key(checkpoint, len(split)), _example(episode, checkpoint, len(split), name)))
    kind = _kind(episode, name)
    kinds[kind[0]] = kind
  if len(kinds) != 1:
    found = f'shapes {sorted(kinds)}' if kinds else 'no episodes'
    raise ValueError(f'Expected episodes of one observation shape, got {found}.')
  return splits, kind


def _lazily(episodes: Mapping[int, Iterable[Episode]], name: str) -> tuple[Splits, Kind]:
  """Returns generators of the examples of each split, and an observation's shape and dtype."""

  def examples(checkpoint: int, held: Iterable[Episode]) -> Iterator[tuple[int, dict]]:
    for number, episode in enumerate(held):
      if np.shape(episode['observation'])[1:] != kind[0]:
        raise ValueError(f'Expected observations of shape {kind[0]} in every episode.')
      yield _key(checkpoint, number), _example(episode, checkpoint, number, name)

  ordered = {checkpoint: iter(episodes[checkpoint]) for checkpoint in sorted(episodes)}
  if not ordered:
    raise ValueError('Expected episodes of one observation shape, got no episodes.')
  lowest = next(iter(ordered))
  first = next(ordered[lowest])
  ordered[lowest] = itertools.chain([first], ordered[lowest])
  kind = _kind(first, name)
  return {_split_name(c): examples(c, held) for c, held in ordered.items()}, kind


def _split_name(checkpoint: int) -> str:
  if not 0 <= checkpoint < 100:
    raise ValueError(f'Checkpoints are numbered 0 to 99, got {checkpoint}.')
  return f'checkpoint_{checkpoint:02d}'


def _key(checkpoint: int, number: int) -> int:
  return int(checkpoint * 1e10) + number


def _atari_builder(splits: Splits) -> Any:
  """Returns a subclass of the official builder: its features, configurations and metadata."""

  class Writer(_official_builder(), skip_registration=True):  # type: ignore[misc,call-arg]
    """The official dataset with our episodes."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      return _generators(splits)

  return Writer


def _plain_builder(config: str, splits: Splits, kind: Kind, description: str) -> Any:
  """Returns a builder with the fields of the Atari dataset and observations as plain arrays."""
  import tensorflow_datasets as tfds

  class Writer(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The same layout for other observations."""

    VERSION = tfds.core.Version(_VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]  # noqa: RUF012 (TFDS's own habit)

    def _info(self) -> Any:
      steps = {
        'observation': tfds.features.Tensor(
          shape=kind[0], dtype=kind[1], encoding=tfds.features.Encoding.ZLIB
        ),
        'action': np.int64,
        'reward': np.float32,
        'is_terminal': np.bool_,
        'is_first': np.bool_,
        'is_last': np.bool_,
        'discount': np.float32,
      }
      return tfds.core.DatasetInfo(
        builder=self,
        description=description,
        features=tfds.features.FeaturesDict(
          {
            'steps': tfds.features.Dataset(steps),
            'checkpoint_id': np.int64,
            'episode_id': np.int64,
            'episode_return': np.float32,
          }
        ),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      return _generators(splits)

    def _generate_examples(self) -> Any:
      """TFDS requires the method; the split generators are complete without it."""
      return iter(())

  return Writer


def _generators(splits: Splits) -> dict[str, Any]:
  """Returns an iterator of examples for each split, in order of the splits."""
  return {split: iter(examples) for split, examples in sorted(splits.items())}


def _example(episode: Episode, checkpoint: int, number: int, name: str) -> dict:
  """Returns one episode in the builders' format, with compressed frames where possible.

  Discounts follow the official conversion of a terminated episode: 1, ..., 1, 0, 0.
  """
  missing = {'observation', 'action', 'reward', 'terminal'} - set(episode)
  if missing:
    raise ValueError(f'Episode {number} of checkpoint {checkpoint} lacks {sorted(missing)}.')
  observation = np.asarray(episode['observation'])
  action = np.asarray(episode['action'], np.int64)
  reward = np.asarray(episode['reward'], np.float32)
  length = len(action)
  terminal = np.asarray(episode['terminal'], bool)
  if terminal.ndim == 0:
    terminal = np.append(np.zeros(max(length - 1, 0), bool), terminal)
  where = f'Episode {number} of checkpoint {checkpoint}'
  if not length or not length == len(observation) == len(reward) == len(terminal):
    raise ValueError(
      f'{where} has {len(observation)} observations, {length} actions, {len(reward)} rewards and '
      f'{len(terminal)} terminals: expected one of each per step, and at least one step.'
    )
  if terminal[:-1].any():
    raise ValueError(f'{where} is terminal before its last step: cut it into episodes there.')
  if name == ATARI and np.abs(reward).max() > 1:
    raise ValueError(f'{where} has rewards outside [-1, 1]: clip them as the official data does.')
  encode = {ATARI: _encode_png, MINATAR: _as_bool}.get(name, _as_it_is)
  discount = np.ones(length, np.float32)
  if terminal[-1]:
    discount[-2:] = 0
  return {
    'checkpoint_id': checkpoint,
    'episode_id': number,
    'episode_return': reward.sum(dtype=np.float64).astype(np.float32),
    'steps': {
      'observation': encode(observation, where),
      'action': action,
      'reward': reward,
      'is_terminal': terminal,
      'is_first': np.arange(length) == 0,
      'is_last': np.arange(length) == length - 1,
      'discount': discount,
    },
  }


def _encode_png(observation: np.ndarray, where: str) -> list[bytes]:
  """Returns frames [T, 84, 84] or [T, 84, 84, 1] uint8 as PNG files."""
  import cv2

  if observation.dtype != np.uint8 or observation.shape[1:] not in ((84, 84), (84, 84, 1)):
    raise ValueError(
      f'{where} has {observation.dtype} frames {observation.shape[1:]}: expected uint8 (84, 84).'
    )
  settings = [cv2.IMWRITE_PNG_COMPRESSION, 9]
  return [cv2.imencode('.png', frame, settings)[1].tobytes() for frame in observation]


def _as_it_is(observation: np.ndarray, where: str) -> np.ndarray:
  """Returns numeric observations."""
  if observation.dtype.kind not in 'biuf':
    raise ValueError(f'{where} has observations of {observation.dtype}: expected numbers.')
  return observation


def _as_bool(observation: np.ndarray, where: str) -> np.ndarray:
  """Returns observations of zeros and ones as booleans."""
  if not np.isin(observation, (0, 1)).all():
    raise ValueError(f'{where} has observations other than 0 and 1: expected MinAtar frames.')
  return observation.astype(bool)

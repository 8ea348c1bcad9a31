"""Finds and reads episode datasets on disk exactly as TFDS prepares them.

TFDS stores one record per episode. Its own pipeline decodes 6 thousand steps a second; here the
records are indexed once and only the wanted frames of the wanted episodes are decoded, in threads.
"""

from __future__ import annotations

import collections
import concurrent.futures
import difflib
import itertools
import os
import pathlib
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from implicit_rl.cpu import cores
from implicit_rl.data.formats import recordings, tfds_records

KNOWN_DATASETS = (
  'rlu_atari_checkpoints_ordered',
  'rlu_atari_checkpoints',
  'rlu_atari',
  'minatar_checkpoints_ordered',
)
_PART_ROWS = 512  # Frames decoded at once.
_AHEAD_BYTES, _AHEAD_EPISODES = 1 << 24, 64  # Records parsed before they are needed.


class Dataset(NamedTuple):
  """A prepared dataset on disk.

  Attributes:
    name: such as 'rlu_atari_checkpoints_ordered/Pong_run_1'.
    version: such as '1.1.0'.
    path: the folder of that version.
    splits: file paths of each split, in order.
    episodes: how many episodes each file holds, in the order of `files`.
    observation: TFDS's feature that decodes one observation.
  """

  name: str
  version: str
  path: pathlib.Path
  splits: dict[str, list[pathlib.Path]]
  episodes: list[int]
  observation: Any

  @property
  def files(self) -> list[pathlib.Path]:
    """All record files, by split."""
    return [file for files in self.splits.values() for file in files]

  @property
  def frame_shape(self) -> tuple[int, ...]:
    """Shape of a decoded observation: a single grey channel is dropped."""
    shape = tuple(self.observation.shape)
    return shape[:-1] if _is_grey(self.observation) else shape

  def identity(self) -> dict[str, Any]:
    """Returns the dataset's identity, as JSON values; it changes if a file changes."""
    return {
      'dataset': self.name,
      'version': self.version,
      'files': recordings.file_stamps(self.files),
    }


class Index(NamedTuple):
  """Location and length of each episode, in logged order.

  Attributes:
    length: [E] int64, steps.
    checkpoint: [E] int64.
    terminal: [E] bool, whether the episode terminated.
    file: [E] int64, index in `Dataset.files`.
    offset: [E] int64, start of the record's content in its file.
    size: [E] int64, size of the content in bytes.
  """

  length: np.ndarray
  checkpoint: np.ndarray
  terminal: np.ndarray
  file: np.ndarray
  offset: np.ndarray
  size: np.ndarray


class Steps(NamedTuple):
  """Some rows of an episode.

  Attributes:
    episode: its number.
    row: [m] int64, their positions in it.
    observation: [m, *shape].
    action: [m] int32.
    reward: [m] float32.
  """

  episode: int
  row: np.ndarray
  observation: np.ndarray
  action: np.ndarray
  reward: np.ndarray


def open_dataset(data_dir: str | os.PathLike, dataset: str, config: str) -> Dataset:
  """Opens the newest version of `{data_dir}/{dataset}/{config}`.

  Args:
    data_dir: the `data_dir` of TFDS.
    dataset: such as 'rlu_atari_checkpoints_ordered'.
    config: such as 'Pong_run_1'.

  Raises:
    FileNotFoundError: if any part of it is missing; the error says what is there and how to get it.
    ValueError: if it is not a dataset of episodes.
  """
  data_dir = pathlib.Path(data_dir).expanduser()
  remedy = f"Prepare it with tfds.load('{dataset}/{config}', data_dir='{data_dir}')."
  if not data_dir.is_dir():
    raise FileNotFoundError(f'There is no data folder {data_dir}. {remedy}')
  if not (data_dir / dataset).is_dir():
    known = sorted({*KNOWN_DATASETS, *_folders(data_dir)})
    if dataset not in known:
      raise FileNotFoundError(
        f'Unknown dataset {dataset!r}.{_did_you_mean(dataset, known)} Known: {", ".join(known)}.'
      )
    inside = data_dir.parent if data_dir.name == dataset else None
    hint = f' Give its parent folder {inside} instead.' if inside else ''
    raise FileNotFoundError(
      f'{data_dir} holds no {dataset}; it holds {_listed(_folders(data_dir))}.{hint} {remedy}'
    )
  if not (data_dir / dataset / config).is_dir():
    there = _folders(data_dir / dataset)
    raise FileNotFoundError(
      f'{data_dir / dataset} holds no {config}; it holds {_listed(there)}.'
      f'{_did_you_mean(config, there)} {remedy}'
    )
  folder = data_dir / dataset / config
  versions = [v for v in _folders(folder) if re.fullmatch(r'\d+\.\d+\.\d+', v)]
  if not versions:
    raise FileNotFoundError(f'{folder} holds no prepared version. {remedy}')
  version = max(versions, key=lambda v: tuple(map(int, v.split('.'))))
  return _open_version(folder / version, f'{dataset}/{config}', version, remedy)


def read_index(dataset: Dataset) -> Index:
  """Reads every record once, checks its checksum, and records each episode's location.

  Raises:
    ValueError: if a file is damaged, or its records are not episodes.
  """
  rows = []
  files = dataset.files
  size = sum(f.stat().st_size for f in files)
  with recordings.bar(size, 'Indexing ' + dataset.name, 'B') as bar:
    for number, file in enumerate(files):
      offset = 0
      try:
        for record in tfds_records.read(file, dataset.episodes[number]):
          feature = tfds_records.features(record)
          rows.append(
            (
              _checkpoint(file.name, feature),
              feature['episode_id'].int64_list.value[0],
              len(feature['steps/action'].int64_list.value),
              feature['steps/is_terminal'].int64_list.value[-1],
              number,
              offset + tfds_records.HEADER,
              len(record),
            )
          )
          whole = tfds_records.HEADER + len(record) + tfds_records.FOOTER
          offset += whole
          bar.update(whole)
        if offset != file.stat().st_size:
          raise ValueError('it does not end where its episodes do')
      except Exception as error:  # Also an IndexError, for an episode without a step.
        raise ValueError(_damaged(dataset, file, str(error) or repr(error))) from error
  if not rows:
    raise ValueError(f'{dataset.path} holds no episodes. Delete it and prepare it again.')
  # The ordered dataset has this order already; `rlu_atari` is shuffled.
  rows.sort(key=lambda r: r[:2])
  table = np.array(rows, np.int64)
  return Index(
    checkpoint=table[:, 0],
    length=table[:, 2],
    terminal=table[:, 3].astype(bool),
    file=table[:, 4],
    offset=table[:, 5],
    size=table[:, 6],
  )


def read_steps(
  dataset: Dataset, index: Index, wanted: Callable[[int], np.ndarray], episodes: np.ndarray
) -> Iterator[Steps]:
  """Reads episodes in the given order; decodes in threads and in parts, so that memory is bounded.

  Args:
    dataset: from `open_dataset`.
    index: from `read_index`.
    wanted: returns an episode's rows to decode, [m] int64, given its number.
    episodes: [e] int64, numbers of the episodes to read.

  Yields:
    The wanted rows of each, up to `_PART_ROWS` at a time.
  """
  decode = _decoder(dataset.observation)
  threads = cores.count()

  def decode_part(episode: int, feature: Any, rows: np.ndarray) -> Steps:
    try:
      frames = feature['steps/observation'].bytes_list.value
      return Steps(
        episode=episode,
        row=rows,
        observation=np.stack([decode(frames[row]) for row in rows]),
        action=np.array(feature['steps/action'].int64_list.value, np.int32)[rows],
        reward=np.array(feature['steps/reward'].float_list.value, np.float32)[rows],
      )
    except Exception as error:
      raise ValueError(
        _damaged(dataset, dataset.files[index.file[episode]], repr(error))
      ) from error

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:

    def parts() -> Iterator[concurrent.futures.Future[Steps]]:
      for episode, feature in _features(dataset, index, episodes, pool):
        rows = wanted(episode)
        for start in range(0, len(rows), _PART_ROWS):
          yield pool.submit(decode_part, episode, feature, rows[start : start + _PART_ROWS])

    ahead: collections.deque[concurrent.futures.Future[Steps]] = collections.deque()
    try:
      for part in itertools.chain(parts(), [None] * 2 * threads):
        if part is not None:
          ahead.append(part)
        if ahead and (part is None or len(ahead) > 2 * threads):
          yield ahead.popleft().result()
    finally:
      for future in ahead:
        future.cancel()


def read_rewards(dataset: Dataset, index: Index, episodes: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the rewards of all rows of each episode, [T] float32, without decoding frames."""
  with concurrent.futures.ThreadPoolExecutor(cores.count()) as pool:
    for _, feature in _features(dataset, index, episodes, pool):
      yield np.array(feature['steps/reward'].float_list.value, np.float32)


def _features(
  dataset: Dataset, index: Index, episodes: np.ndarray, pool: concurrent.futures.Executor
) -> Iterator[tuple[int, Any]]:
  """Yields each episode's number and parsed record; `pool` parses a bounded number in advance."""
  files = dataset.files

  def read(episode: int) -> Any:
    file = files[index.file[episode]]
    with file.open('rb') as stream:
      stream.seek(int(index.offset[episode]) - tfds_records.HEADER)
      (size,) = struct.unpack('<Q', stream.read(8))
      if size != index.size[episode]:
        raise ValueError(_damaged(dataset, file, 'it changed after it was indexed'))
      stream.seek(4, os.SEEK_CUR)
      record = stream.read(size)
    try:
      return tfds_records.features(record)
    except Exception as error:
      raise ValueError(_damaged(dataset, file, repr(error))) from error

  ahead: collections.deque[tuple[int, concurrent.futures.Future]] = collections.deque()
  held = 0  # Bytes of the records in `ahead`.
  try:
    for episode in episodes.tolist():
      ahead.append((episode, pool.submit(read, episode)))
      held += int(index.size[episode])
      while held > _AHEAD_BYTES or len(ahead) > _AHEAD_EPISODES:
        number, future = ahead.popleft()
        held -= int(index.size[number])
        yield number, future.result()
    while ahead:
      number, future = ahead.popleft()
      yield number, future.result()
  finally:
    for _, future in ahead:
      future.cancel()


def _open_version(path: pathlib.Path, name: str, version: str, remedy: str) -> Dataset:
  import tensorflow_datasets as tfds

  again = f'Delete the folder; then: {remedy}'
  try:
    builder = tfds.builder_from_directory(path)
  except Exception as error:  # TFDS raises many kinds of errors for half-written metadata.
    raise FileNotFoundError(f'{path} cannot be opened by TFDS ({error}). {again}') from error
  splits = {
    split: [pathlib.Path(f) for f in builder.info.splits[split].filepaths]
    for split in sorted(builder.info.splits)
  }
  if not splits:
    raise FileNotFoundError(f'{path} lists no splits. {again}')
  missing = [f for files in splits.values() for f in files if not f.is_file()]
  if missing:
    more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
    raise FileNotFoundError(f'{path} lacks {missing[0].name}{more}. {again}')
  if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
    raise ValueError(
      f'{path} is in the format {builder.info.file_format.value}; prepare it as tfrecord.'
    )
  features = builder.info.features
  try:
    observation = features['steps'].feature['observation']
    fields = {'action', 'reward', 'is_terminal'} - set(features['steps'].feature)
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is not a dataset of episodes with steps.') from error
  if fields or not {'checkpoint_id', 'episode_id'} <= set(features):
    raise ValueError(f'{path} lacks fields of DQN Replay: its features are {features}.')
  episodes = [n for split in splits for n in builder.info.splits[split].shard_lengths]
  return Dataset(name, version, path, splits, episodes, observation)


def _decoder(feature: Any) -> Callable[[bytes], np.ndarray]:
  """Returns the decoder of one stored observation, which drops a last axis of one grey channel."""
  import cv2

  shape = tuple(feature.shape)
  if _is_grey(feature):

    def decode_grey(encoded: bytes) -> np.ndarray:
      frame = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
      if frame is None or frame.shape != shape[:-1]:
        raise ValueError(f'a frame is not an image of shape {shape[:-1]}')
      return frame

    return decode_grey
  return lambda encoded: np.asarray(feature.decode_example_np(encoded)).reshape(shape)


def _is_grey(feature: Any) -> bool:
  import tensorflow_datasets as tfds

  return isinstance(feature, tfds.features.Image) and feature.shape[-1] == 1


def _checkpoint(file: str, feature: Any) -> int:
  """Returns the checkpoint in the name of a file's split, or else that of the episode."""
  match = re.search(r'-checkpoint_(\d+)\.', file)
  return int(match[1]) if match else feature['checkpoint_id'].int64_list.value[0]


def _damaged(dataset: Dataset, file: pathlib.Path, why: str) -> str:
  return f'{file} is damaged ({" ".join(why.split())}): delete {dataset.path} and prepare it again.'


def _folders(path: pathlib.Path) -> list[str]:
  """Returns the names of the folders in `path`, without hidden ones and TFDS's own `downloads`."""
  found = (p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith('.'))
  return sorted(name for name in found if name != 'downloads')


def _listed(names: list[str]) -> str:
  return ', '.join(names[:20]) + (', ...' if len(names) > 20 else '') if names else 'nothing'


def _did_you_mean(name: str, known: list[str]) -> str:
  near = difflib.get_close_matches(name, known, n=1)
  return f' Did you mean {near[0]}?' if near else ''

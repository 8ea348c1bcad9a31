"""The offline data source of TFDS datasets: a subset of DQN Replay, or of our agents' data."""

from __future__ import annotations

import hashlib
import logging
import os
import pathlib
from typing import Any

import gin
import numpy as np

from implicit_rl.data import source, subsets, transitions
from implicit_rl.data.formats import recordings, tfds_files, tfds_recording
from implicit_rl.data.store import frame_store, prepare, store_cache, store_files

EMBEDDED = pathlib.Path(__file__).parent.parent / 'embedded'
_log = logging.getLogger(__name__)


@gin.configurable(denylist=source.FROM_AGENT)
class TFDSReplay(source.StoredSource):
  """Transitions of `{data_dir}/{dataset}/{game}_run_{run}`, decoded once into memory.

  Frames keep the dataset's dtype. Atari's single grey channel is dropped, so a state is [S, 84, 84]
  uint8; a state of MinAtar is [S, 10, 10, C] bool.

  About `terminal_convention`: the official conversion marks an episode's last logged step as
  terminal and calls it "observation only". Dopamine's loader follows this: the previous transition
  ends the episode, and the last action and reward are dropped. But the agent that made the data
  logged (o, a, r, terminal) in one row and never the frame after a terminal. The last row is
  therefore a transition like any other: 'logged_row' (default) keeps it, with the last reward (in
  Pong, the last point of every game). 'rlds' reproduces Dopamine's reading.

  Args:
    stack_size: S, frames per state. As the agent's.
    update_horizon: n. As the agent's.
    gamma: discount per step. As the agent's.
    seed: all sampling derives from it, but not the subset.
    observation_shape: shape of the environment's observations, which the data must have; None does
      not check.
    observation_dtype: ignored, since networks accept any; the data keeps its dtype.
    dataset: `rlu_atari_checkpoints_ordered`, `rlu_atari_checkpoints`, `rlu_atari`,
      `minatar_checkpoints_ordered`, or any other with the same fields.
    game: as 'Pong'.
    run: number of the logging agent's run in the dataset, 1 to 5.
    data_dir: the `data_dir` of TFDS. None uses the data inside this package, a small sample that is
      used completely.
    subset: a name from `subsets`, or a function with the same arguments.
    fraction: in (0, 1]; 0.05 is the paper's 5%.
    subset_seed: seed of a random subset.
    terminal_convention: 'logged_row' or 'rlds'.
    codec: 'zstd' compresses; 'raw' takes 7 kB per Atari frame and is two or three times as fast;
      'auto' is 'raw' if the frames fit in one gibibyte.
    on_device: keep the decoded frames in the accelerator's memory and gather batches there, within
      the learner's compiled program: 17.6 GB for 5% of an Atari game.
    cache_dir: folder for decoded frames, so that the next run starts at once; None keeps none.
    return_to_go: compute the discounted return from every row to its episode's end, from all
      rewards of the episode, in one more pass over the files. Agents that need it set it.
    held_out: share of the chosen data that no update draws, in whole episodes, for measures on
      unseen transitions.

  Raises:
    FileNotFoundError: if the data is missing; the error says what is there and how to get it.
    ValueError: if a setting is out of range or the data is damaged.
  """

  def __init__(
    self,
    *,
    stack_size: int,
    update_horizon: int,
    gamma: float,
    seed: int = 0,
    observation_shape: tuple[int, ...] | None = None,
    observation_dtype: Any = None,
    dataset: str = 'rlu_atari_checkpoints_ordered',
    game: str = 'Pong',
    run: int = 1,
    data_dir: str | os.PathLike | None = None,
    subset: str | subsets.Subset = 'random_episodes',
    fraction: float = 0.05,
    subset_seed: int = 0,
    terminal_convention: str = 'logged_row',
    codec: str = 'auto',
    on_device: bool = False,
    cache_dir: str | os.PathLike | None = None,
    return_to_go: bool = False,
    held_out: float = 0.0,
  ):
    del observation_dtype
    source.check_settings(stack_size, update_horizon, gamma, seed)
    if codec != 'auto':
      frame_store.check_codec(codec)
    subsets.check(subset, fraction)
    source.check_convention(terminal_convention)
    config = f'{game}_run_{run}'
    files = _open_embedded(dataset, config) if data_dir is None else None
    if files is None:
      assert data_dir is not None
      files = tfds_files.open_dataset(data_dir, dataset, config)
    else:
      subset, fraction = embedded, 1.0
    if observation_shape is not None and tuple(observation_shape) != files.frame_shape:
      raise ValueError(
        f'{files.name} has observations of shape {files.frame_shape}, the environment '
        f'{tuple(observation_shape)}: they are not the same game.'
      )
    cache = None if cache_dir is None else pathlib.Path(cache_dir).expanduser()

    index = _index(files, cache)
    if terminal_convention == 'rlds':  # The last row of a finished episode is not a transition.
      index = index._replace(length=index.length - index.terminal)
    episodes = subsets.Episodes(index.length, index.checkpoint)
    selected, chosen = subsets.choose(subset, episodes, fraction, subset_seed)
    keep = transitions.rows_needed(
      tfds_recording.episode_ends(index), selected, stack_size, update_horizon
    )
    if codec == 'auto':
      frame_bytes = int(np.prod(files.frame_shape)) * np.dtype(files.observation.np_dtype).itemsize
      codec = 'raw' if keep.sum() * frame_bytes <= source.RAW_BYTES else 'zstd'
    recording = tfds_recording.TfdsRecording(files, index, keep)
    columns, frames = _stored(recording, codec, cache)
    super().__init__(
      columns,
      frames,
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
      selected=selected[keep],
      return_to_go=_returns(files, index, keep, gamma) if return_to_go else None,
      on_device=on_device,
      held_out=held_out,
      description={
        'dataset': files.name,
        'game': game,
        'version': files.version,
        'embedded': data_dir is None,
        **chosen,
        'terminal_convention': terminal_convention,
        'codec': codec,
        'stored_bytes': frames.nbytes,
        'splits': len(files.splits),
        'fingerprint': _fingerprint(columns, index),
      },
    )


def _open_embedded(dataset: str, config: str) -> tfds_files.Dataset:
  """Opens a dataset that ships with the package."""
  there = sorted(f'{p.parent.name}/{p.name}' for p in EMBEDDED.glob('*/*') if p.is_dir())
  if f'{dataset}/{config}' not in there:
    raise FileNotFoundError(
      f'{dataset}/{config} does not ship with this package, only {", ".join(there) or "nothing"}. '
      'Give the folder that holds it: --data_dir, or TFDSReplay.data_dir in gin.'
    )
  files = tfds_files.open_dataset(EMBEDDED, dataset, config)
  _log.info(
    'Using all of the small %s that ships with the package; no fraction applies.', files.name
  )
  return files


def embedded(episodes: subsets.Episodes, fraction: float, seed: int) -> np.ndarray:
  """Chooses everything, since the shipped data is a subset already."""
  del fraction, seed
  return np.ones(int(episodes.length.sum()), bool)


def _index(files: tfds_files.Dataset, cache: pathlib.Path | None) -> tfds_files.Index:
  """Returns the index of a dataset, from the cache if possible."""
  if cache is None:
    return tfds_files.read_index(files)
  folder = cache / f'index-{store_cache.key(files.identity())}'
  found = store_files.load(folder)
  if found:
    store_cache.check(folder, found[1], files.identity())
    return tfds_files.Index(**found[0])
  index = tfds_files.read_index(files)
  store_files.save(folder, index._asdict(), files.identity())
  return index


def _stored(
  recording: tfds_recording.TfdsRecording, codec: str, cache: pathlib.Path | None
) -> tuple[transitions.Columns, frame_store.AnyFrames]:
  """Returns the rows of a recording, through a store in the cache if there is a cache."""
  names = ('action', 'reward', 'terminal', 'episode_end')
  if cache is None:
    held: dict[str, list[np.ndarray]] = {name: [] for name in names}
    writer = frame_store.FrameWriter(
      len(recording),
      recording.frame_shape,
      recording.frame_dtype,
      codec,
      dictionary=prepare.make_dictionary(recording, codec),
    )
    with recordings.bar(len(recording), f'Decoding {recording.identity()["dataset"]}') as progress:
      for rows in recording.read():
        writer.append(rows.observation)
        for name in names:
          held[name].append(getattr(rows, name))
        progress.update(len(rows.action))
    columns = transitions.make_columns(*(np.concatenate(held[name]) for name in names))
    return columns, writer.finish()
  folder = store_cache.find_or_make(
    cache, 'frames', recording.identity(), lambda: recording, codec=codec
  )
  index = store_files.read_index(folder)
  arrays = store_files.read_arrays(folder, index)
  return (
    transitions.make_columns(*(arrays[name] for name in names)),
    frame_store.from_arrays(index['settings'], arrays),
  )


def _returns(
  files: tfds_files.Dataset, index: tfds_files.Index, keep: np.ndarray, gamma: float
) -> np.ndarray:
  """Returns the return to the end of the whole logged episode, for each kept row."""
  end = np.cumsum(index.length)
  kept = np.split(keep, end[:-1])
  episodes = np.flatnonzero([mask.any() for mask in kept])
  found = []
  rewards = tfds_files.read_rewards(files, index, episodes)
  for episode, logged in zip(episodes, rewards, strict=True):
    reward = logged[: index.length[episode]]
    last = np.arange(len(reward)) == len(reward) - 1
    returns = transitions.returns_to_go(reward, last & index.terminal[episode], last, gamma)
    found.append(returns[kept[episode]])
  return np.concatenate(found)


def _fingerprint(columns: transitions.Columns, index: tfds_files.Index) -> str:
  """Returns a short hash of the data: every action, reward and end, and record sizes."""
  digest = hashlib.sha256()
  for array in (*columns, index.size):
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]

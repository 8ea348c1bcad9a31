"""The offline data source that reads a prepared store, from memory or from disk."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import gin
import numpy as np

from implicit_rl.data import source, subsets, transitions
from implicit_rl.data.formats import dopamine_files
from implicit_rl.data.sources import dopamine_logs, rotation
from implicit_rl.data.store import frame_store, store_cache, store_files

FRAMES = ('auto', 'raw', 'packed', 'mapped')
_READ_ROWS = 4096


@gin.configurable(denylist=source.FROM_AGENT)
class StoreReplay(source.StoredSource):
  """Transitions of a store from `python -m implicit_rl.data prepare`.

  Args:
    stack_size: S, frames per state. As the agent's.
    update_horizon: n. As the agent's.
    gamma: discount per step. As the agent's.
    seed: all sampling derives from it, but not the subset.
    observation_shape: shape of the environment's observations, which the data must have; None does
      not check.
    observation_dtype: ignored, since networks accept any; the data keeps its dtype.
    path: the store.
    subset: a name from `subsets`, or a function with the same arguments.
    fraction: in (0, 1]; 0.05 is the paper's 5%.
    subset_seed: seed of a random subset.
    terminal_convention: 'logged_row': a row is a transition as the agent logged it. 'rlds': a
      terminated episode ends one step early, and its last action and reward are dropped.
    clip_rewards: clip rewards to [-1, 1]; those of DQN Replay are clipped already.
    time_limit: number of rows of an episode that the time limit ended; such an end does not count
      as terminal. For DQN Replay it is 27,000, and its logs mark these ends as terminal. None keeps
      the logged ends.
    frames: 'raw' keeps them uncompressed in memory; 'packed' keeps the stored chunks that the
      subset needs in memory; 'mapped' leaves them on disk; 'auto' is 'raw' if they fit in one
      gibibyte, otherwise 'packed'.
    rotation: a `CheckpointRotation`, to draw from a few checkpoints at a time as Dopamine does;
      None draws from all.
    on_device: keep the decoded frames in the accelerator's memory and gather batches there.
    return_to_go: compute the discounted return from every row to its episode's end.
    held_out: share of the chosen data that no update draws, in whole episodes, for measures on
      unseen transitions.

  Raises:
    FileNotFoundError: if the store does not exist or is not complete.
    ValueError: if a setting is out of range, or the store is damaged or of another version.
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
    path: str | os.PathLike = gin.REQUIRED,
    subset: str | subsets.Subset = 'random_episodes',
    fraction: float = 0.05,
    subset_seed: int = 0,
    terminal_convention: str = 'logged_row',
    clip_rewards: bool = False,
    time_limit: int | None = None,
    frames: str = 'auto',
    rotation: rotation.CheckpointRotation | None = None,
    on_device: bool = False,
    return_to_go: bool = False,
    held_out: float = 0.0,
  ):
    del observation_dtype
    source.check_settings(stack_size, update_horizon, gamma, seed)
    subsets.check(subset, fraction)
    source.check_convention(terminal_convention)
    if frames not in FRAMES:
      raise ValueError(f'Unknown frames {frames!r}; choose one of {", ".join(FRAMES)}.')
    folder = pathlib.Path(path).expanduser()
    settings, arrays = store_files.open_rows(folder)
    if observation_shape is not None and tuple(observation_shape) != tuple(settings['shape'][1:]):
      raise ValueError(
        f'{folder} has observations of shape {tuple(settings["shape"][1:])}, the environment '
        f'{tuple(observation_shape)}: they are not the same game.'
      )
    terminal, episode_end, counted = endings(arrays, terminal_convention, time_limit)
    chosen = subsets.choose(subset, _episodes(arrays, counted), fraction, subset_seed, counted)
    selected = chosen.rows & _with_history(arrays, stack_size)

    keep = transitions.rows_needed(episode_end, selected, stack_size, update_horizon)
    stored, keep = _load(folder, settings, arrays, keep, frames)
    rewards = np.array(arrays['reward'])
    if clip_rewards:
      rewards = np.clip(rewards, -1, 1)
    columns = transitions.make_columns(
      arrays['action'][keep],
      rewards[keep],
      terminal[keep],
      transitions.segment_ends(episode_end, keep),
    )
    returns = None
    if return_to_go:
      returns = transitions.returns_to_go(rewards, terminal, episode_end, gamma)[keep]
    made_from = settings['source']
    super().__init__(
      columns,
      stored,
      stack_size=stack_size,
      update_horizon=update_horizon,
      gamma=gamma,
      seed=seed,
      selected=selected[keep],
      return_to_go=returns,
      on_device=on_device,
      held_out=held_out,
      description={
        'dataset': made_from['dataset'],
        **{name: made_from[name] for name in ('game', 'version') if name in made_from},
        'store': os.fspath(folder),
        **chosen.description,
        'terminal_convention': terminal_convention,
        **({'clip_rewards': True} if clip_rewards else {}),
        **({'time_limit': time_limit} if time_limit else {}),
        **({'rotation': rotation.describe()} if rotation else {}),
        'frames': 'raw' if isinstance(stored, frame_store.RawFrames) else settings['codec'],
        'stored_bytes': stored.nbytes,
        **({'skipped': settings['skipped']} if settings['skipped'] else {}),
        'fingerprint': settings['content_sha256'][:16],
      },
    )
    self._rotation = rotation
    if rotation is not None:
      checkpoint = np.asarray(arrays['checkpoint'][keep])[np.asarray(self._valid)]
      self._bounds = np.append(np.flatnonzero(np.diff(checkpoint, prepend=-1)), len(checkpoint))

  def _draw(self, first_update: int, num_updates: int, batch_size: int, stream: int) -> np.ndarray:
    if self._rotation is None or stream != transitions.TRAINING_STREAM:
      return super()._draw(first_update, num_updates, batch_size, stream)
    places = self._rotation.draw(self._seed, first_update, num_updates, batch_size, self._bounds)
    return self._valid[places]


@gin.configurable(denylist=[*source.FROM_AGENT, 'path'])
class DopamineReplay(StoreReplay):
  """Transitions of Dopamine's raw logs `{data_dir}/{game}/{run}/replay_logs`, prepared once.

  Args:
    data_dir: folder of the logs in batch_rl's layout.
    cache_dir: folder of the store. A store of an earlier run is used if it was made from the same
      files (by name, size and modification time) with the same settings.
    game: as 'Pong'.
    run: number of the logging agent's run.
    skip_missing: leave out checkpoints that are missing or damaged.
    codec: how frames are stored: 'zstd' or 'raw'.
    **settings: those of `StoreReplay`.

  Raises:
    FileNotFoundError: if the logs are missing or incomplete.
    ValueError: if the logs are damaged or a setting is out of range.
  """

  def __init__(
    self,
    *,
    data_dir: str | os.PathLike = gin.REQUIRED,
    cache_dir: str | os.PathLike = gin.REQUIRED,
    game: str = 'Pong',
    run: int = 1,
    skip_missing: bool = False,
    codec: str = 'zstd',
    **settings: Any,
  ):
    logs = pathlib.Path(data_dir).expanduser() / game / str(run)
    cache, name = pathlib.Path(cache_dir).expanduser(), f'replay_logs-{game}-{run}'
    try:
      identity = dopamine_files.identity(logs, skip_missing=skip_missing)
    except FileNotFoundError as error:
      stores = sorted(cache.glob(f'{name}-*/{store_files.INDEX}'))
      if not stores:
        raise
      hint = f'A store of them is there: StoreReplay.path = {str(stores[0].parent)!r}.'
      raise FileNotFoundError(f'{error} {hint}') from error
    super().__init__(
      path=store_cache.find_or_make(
        cache,
        name,
        identity,
        lambda: dopamine_logs.DopamineLogs(logs, skip_missing=skip_missing),
        codec=codec,
      ),
      **settings,
    )


def endings(
  arrays: Mapping[str, np.ndarray], terminal_convention: str, time_limit: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns where episodes end, and which rows are transitions of the dataset.

  Args:
    arrays: a store's columns.
    terminal_convention: see `StoreReplay`.
    time_limit: as above.

  Returns:
    terminal [N], episode_end [N] and counted [N], all bool.
  """
  terminal, episode_end = np.array(arrays['terminal']), np.array(arrays['episode_end'])
  counted = np.ones(len(terminal), bool)
  if time_limit is not None:
    ends = np.flatnonzero(episode_end)
    begins = np.append(0, ends[:-1] + 1)
    timed = (ends - begins + 1 == time_limit) & arrays['is_first'][begins]
    terminal[ends[timed]] = False
  if terminal_convention == 'rlds':
    last = np.flatnonzero(terminal)
    counted[last] = False
    terminal[:] = False
    before = last[(last > 0) & ~episode_end[last - 1]] - 1  # An episode of one row has none.
    terminal[before] = episode_end[before] = True
  return terminal, episode_end, counted


def _episodes(arrays: Mapping[str, np.ndarray], counted: np.ndarray) -> subsets.Episodes:
  """Returns the episodes of a store, with only the rows in `counted` [N] bool."""
  ends = np.flatnonzero(arrays['episode_end'])
  begins = np.append(0, ends[:-1] + 1)
  return subsets.Episodes(
    np.add.reduceat(counted, begins, dtype=np.int64),
    np.asarray(arrays['checkpoint'][begins], np.int64),
    np.asarray(arrays['checkpoint'])[counted],
  )


def _with_history(arrays: Mapping[str, np.ndarray], stack_size: int) -> np.ndarray:
  """Returns which rows [N] have all frames of their state."""
  begins = np.flatnonzero(np.append(True, arrays['episode_end'][:-1]))
  cut = begins[~arrays['is_first'][begins]]
  whole = np.ones(len(arrays['is_first']), bool)
  ends = np.flatnonzero(arrays['episode_end'])
  last = ends[np.searchsorted(ends, cut)]
  for begin, end in zip(cut, last, strict=True):
    whole[begin : min(begin + stack_size - 1, end + 1)] = False
  return whole


def _load(
  folder: pathlib.Path,
  settings: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  keep: np.ndarray,
  frames: str,
) -> tuple[frame_store.AnyFrames, np.ndarray]:
  """Returns the frames of at least the rows in `keep` [N] bool, and the rows of these frames."""
  count, *shape = settings['shape']
  frame_bytes = int(np.prod(shape)) * np.dtype(settings['dtype']).itemsize
  if frames == 'auto':
    frames = 'raw' if keep.sum() * frame_bytes <= source.RAW_BYTES else 'packed'
  if frames == 'mapped':
    mapped = {**arrays, 'frames': store_files.map_randomly(folder / 'frames.npy')}
    return frame_store.from_arrays(settings, mapped), np.ones(count, bool)
  if frames == 'packed' and settings['codec'] != 'raw':
    chunk_size = settings['chunk_size']
    wanted = np.logical_or.reduceat(keep, np.arange(0, count, chunk_size))
    keep = np.repeat(wanted, chunk_size)[:count]
    offsets = np.asarray(arrays['offsets'])
    ends = np.cumsum(np.diff(offsets)[wanted])
    data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    at = 0
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    for begin, end in offsets[edges].tolist():  # Consecutive rows in one piece.
      data[at : at + end - begin] = arrays['frames'][begin:end]
      at += end - begin
    packed = {**arrays, 'frames': data, 'offsets': np.append(0, ends)}
    kept = {**settings, 'shape': [int(keep.sum()), *shape]}
    return frame_store.from_arrays(kept, packed), keep
  stored = frame_store.from_arrays(settings, arrays)
  rows = np.flatnonzero(keep)
  plain = np.empty((len(rows), *shape), settings['dtype'])
  for at in range(0, len(rows), _READ_ROWS):
    plain[at : at + _READ_ROWS] = stored.take(rows[at : at + _READ_ROWS])
  return frame_store.RawFrames(plain), keep

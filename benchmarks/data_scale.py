"""Holds 10 and 50 million Atari transitions compressed in memory and samples them uniformly.

    python benchmarks/data_scale.py --replays pong.npz breakout.npz seaquest.npz qbert.npz

The logs are of `experiments/atari_frames.py`. Their frames are compressed once, with one dictionary
for all games, and repeated until the store is as large as asked; every repeat has its own bytes and
its own row numbers, so nothing is held once for two rows. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import data_buffers
import machine
import numpy as np

from implicit_rl.cpu import cores
from implicit_rl.data import source, transitions
from implicit_rl.data.store import frame_store


def compress(
  replays: list[pathlib.Path], chunk_size: int, per_game: int
) -> tuple[frame_store.ZstdFrames, dict[str, np.ndarray]]:
  """Returns a store of all logs' frames, and their columns."""
  samples, lengths = [], []
  for path in replays:
    with np.load(path) as file:
      frames = file['observation']
    samples.append(frames[:: max(1, len(frames) // 500)].copy())
    lengths.append(len(frames))
  dictionary = frame_store.train_dictionary(np.concatenate(samples), per_game * len(replays))
  writer = frame_store.FrameWriter(
    sum(lengths), (84, 84), np.uint8, chunk_size=chunk_size, dictionary=dictionary
  )
  columns: dict[str, list] = {n: [] for n in ('action', 'reward', 'terminal', 'episode_end')}
  for path in replays:
    with np.load(path) as file:
      writer.append(file['observation'])
      file_columns = {name: file[name] for name in columns}
    file_columns['episode_end'][-1] = True
    for name, values in file_columns.items():
      columns[name].append(values)
  store = writer.finish()
  ends = np.cumsum([0, *lengths])
  at = store.arrays()['offsets'][ends // chunk_size]
  for path, size in zip(replays, np.diff(at) / lengths, strict=True):
    print(f'- {path.stem}: {size:.1f} bytes a frame')
  return store, {name: np.concatenate(parts) for name, parts in columns.items()}


def repeat(
  store: frame_store.ZstdFrames, columns: dict[str, np.ndarray], rows: int
) -> tuple[source.StoredSource, int, int]:
  """Returns a source of at least `rows` rows, each with bytes of its own, and bytes of its parts.

  The parts are frames, with offsets and dictionary, and columns.
  """
  times = -(-rows // store.shape[0])
  arrays = store.arrays()
  data, offsets = arrays['frames'], arrays['offsets']
  starts = (np.arange(times)[:, None] * len(data) + offsets[:-1]).ravel()
  settings = store.settings()
  settings['shape'][0] *= times
  frames = frame_store.open_frames(
    settings,
    np.tile(data, times),
    np.append(starts, times * len(data)),
    arrays['dictionary'].tobytes(),
  )
  small = transitions.make_columns(*(np.tile(values, times) for values in columns.values()))
  settings = {'stack_size': data_buffers.STACK, 'update_horizon': 1, 'gamma': data_buffers.GAMMA}
  return (
    source.StoredSource(small, frames, **settings),
    frames.nbytes,
    sum(values.nbytes for values in small),
  )


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--replays', type=pathlib.Path, nargs='+', required=True)
  parser.add_argument('--millions', type=float, nargs='+', default=[2.5, 10, 50])
  parser.add_argument('--chunk_size', type=int, default=frame_store.CHUNK_SIZE)
  parser.add_argument('--per_game', type=int, default=64, help='frames in the dictionary')
  parser.add_argument('--calls', type=int, default=30, help='of 64 batches of 32')
  options = parser.parse_args()
  store, columns = compress(options.replays, options.chunk_size, options.per_game)
  real = store.shape[0]
  print(
    '\n| transitions | frames, bytes each | all, bytes a transition | RSS (MiB) | peak RSS (MiB) | '
    'CPU ms a batch | batches a CPU second | batches a second, wall |'
  )
  print('|---|---|---|---|---|---|---|---|')
  for millions in options.millions:
    data, held, columns_held = repeat(store, columns, int(millions * 1e6))
    data.sample(0, data_buffers.CALL, data_buffers.BATCH)
    cpu, wall = [], []
    for call in range(options.calls):
      began = time.process_time(), time.perf_counter()
      data.sample((call + 1) * data_buffers.CALL, data_buffers.CALL, data_buffers.BATCH)
      cpu.append((time.process_time() - began[0]) / data_buffers.CALL)
      wall.append((time.perf_counter() - began[1]) / data_buffers.CALL)
    print(
      f'| {len(data):,} | {held / len(data):.1f} | {(held + columns_held) / len(data):.1f} | '
      f'{machine.memory("VmRSS"):,.0f} | {machine.memory("VmHWM"):,.0f} | '
      f'{1e3 * np.median(cpu):.3f} | {1 / np.median(cpu):,.0f} | {1 / np.median(wall):,.0f} |',
      flush=True,
    )
    del data
  names = ', '.join(path.stem for path in options.replays)
  print(
    f'\n{real:,} real frames of {names}; blocks of {options.chunk_size}; '
    f'{cores.count()} threads; {machine.line()}.'
  )


if __name__ == '__main__':
  main()

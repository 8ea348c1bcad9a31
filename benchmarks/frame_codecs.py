"""Measures ways to hold Atari frames: block size, dictionary, level, library.

    .venv-peers/bin/python benchmarks/frame_codecs.py --replays pong.npz seaquest.npz

Bytes a frame, CPU time to pack a frame and to serve a batch of 32 transitions of 5 frames at random
places, as medians over rounds in turn. Frames are stretches from all stages of a log; dictionaries
are made of other frames of the same log. Rows of lz4 and blosc2 show if these are installed, as in
`.venv-peers`; they have no call that decodes many blocks, so theirs are decoded one by one.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

import machine
import numpy as np

from implicit_rl.data.store import frame_store

FRAME, BATCH, STACKED = 84 * 84, 32, 5
Take = Callable[[np.ndarray], np.ndarray]


def ours(frames: np.ndarray, chunk_size: int, level: int, dictionary: bytes | None):
  """Returns (bytes, take) of our store."""
  store = frame_store.pack(frames, chunk_size=chunk_size, level=level, dictionary=dictionary)
  held = store.nbytes - len(dictionary or b'')  # One for 50 million frames costs nothing.
  return held, store.take


def one_by_one(frames: np.ndarray, chunk_size: int, compress: Callable, decompress: Callable):
  """Returns (bytes, take) of blocks that a library decodes one at a time."""
  blocks = [
    compress(frames[i : i + chunk_size].tobytes()) for i in range(0, len(frames), chunk_size)
  ]

  def take(rows: np.ndarray) -> np.ndarray:
    flat = rows.ravel()
    out = np.empty((len(flat), FRAME), np.uint8)
    block, within = np.divmod(flat, chunk_size)
    for number in np.unique(block):
      at = np.flatnonzero(block == number)
      plain = np.frombuffer(decompress(blocks[number]), np.uint8).reshape(-1, FRAME)
      out[at] = plain[within[at]]
    return out.reshape(*rows.shape, 84, 84)

  return sum(map(len, blocks)) + 8 * len(blocks), take


def variants(frames: np.ndarray, others: np.ndarray) -> Iterator[tuple[str, Callable]]:
  """Yields names and makers of (bytes, take)."""
  yield 'raw', lambda: (frames.nbytes, frame_store.RawFrames(frames).take)
  trained = {n: frame_store.train_dictionary(others, n) for n in (16, 64, 256)}
  for chunk_size, count, level in (
    *((c, 0, 9) for c in (1, 2, 4, 8, 16)),
    *((c, 64, 9) for c in (1, 2, 4, 8)),
    *((1, n, 9) for n in (16, 256)),
    *((1, 64, level) for level in (1, 3, 6, 12)),
  ):
    name = f'zstd, {chunk_size} a block, level {level}, dictionary of {count}'
    yield name, lambda c=chunk_size, n=count, v=level: ours(frames, c, v, trained.get(n))
  try:
    import blosc2
    import lz4.block
  except ImportError:
    return
  window = np.ascontiguousarray(others[:: len(others) // 9][:9]).tobytes()  # lz4 sees 64 KiB back.
  settings = {'mode': 'high_compression', 'store_size': False}
  parameters = {'codec': blosc2.Codec.ZSTD, 'clevel': 5, 'typesize': 1, 'nthreads': 1}
  for chunk_size in (1, 8):
    size = chunk_size * FRAME
    yield (
      f'lz4 high, {chunk_size} a block, dictionary of 9',
      lambda c=chunk_size, s=size: one_by_one(
        frames,
        c,
        lambda plain: lz4.block.compress(plain, dict=window, **settings),
        lambda block: lz4.block.decompress(block, uncompressed_size=s, dict=window),
      ),
    )
    yield (
      f'blosc2 with zstd, {chunk_size} a block, level 9',  # Its own name for that is 5.
      lambda c=chunk_size: one_by_one(
        frames, c, lambda plain: blosc2.compress2(plain, **parameters), blosc2.decompress2
      ),
    )


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--replays', type=pathlib.Path, nargs='+', required=True)
  parser.add_argument('--stretches', type=int, default=16, help='of 512 frames, of each log')
  parser.add_argument('--rounds', type=int, default=5)
  options = parser.parse_args()
  print(
    '| log | frames held | bytes a frame | packing, µs of CPU a frame | '
    'batch of 32, CPU ms | by raw |\n|---|---|---|---|---|---|'
  )
  for path in options.replays:
    with np.load(path) as file:
      everything = file['observation']
    starts = np.linspace(0, len(everything) - 513, options.stretches).astype(int)
    frames = np.concatenate([everything[s : s + 512] for s in starts])
    others = everything[100 :: max(1, len(everything) // 1000)].copy()
    del everything
    made = []
    for name, make in variants(frames, others):
      began = time.process_time()
      held, take = make()
      made.append((name, held, 1e6 * (time.process_time() - began) / len(frames), take, []))
    rng = np.random.default_rng(0)
    for _ in range(options.rounds):
      rows = rng.integers(0, len(frames) - STACKED, (16, BATCH, 1)) + np.arange(STACKED)
      for name, _, _, take, times in made:
        began = time.process_time()
        taken = take(rows)
        times.append(1e3 * (time.process_time() - began) / len(rows))
        np.testing.assert_array_equal(taken[0], frames[rows[0]], err_msg=name)
    for name, held, packing, _, times in made:
      by_raw = statistics.median(a / b for a, b in zip(times, made[0][-1], strict=True))
      print(
        f'| {path.stem} | {name} | {held / len(frames):.1f} | {packing:.1f} | '
        f'{statistics.median(times):.3f} | {by_raw:.1f} |',
        flush=True,
      )
  print(f'\n{machine.line()}.')


if __name__ == '__main__':
  main()

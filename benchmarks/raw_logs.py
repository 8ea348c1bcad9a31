"""Checks our readers on real Atari frames that Dopamine's own replay buffer logged.

    python benchmarks/raw_logs.py --output=runs/raw_logs

A random policy plays a few games; each step goes into Dopamine's `OutOfGraphReplayBuffer`, which is
saved by batch_rl's rule, and into source files of TFDS's official builder. Then transitions at
indices that Dopamine's own sampler draws are compared: Dopamine's against ours by way of the raw
logs and a prepared store, and ours by way of TFDS; then the same at every terminal that its sampler
could draw. As in DQN Replay, the end by a time limit is logged as terminal.
"""

import argparse
import json
import pathlib
import resource
import shutil
import time

import numpy as np

from implicit_rl.compat import dopamine_compat  # noqa: F401
from implicit_rl.data.sources import dopamine_logs, store_replay, tfds_replay
from implicit_rl.data.store import prepare
from implicit_rl.environments import atari
from tests.data import conftest, dopamine_reference, reference

SETTINGS = dict(stack_size=4, update_horizon=1, gamma=0.99, fraction=1.0)


def play(game, steps, seed, time_limit):
  """Yields steps of a random policy, ending with the first episode that ends after `steps`."""
  environment = atari.AtariEnvironment(game, seed=seed)
  rng = np.random.default_rng(seed)
  played, over = 0, True
  while played < steps or not over:
    if over:
      observation, length = environment.reset(), 0
    action = int(rng.integers(environment.num_actions))
    following, reward, terminal, _ = environment.step(action)
    played, length = played + 1, length + 1
    over = terminal or length == time_limit
    yield reference.Step(
      observation[..., 0].copy() if observation.ndim == 3 else observation.copy(),
      action,
      float(np.clip(reward, -1, 1)),
      bool(over),
      bool(over),
    )
    observation = following


def write_source_files(folder, game, steps, capacity):
  """Passes steps on, and writes their episodes in the source format of the official builder."""
  import tensorflow as tf

  (folder / game).mkdir(parents=True)
  written, episode, numbers = 0, [], {}
  writers = {}
  for step in steps:
    episode.append(step)
    if step.episode_end:
      checkpoint = written // capacity
      if checkpoint not in writers:
        writers[checkpoint] = tf.io.TFRecordWriter(
          str(folder / game / f'part-{checkpoint:05d}'), 'GZIP'
        )
      number = numbers[checkpoint] = numbers.get(checkpoint, -1) + 1
      writers[checkpoint].write(conftest.source_record(tf, checkpoint, number, episode))
      written += len(episode)
      episode = []
    yield step
  for checkpoint, writer in writers.items():
    writer.close()
    (folder / game / f'part-{checkpoint:05d}').rename(
      folder / game / f'run_1-{checkpoint:05d}-of-{len(writers):05d}'
    )


def compare(logged, ours, through_tfds, count, seed):
  """Compares transitions at indices that Dopamine's sampler draws, then at all terminals."""
  np.random.seed(seed)  # noqa: NPY002  Dopamine draws from it.
  found = dict(compared=0, different=0, different_tfds=0)
  ends = dict(compared_terminals=0, of_them_rewarded=0, different_terminals=0)
  files = sorted(logged.step_of)
  for checkpoint in files:
    buffer = logged.load(checkpoint)
    todo = count // len(files) + (count % len(files) if checkpoint == files[-1] else 0)
    while todo:
      size = min(todo, 500)
      indices = buffer.sample_index_batch(size)
      rows = logged.step_of[checkpoint][np.array(indices)]
      theirs = buffer.sample_transition_batch(size, indices)
      found['compared'] += size
      found['different'] += different(theirs, ours._gather(rows))
      found['different_tfds'] += different(theirs, through_tfds._gather(rows))
      todo -= size
    indices = [int(i) for i in np.flatnonzero(buffer._store['terminal'])]
    indices = [i for i in indices if buffer.is_valid_transition(i)]
    if indices:
      rows = logged.step_of[checkpoint][np.array(indices)]
      theirs = buffer.sample_transition_batch(len(indices), indices)
      ends['compared_terminals'] += len(indices)
      ends['of_them_rewarded'] += int((theirs[2] != 0).sum())
      for source in (ours, through_tfds):
        ends['different_terminals'] += different(theirs, source._gather(rows))
  return found | ends


def different(theirs, batch):
  """Returns how many transitions differ; after a terminal no next state is defined."""
  state, action, reward, next_state, _, _, terminal, _ = theirs
  same = (
    (np.moveaxis(batch.state, 1, -1) == state).all(axis=(1, 2, 3))
    & (batch.action == action)
    & (batch.reward == reward)
    & (batch.discount == 1 - terminal)
    & ((terminal != 0) | (np.moveaxis(batch.next_state, 1, -1) == next_state).all(axis=(1, 2, 3)))
  )
  return int((~same).sum())


def check(game, options):
  """Makes one game's data and compares; returns what was found."""
  folder = options.output / game
  shutil.rmtree(folder, ignore_errors=True)
  began = time.monotonic()
  steps = play(game, options.steps, options.seed, options.time_limit)
  steps = write_source_files(folder / 'source', game, steps, options.capacity)
  logs = folder / 'logs' / game / '1' / 'replay_logs'
  logged = dopamine_reference.write(logs, steps, options.capacity, time_limit=False)
  made = time.monotonic()
  recording = dopamine_logs.DopamineLogs(folder / 'logs' / game / '1')
  settings = prepare.prepare(recording, folder / 'store')
  prepared = time.monotonic()
  import tensorflow_datasets as tfds
  from tensorflow_datasets.rl_unplugged.rlu_atari_checkpoints_ordered import (
    rlu_atari_checkpoints_ordered as official,
  )

  official.RluAtariCheckpointsOrdered._INPUT_FILE_PREFIX = str(folder / 'source')
  official.RluAtariCheckpointsOrdered._SHARDS = len(list((folder / 'source' / game).iterdir()))
  tfds.builder(f'{conftest.ATARI}/{game}_run_1', data_dir=folder / 'tfds').download_and_prepare()
  ours = store_replay.StoreReplay(path=folder / 'store', frames='packed', **SETTINGS)
  through_tfds = tfds_replay.TFDSReplay(
    data_dir=folder / 'tfds', game=game, codec='zstd', **SETTINGS
  )
  a, b = ours._columns, through_tfds._columns
  length = len(a.action)
  result = {
    'game': game,
    'files': len(logged.step_of),
    'capacity': options.capacity,
    'rows': settings['rows'],
    'episodes': settings['episodes'],
    'terminals': settings['terminals'],
    'reward_sum': settings['reward_sum'],
    'bytes_per_frame': round(ours._frames.nbytes / length, 1),
    **compare(logged, ours, through_tfds, options.indices, options.seed),
    'rows_through_tfds': len(b.action),
    'columns_equal_through_tfds': all(
      bool(np.array_equal(x[:length], y[:length])) for x, y in zip(a, b, strict=True)
    ),
    'reward_sum_through_tfds': float(b.reward.sum(dtype=np.float64)),
    'seconds': {
      'play_and_log': round(made - began),
      'prepare': round(prepared - made),
      'tfds_and_compare': round(time.monotonic() - prepared),
    },
    'peak_rss_gb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
  }
  if not options.keep:
    shutil.rmtree(folder)
  return result


def main():
  """Parses the command line and checks each game."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('--games', nargs='+', default=['Pong', 'Breakout'])
  parser.add_argument('--steps', type=int, default=105_000, help='of each game')
  parser.add_argument('--capacity', type=int, default=50_000, help='rows of a log')
  parser.add_argument('--indices', type=int, default=5_000, help='of each game')
  parser.add_argument('--time_limit', type=int, default=900, help='steps; cuts some episodes')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--keep', action='store_true', help='keep the data')
  options = parser.parse_args()
  options.output.mkdir(parents=True, exist_ok=True)
  results = []
  for game in options.games:
    results.append(check(game, options))
    print(json.dumps(results[-1], indent=2), flush=True)
    (options.output / 'raw_logs.json').write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  main()

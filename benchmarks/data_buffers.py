"""One replay buffer in one process, for `data.py`: fills it, then serves batches on command.

    python benchmarks/data_buffers.py NAME FOLDER

FOLDER is what `data.py` prepared. Every line read says how many batches to draw; every line
written is JSON with what they took. The process imports what its buffer needs and nothing else.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

import numpy as np
import turns

BATCH, STACK, GAMMA = 32, 4, 0.99
CALL = 64  # Batches that our sources draw in one call, as the agent does.
Draw = Callable[[int], None]


def ours(folder: pathlib.Path, codec: str) -> tuple[Draw, float]:
  """Our offline source on frames held as `codec` says; and bytes held for each transition."""
  from implicit_rl.data import source, transitions
  from implicit_rl.data.store import frame_store

  mapped = np.load(folder / 'observation.npy', mmap_mode='r')
  if codec == 'memmap':
    frames = frame_store.RawFrames(mapped)
  elif codec == 'zstd':
    dictionary = frame_store.train_dictionary(mapped[::20])
    frames = frame_store.pack(mapped, dictionary=dictionary)
  else:
    frames = frame_store.RawFrames(np.array(mapped))
  columns = transitions.make_columns(
    *(np.load(folder / f'{n}.npy') for n in ('action', 'reward', 'terminal', 'episode_end'))
  )
  settings = {'stack_size': STACK, 'update_horizon': 1, 'gamma': GAMMA}
  data = source.StoredSource(columns, frames, **settings, on_device=codec == 'device')
  held = (frames.nbytes + sum(c.nbytes for c in columns)) / len(data)
  update = 0

  if codec == 'device':
    import jax

    fetch = jax.jit(data.fetch)

    def draw(count: int) -> None:
      nonlocal update
      for start in range(0, count, CALL):
        for rows in data.draw(update, min(CALL, count - start), BATCH):
          jax.block_until_ready(fetch(data.device_rows, rows))
          update += 1
  else:

    def draw(count: int) -> None:
      nonlocal update
      for start in range(0, count, CALL):
        k = min(CALL, count - start)
        data.sample(update, k, BATCH)
        update += k

  return draw, held


def steps(folder: pathlib.Path):
  """Yields (frame, action, reward, terminal, episode_end) of every logged step."""
  names = ('observation', 'action', 'reward', 'terminal', 'episode_end')
  for row in zip(*(np.load(folder / f'{n}.npy', mmap_mode='r') for n in names), strict=True):
    frame, action, reward, terminal, end = row
    yield np.array(frame), int(action), float(reward), bool(terminal), bool(end)


def dopamine_jax(folder: pathlib.Path) -> Draw:
  """Dopamine's JAX buffer: stacked states, compressed with snappy."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.replay_memory import accumulator, elements, replay_buffer, samplers

  buffer = replay_buffer.ReplayBuffer(
    accumulator.TransitionAccumulator(STACK, 1, GAMMA),
    samplers.UniformSamplingDistribution(seed=0),
    batch_size=BATCH,
    max_capacity=1_000_000,
  )
  for step in steps(folder):
    buffer.add(elements.TransitionElement(*step))
  return lambda count: [buffer.sample() for _ in range(count)] and None


def dopamine_tf(folder: pathlib.Path) -> Draw:
  """Dopamine's circular buffer, which its TensorFlow agents use."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.tf.replay_memory import circular_replay_buffer

  rows = len(np.load(folder / 'action.npy'))
  buffer = circular_replay_buffer.OutOfGraphReplayBuffer(
    (84, 84), STACK, replay_capacity=rows + 10_000, batch_size=BATCH, gamma=GAMMA
  )
  for frame, action, reward, terminal, end in steps(folder):
    buffer.add(frame, action, reward, terminal, episode_end=end)
  return lambda count: [buffer.sample_transition_batch() for _ in range(count)] and None


def dopamine_tfds(folder: pathlib.Path) -> Draw:
  """The pipeline of Dopamine's offline agents over TFDS, built from tf.data without `rlds`."""
  import tensorflow as tf
  import tensorflow_datasets as tfds

  def transition(window):
    states = tf.transpose(tf.squeeze(window['observation'], -1), [1, 2, 0])
    return {
      'state': states[..., :STACK],
      'action': window['action'][STACK - 1],
      'reward': tf.reduce_sum(window['reward'][STACK - 1 : -1]),
      'next_state': states[..., 1:],
      'terminal': tf.reduce_any(window['is_terminal'][STACK:]),
      'next_action': window['action'][STACK],
    }

  def windows(episode):
    parts = episode['steps'].window(STACK + 1, shift=1, drop_remainder=True)
    joined = parts.flat_map(
      lambda part: tf.data.Dataset.zip(part).batch(STACK + 1, drop_remainder=True)
    )
    return joined.map(transition, num_parallel_calls=tf.data.AUTOTUNE)

  data = tfds.load(
    'rlu_atari_checkpoints_ordered/Pong_run_1',
    data_dir=folder / 'tfds',
    split='all',
    shuffle_files=True,
    read_config=tfds.ReadConfig(enable_ordering_guard=False),
    download=False,
  )
  data = data.shuffle(1000).interleave(
    windows,
    cycle_length=100,
    block_length=1,
    deterministic=False,
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  batches = data.shuffle(50_000, reshuffle_each_iteration=True).repeat().batch(BATCH)
  iterator = batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
  next(iterator)
  return lambda count: [next(iterator) for _ in range(count)] and None


def d3rlpy(folder: pathlib.Path) -> Draw:
  """The buffer of d3rlpy, stacking frames as its Atari example does."""
  from d3rlpy.dataset import Episode, FrameStackTransitionPicker, InfiniteBuffer, ReplayBuffer

  frames = np.load(folder / 'observation.npy')[:, None]
  action, reward = np.load(folder / 'action.npy'), np.load(folder / 'reward.npy')
  terminal = np.load(folder / 'terminal.npy')
  ends = np.flatnonzero(np.load(folder / 'episode_end.npy')) + 1
  episodes = [
    Episode(frames[a:b], action[a:b, None], reward[a:b, None], bool(terminal[b - 1]))
    for a, b in zip(np.append(0, ends[:-1]), ends, strict=True)
    if b - a > 1
  ]
  buffer = ReplayBuffer(
    InfiniteBuffer(), transition_picker=FrameStackTransitionPicker(STACK), episodes=episodes
  )
  return lambda count: [buffer.sample_transition_batch(BATCH) for _ in range(count)] and None


def stable_baselines3(folder: pathlib.Path) -> Draw:
  """The buffer of Stable-Baselines3's DQN, which stores stacked states."""
  import gymnasium
  from stable_baselines3.common.buffers import ReplayBuffer

  rows = len(np.load(folder / 'action.npy'))
  buffer = ReplayBuffer(
    rows,
    gymnasium.spaces.Box(0, 255, (STACK, 84, 84), np.uint8),
    gymnasium.spaces.Discrete(18),
    device='cpu',
    optimize_memory_usage=True,
    handle_timeout_termination=False,
  )
  stack = np.zeros((STACK, 84, 84), np.uint8)
  for frame, action, reward, _, end in steps(folder):
    stack = np.concatenate([stack[1:], frame[None]])
    buffer.add(stack, stack, np.array([action]), np.array([reward]), np.array([end]), [{}])
    if end:
      stack = np.zeros_like(stack)
  return lambda count: [buffer.sample(BATCH) for _ in range(count)] and None


BUFFERS = {
  'ours, raw in RAM': lambda folder: ours(folder, 'raw'),
  'ours, raw file mapped': lambda folder: ours(folder, 'memmap'),
  'ours, compressed in RAM': lambda folder: ours(folder, 'zstd'),
  'ours, in device memory': lambda folder: ours(folder, 'device'),
  'Dopamine, JAX buffer': dopamine_jax,
  'Dopamine, TF buffer': dopamine_tf,
  'Dopamine, TFDS pipeline': dopamine_tfds,
  'd3rlpy': d3rlpy,
  'Stable-Baselines3': stable_baselines3,
}


def main() -> None:
  """Fills the buffer named, then answers commands."""
  name, folder = sys.argv[1], pathlib.Path(sys.argv[2])

  def make() -> tuple[Draw, int | None]:
    made = BUFFERS[name](folder)
    return made if isinstance(made, tuple) else (made, None)

  turns.serve(make, CALL)


if __name__ == '__main__':
  main()

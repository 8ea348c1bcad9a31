"""Datasets made once: by the official builder from source files, and by our writer."""

import numpy as np
import pytest

from tests.data import reference

ATARI = 'rlu_atari_checkpoints_ordered'
# Lengths and endings of the episodes of each checkpoint; False is a time limit.
LAYOUT = {0: ((9, True), (6, False), (1, True)), 1: ((12, True), (7, True)), 2: ((14, False),)}


def make_episodes(seed=0):
  """Returns {checkpoint: episodes}, Atari-sized, the last step of each rewarded."""
  rng = np.random.default_rng(seed)
  checkpoints = {}
  for checkpoint, layout in LAYOUT.items():
    lengths, terminals = zip(*layout, strict=True)
    episodes = reference.random_episodes(rng, lengths, terminals, shape=(84, 84))
    for episode in episodes:
      for i, step in enumerate(episode):
        step.observation[40:] = 7  # Half of a frame is noise, half is not.
        step.reward = float(rng.integers(-1, 2)) if i < len(episode) - 1 else -1.0
    checkpoints[checkpoint] = episodes
  return checkpoints


def as_arrays(episode):
  """Returns an episode as our writer takes it."""
  observation, action, reward, terminal, _ = reference.columns_of([episode])
  return dict(observation=observation, action=action, reward=reward, terminal=terminal)


def source_record(tf, checkpoint, number, episode):
  """Returns an episode as the source files of the official builder hold it, serialized."""
  import cv2

  arrays = as_arrays(episode)
  discounts = np.where(arrays['terminal'], 0.0, 1.0)
  total = float(arrays['reward'].sum())

  def ints(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  def floats(values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))

  images = [cv2.imencode('.png', o)[1].tobytes() for o in arrays['observation']]
  feature = {
    'checkpoint_idx': ints([checkpoint]),
    'episode_idx': ints([number]),
    'episode_return': floats([total]),
    'clipped_episode_return': floats([total]),
    'observations': tf.train.Feature(bytes_list=tf.train.BytesList(value=images)),
    'actions': ints(arrays['action']),
    'unclipped_rewards': floats(arrays['reward']),
    'clipped_rewards': floats(arrays['reward']),
    'discounts': floats(discounts),
  }
  return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.fixture(scope='session')
def episodes():
  """{checkpoint: [episodes]}: what every dataset here was made from."""
  return make_episodes()


@pytest.fixture(scope='session')
def official_dir(episodes, tmp_path_factory):
  """A data folder prepared by the unmodified official builder from source-format files."""
  import tensorflow as tf
  import tensorflow_datasets as tfds
  from tensorflow_datasets.rl_unplugged.rlu_atari_checkpoints_ordered import (
    rlu_atari_checkpoints_ordered as official,
  )

  files, data_dir = tmp_path_factory.mktemp('files'), tmp_path_factory.mktemp('official')
  (files / 'Pong').mkdir()
  for checkpoint, held in episodes.items():
    path = files / 'Pong' / f'run_1-{checkpoint:05d}-of-{len(episodes):05d}'
    with tf.io.TFRecordWriter(str(path), 'GZIP') as writer:
      for number, episode in enumerate(held):
        writer.write(source_record(tf, checkpoint, number, episode))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(official.RluAtariCheckpointsOrdered, '_INPUT_FILE_PREFIX', str(files))
    patch.setattr(official.RluAtariCheckpointsOrdered, '_SHARDS', len(episodes))
    tfds.builder(f'{ATARI}/Pong_run_1', data_dir=data_dir).download_and_prepare()
  return data_dir


@pytest.fixture(scope='session')
def written_dir(episodes, tmp_path_factory):
  """A data folder with the same episodes, written by our writer."""
  from implicit_rl.data.formats import tfds_writer

  data_dir = tmp_path_factory.mktemp('written')
  tfds_writer.write_dataset(
    data_dir,
    ATARI,
    'Pong_run_1',
    ((c, as_arrays(episode)) for c, held in episodes.items() for episode in held),
  )
  return data_dir

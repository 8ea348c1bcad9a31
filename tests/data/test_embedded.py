"""The data inside the package: small, complete, and readable by TFDS alone."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from implicit_rl.data.sources import tfds_replay

LIMITS = {'minatar_checkpoints_ordered': 2_000_000, 'rlu_atari_checkpoints_ordered': 3_000_000}
SETS = {  # What docs/data.md says of them: steps, episodes.
  'minatar_checkpoints_ordered/Breakout_run_1': (25_044, 456),
  'rlu_atari_checkpoints_ordered/Pong_run_1': (7_074, 4),
}


@pytest.mark.parametrize('name', SETS)
def test_it_is_small_and_loads_as_tfds_reads_it(name):
  folder = tfds_replay.EMBEDDED / name
  dataset = folder.parent.name
  game, _, run = folder.name.rpartition('_run_')
  assert sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) <= LIMITS[dataset]
  data = tfds_replay.TFDSReplay(
    stack_size=1, update_horizon=1, gamma=0.99, dataset=dataset, game=game, run=int(run)
  )
  described = data.describe()
  assert (described['transitions'], described['dataset_episodes']) == SETS[name]
  assert described['terminals'] > 0

  loaded = tfds.load(f'{dataset}/{folder.name}', data_dir=tfds_replay.EMBEDDED)
  [episode] = loaded['checkpoint_00'].take(1)
  steps = list(tfds.as_numpy(episode['steps']))[:-1]
  batch = data._gather(data._valid[: len(steps)])
  shape = data.observation_shape
  for i, step in enumerate(steps):
    np.testing.assert_array_equal(batch.state[i, 0], step['observation'].reshape(shape))
    assert batch.action[i] == step['action']
    assert batch.reward[i] == step['reward']

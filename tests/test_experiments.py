"""The scripts that made the embedded data still make such data."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from implicit_rl.data import tfds_replay

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
  ('script', 'dataset', 'game', 'steps'),
  [
    ('embedded_minatar.py', 'minatar_checkpoints_ordered', 'Breakout', 8000),
    ('embedded_pong.py', 'rlu_atari_checkpoints_ordered', 'Pong', 4200),
  ],
)
def test_train_then_write(script, dataset, game, steps, tmp_path):
  replay = tmp_path / 'replay.npz'
  for what in (['train', f'--steps={steps}'], ['write', f'--output={tmp_path}']):
    command = [sys.executable, str(ROOT / 'experiments' / script), *what, f'--replay={replay}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
  settings = {'stack_size': 1, 'update_horizon': 1, 'gamma': 0.99, 'fraction': 1.0}
  made = tfds_replay.TFDSReplay(dataset=dataset, game=game, data_dir=tmp_path, **settings)
  shipped = tfds_replay.TFDSReplay(dataset=dataset, game=game, **settings)
  assert 0 < len(made) < steps
  ours, theirs = made._gather(made._valid[:200]), shipped._gather(shipped._valid[:200])
  assert ours.state.dtype == theirs.state.dtype and ours.state.shape == theirs.state.shape
  if game == 'Pong':  # The first episode is written whole: acting there is random but seeded.
    np.testing.assert_array_equal(ours.state, theirs.state)
    np.testing.assert_array_equal(ours.action, theirs.action)

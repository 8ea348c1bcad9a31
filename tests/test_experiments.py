"""The scripts that made the embedded data still make such data."""

import pathlib

import numpy as np
import pytest

from implicit_rl.data.sources import tfds_replay
from tests import forks

ROOT = pathlib.Path(__file__).parent.parent


MINATAR = ('minatar_checkpoints_ordered', 'Breakout', 'embedded_minatar.py train --steps=8000')
ATARI = ('rlu_atari_checkpoints_ordered', 'Pong', 'atari_frames.py --game=Pong --steps=4200')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('made_by', 'write'), [(MINATAR, 'embedded_minatar.py write'), (ATARI, 'embedded_pong.py')]
)
@pytest.mark.exhaustive
def test_train_then_write(made_by, write, tmp_path):
  dataset, game, train = made_by
  for what in (train, f'{write} --output={tmp_path}'):
    script, *rest = f'{what} --replay={tmp_path / "replay.npz"}'.split()
    done = forks.script(ROOT / 'experiments' / script, *rest)
    assert done.returncode == 0, done.stderr[-2000:]
  settings = {'stack_size': 1, 'update_horizon': 1, 'gamma': 0.99, 'fraction': 1.0}
  made = tfds_replay.TFDSReplay(dataset=dataset, game=game, data_dir=tmp_path, **settings)
  shipped = tfds_replay.TFDSReplay(dataset=dataset, game=game, **settings)
  assert 0 < len(made) < 8000
  ours, theirs = made._gather(made._valid[:200]), shipped._gather(shipped._valid[:200])
  assert ours.state.dtype == theirs.state.dtype and ours.state.shape == theirs.state.shape
  if game == 'Pong':  # The first episode is written whole: acting there is random but seeded.
    np.testing.assert_array_equal(ours.state, theirs.state)
    np.testing.assert_array_equal(ours.action, theirs.action)

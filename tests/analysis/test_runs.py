"""Reading runs: curves, the summary table by hand, wrong input; the figure is drawn."""

import cv2
import numpy as np
import pytest

from implicit_rl import metrics_log
from implicit_rl.analysis import figures, runs


def write_run(base_dir, returns, sranks, step=100):
  base_dir.mkdir(parents=True)
  for i, (value, srank) in enumerate(zip(returns, sranks, strict=True)):
    row = {'iteration': i, 'updates': (i + 1) * step, 'eval_return': value, 'srank': srank}
    metrics_log.append(base_dir / 'metrics.jsonl', row)
  return base_dir


@pytest.fixture(name='two_runs')
def runs_of_two_seeds(tmp_path):
  return [
    write_run(tmp_path / 'seed_0', [1, 5, 3], [10, 20, 8]),
    write_run(tmp_path / 'seed_1', [2, 2, 6, 9], [12, 30, 10, 9]),
  ]


def test_a_curve_is_cut_to_the_shortest_run(two_runs):
  curve = runs.load(two_runs, 'eval_return')
  np.testing.assert_array_equal(curve.updates, [100, 200, 300])
  np.testing.assert_array_equal(curve.values, [[1, 5, 3], [2, 2, 6]])


def test_null_becomes_nan(tmp_path):
  base_dir = write_run(tmp_path / 'run', [None, 1.0], [1, 2])
  np.testing.assert_array_equal(runs.load([base_dir], 'eval_return').values, [[np.nan, 1.0]])


def test_the_summary_by_hand(two_runs):
  row = runs.summary_table({'DQN': two_runs}).splitlines()[-1]
  # final 3 and 6; best 5 and 6; first 10 and 12; peak 20 and 30; last 8 and 10
  assert row == '| DQN | 2 | 4.5 ± 2.1 | 5.5 ± 0.7 | 11.0 ± 1.4 | 25.0 ± 7.1 | 9.0 ± 1.4 |'


def test_wrong_input_is_named(two_runs, tmp_path):
  with pytest.raises(FileNotFoundError, match='not the --base_dir of a run'):
    runs.load([tmp_path], 'srank')
  with pytest.raises(ValueError, match="no 'sranks'; it has iteration, updates"):
    runs.load(two_runs, 'sranks')
  other = write_run(tmp_path / 'other', [1, 2], [1, 2], step=50)
  with pytest.raises(ValueError, match='different updates'):
    runs.load([*two_runs, other], 'srank')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'empty' / 'metrics.jsonl').touch()
  with pytest.raises(ValueError, match='has no row'):
    runs.load([tmp_path / 'empty'], 'srank')


def test_the_figure_is_drawn(two_runs, tmp_path):
  path = tmp_path / 'figure.png'
  figures.learning_curves({'a': two_runs[:1], 'b': two_runs[1:]}, path, title='A title')
  image = cv2.imread(str(path))
  assert image.shape[0] > 400 and image.shape[1] > 1200
  colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
  blue, red = (0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)  # The first two colours, as BGR.
  assert blue in colours and red in colours

"""Reading runs: the tidy table, settings, saved rows, wrong input."""

import json

import numpy as np
import pandas as pd
import pytest

from implicit_rl.analysis import curves, runs, tables
from implicit_rl.logs import jsonl


@pytest.fixture(name='two_runs')
def runs_of_two_seeds(tmp_path, write_run):
  return [
    write_run(tmp_path / 'seed_0', [1, 5, 3], [10, 20, 8]),
    write_run(tmp_path / 'seed_1', [2, 2, 6, 9], [12, 30, 10, 9]),
  ]


def test_the_table_has_a_row_per_run_and_iteration(two_runs):
  table = runs.load({'DQN': two_runs})
  assert list(table.columns) == [*runs.KEYS, 'updates', 'eval_return', 'srank']
  assert table['iteration'].tolist() == [0, 1, 2, 0, 1, 2, 3]
  assert table['seed'].tolist() == [0] * 3 + [1] * 4
  assert table['eval_return'].tolist() == [1, 5, 3, 2, 2, 6, 9]


def test_real_runs_are_named_by_what_differs_and_agree_with_their_own_log(real_runs):
  table = runs.load([real_runs])
  assert table['variant'].unique().tolist() == ['DQN', 'DQN + lp_penalty 0.001']
  assert table[['suite', 'game', 'seed']].drop_duplicates().values.tolist() == [
    ['minatar', 'Breakout', 3]
  ]
  rows = jsonl.read(real_runs / 'dqn_lp' / 'seed_3' / 'metrics.jsonl')
  ours = table[table['variant'] != 'DQN']
  assert len(ours) == len(rows) == 3
  for name, value in rows[-1].items():
    expected = np.nan if value is None else value
    np.testing.assert_array_equal(ours[name].iloc[-1], expected, err_msg=name)


def test_a_metric_that_one_run_never_had_is_no_number_there(two_runs):
  """Null in every row of one run, numbers in the other: as the condition number may be."""
  both = [runs.read(path) for path in two_runs]
  both[0].rows[:] = [row | {'other': None} for row in both[0].rows]
  both[1].rows[:] = [row | {'other': 3} for row in both[1].rows]
  table = runs.frame({'DQN': both})
  assert table['other'].dtype == np.float64
  np.testing.assert_array_equal(table['other'], [np.nan] * 3 + [3] * 4)


def test_the_settings_are_gins(real_runs):
  settings = runs.read_settings(real_runs / 'dqn' / 'seed_3' / 'operative_config.gin')
  assert settings['GAME'] == settings['MinAtarEnvironment.game'] == "'Breakout'"
  assert settings['Experiment.agent'] == '@dqn.DQNAgent'
  assert settings['OfflineRunner.measure_size'] == '64'


def test_settings_over_several_lines_are_one_value(tmp_path):
  path = tmp_path / 'operative_config.gin'
  path.write_text('# A comment.\nA.b = \\\n    @c.D()\nE.f = (1,\n       2)\nG.h = 3\n')
  assert runs.read_settings(path) == {'A.b': '@c.D()', 'E.f': '(1, 2)', 'G.h': '3'}


def test_spectra_are_those_of_the_metrics(real_runs):
  base_dir = real_runs / 'dqn' / 'seed_3'
  spectra = runs.spectra(base_dir)
  rows = pd.DataFrame(jsonl.read(base_dir / 'metrics.jsonl'))
  assert spectra.index.tolist() == rows['updates'].tolist() == [2, 4, 6]
  np.testing.assert_allclose(spectra[0], rows['sigma_max'], rtol=1e-6)


def test_runs_below_a_directory_are_found_in_the_order_of_their_numbers(tmp_path, write_run):
  for seed in (10, 9, 1):
    write_run(tmp_path / 'dqn' / f'seed_{seed}', [1], [1])
  assert [path.name for path in runs.find(tmp_path)] == ['seed_1', 'seed_9', 'seed_10']


def test_saved_rows_give_the_table_that_was_saved(two_runs, tmp_path):
  table = runs.load({'DQN': two_runs})
  table.to_csv(tmp_path / 'rows.csv', index=False)
  pd.testing.assert_frame_equal(runs.load([tmp_path / 'rows.csv']), table, check_dtype=False)
  lines = [json.dumps(row) for row in table.to_dict('records')]
  (tmp_path / 'rows.jsonl').write_text('\n'.join(lines) + '\n')
  pd.testing.assert_frame_equal(runs.load([tmp_path / 'rows.jsonl']), table, check_dtype=False)


def test_a_curve_is_cut_to_the_shortest_run(two_runs):
  curve = curves.gather(runs.load({'DQN': two_runs}), 'eval_return', 'updates')
  assert curve['updates'].tolist() == [100, 200, 300]
  assert curve['mean'].tolist() == [1.5, 3.5, 4.5]
  assert curve['low'].tolist() == [1, 2, 3]
  assert curve['high'].tolist() == [2, 5, 6]
  assert curve['runs'].tolist() == [2, 2, 2]
  spread = curves.gather(runs.load({'DQN': two_runs}), 'eval_return', 'updates', 'std')
  np.testing.assert_allclose(
    spread['high'] - spread['mean'], np.std([[1, 5, 3], [2, 2, 6]], axis=0, ddof=1)
  )


def test_null_becomes_nan_and_stays_in_the_curve(tmp_path, write_run):
  base_dir = write_run(tmp_path / 'run', [None, 1.0], [1, 2])
  curve = curves.gather(runs.load([base_dir]), 'eval_return', 'updates')
  np.testing.assert_array_equal(curve['mean'], [np.nan, 1.0])


def test_the_summary_by_hand(two_runs):
  row = tables.markdown(tables.summary(runs.load({'DQN': two_runs}))).splitlines()[-1]
  # final 3 and 6; best 5 and 6; first 10 and 12; peak 20 and 30; last 8 and 10
  assert row == '| DQN | 2 | 4.5 ± 2.1 | 5.5 ± 0.7 | 11.0 ± 1.4 | 25.0 ± 7.1 | 9.0 ± 1.4 |'


def test_wrong_input_is_named(two_runs, tmp_path, write_run):
  with pytest.raises(FileNotFoundError, match='nothing does not exist: give the --base_dir'):
    runs.load([tmp_path / 'nothing'])
  with pytest.raises(ValueError, match="no run logged 'sranks'; logged were iteration, updates"):
    curves.gather(runs.load([tmp_path]), 'sranks', 'updates')
  other = write_run(tmp_path / 'other', [1, 2], [1, 2], step=30)
  with pytest.raises(ValueError, match='runs of a were logged at different updates'):
    curves.gather(runs.load({'a': [*two_runs, other]}), 'srank', 'updates')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match=r'empty has no metrics\.jsonl'):
    runs.load([tmp_path / 'empty'])
  (tmp_path / 'empty' / 'metrics.jsonl').touch()
  with pytest.raises(ValueError, match='has no row'):
    runs.load([tmp_path / 'empty'])
  (tmp_path / 'rows.csv').write_text('a,b\n1,2\n')
  with pytest.raises(ValueError, match='neither iteration nor updates; it has a, b'):
    runs.load([tmp_path / 'rows.csv'])
  (tmp_path / 'rows.txt').touch()
  with pytest.raises(ValueError, match=r'read from \.csv and \.jsonl'):
    runs.load([tmp_path / 'rows.txt'])

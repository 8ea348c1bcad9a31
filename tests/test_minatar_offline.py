"""The offline MinAtar experiments: their plan, one small run, and what the docs quote."""

import pathlib

import minatar_offline
import minatar_offline_report as report
import numpy as np
import pandas as pd
import pytest

from implicit_rl.analysis import runs, style
from implicit_rl.data.sources.tfds_replay import EMBEDDED
from implicit_rl.diagnostics import alarms
from implicit_rl.logs import jsonl
from implicit_rl.running import parallel_runs

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'docs' / 'results' / 'minatar_offline'
SMALL = (
  'OfflineRunner.training_steps = 2',
  'OfflineRunner.evaluation_steps = 1',
  'OfflineRunner.max_steps_per_episode = 3',
  'OfflineRunner.measure_size = 16',
)


def test_the_plan_compares_like_with_like():
  grid = minatar_offline.GRID
  assert len({run.name for run in grid}) == len(grid) == 126
  for run in grid:
    assert run._replace(penalty=not run.penalty) in grid
    assert {run._replace(seed=seed) for seed in range(3)} <= set(grid)
  settings = {run[5:] for run in grid}
  assert len(settings) == 1 and grid[0].updates >= 50_000
  # The setting was chosen from runs that say nothing of the penalty and share no seed.
  assert not any(run.penalty for run in minatar_offline.SEARCH)
  assert not {run.seed for run in minatar_offline.SEARCH} & {run.seed for run in grid}
  varied = {run[4:] for run in minatar_offline.SEARCH}
  assert settings <= {setting[1:] for setting in varied}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_small_run_gets_into_table_and_figure(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  (tmp_path / 'replays').symlink_to(EMBEDDED)
  run = minatar_offline.Run('Breakout', 'cql', penalty=True, updates=2 * minatar_offline.ITERATION)
  job = minatar_offline.job(run, tmp_path, ('TFDSReplay.cache_dir = None', *SMALL))
  parallel_runs.run(job._replace(bindings=(*job.bindings, 'OfflineRunner.num_iterations = 1')))
  assert job.done == 1 and report.collect([(run._asdict(), job)]).empty  # Half done.
  parallel_runs.run(job)
  parallel_runs.run_all([job])  # Finished: nothing is added.
  logged = jsonl.read(job.base_dir / 'metrics.jsonl')
  assert [row['updates'] for row in logged] == [2, 4]

  rows = report.collect([(run._asdict(), job)])
  style.write_csv(pd.concat([rows, rows.assign(seed=1, srank=3.0, run='b')]), tmp_path / 'g.csv')
  back = runs.read_rows(tmp_path / 'g.csv')
  np.testing.assert_array_equal(
    report.matrix(back, 'srank'), [[row['srank'] for row in logged], [3, 3]]
  )
  last = np.array([logged[-1]['srank'], 3])
  cells = report.grid_table(back).splitlines()[-1].split(' | ')
  assert cells[:3] == ['| 5%', 'Breakout', 'CQL + penalty']
  assert cells[6] == f'{np.mean(last):.0f} ± {np.std(last, ddof=1):.0f}'
  (picture,) = report.draw(back.assign(variant='DQN'), back, tmp_path)[:1]
  assert picture.stat().st_size > 10_000


def test_ranks_are_told_by_every_measure():
  rows = pd.DataFrame(
    {'variant': variant, 'game': 'Breakout', 'fraction': 0.05, 'seed': seed, 'updates': t}
    | {'srank': 90 + 10 * t + seed, 'centred_pca_rank': 50 - 20 * t + seed}
    for variant in ('DQN', 'DQN + penalty')
    for seed in range(2)
    for t in range(2)
  )
  lines = report.rank_table(rows, ('srank', 'centred_pca_rank')).splitlines()
  assert lines[0].endswith('| srank | centred PCA rank |')
  assert lines[2:] == ['| 5% | Breakout | DQN | 2 | 90 ± 1 → 100 ± 1 | 50 ± 1 → 30 ± 1 |']


def test_gains_are_seedwise_differences():
  returns = {'DQN': [[4, 2], [1, 3]], 'DQN + penalty': [[8, 1], [5, 1]]}
  rows = pd.DataFrame(
    {'variant': variant, 'game': 'Breakout', 'fraction': 0.05, 'seed': seed, 'updates': t}
    | {'srank': 10 * seed + t * (variant != 'DQN'), 'eval_return': value, 'td_error': 1.0}
    for variant, runs_ in returns.items()
    for seed, run in enumerate(runs_)
    for t, value in enumerate(run)
  )
  (line,) = report.gain_table(rows).splitlines()[2:]
  # Best: 8 − 4 and 5 − 3; mean of the last: 4.5 − 3 and 3 − 2; (8 + 5) / (4 + 3) = 1.857.
  expected = '| 5% | Breakout | DQN | 1 ± 0 | 3.0 ± 1.4 | +86 | 1.2 ± 0.4 | 0.00 ± 0.00 |'
  assert line == expected
  assert report.gain_table(rows[:6]) == ''  # A seed is missing.


def test_the_alarm_on_values_rings_in_the_shipped_run_that_diverges():
  """The rows of 200,000 updates at the shipped rate, 2.5e-4; no value can exceed 100."""
  rows = runs.read_rows(RESULTS / 'default_rate.csv')
  assert rows['updates'].max() == 200_000
  rings = [
    alarms.values(row.q_max, row.q_mean, (0.0, 100.0), 0.99) is not None
    for row in rows.itertuples()
  ]
  assert list(rows['alarms']) == rings
  first = rows[rings].iloc[0]
  assert first['updates'] < 200_000 and first['q_max'] < 2 * 100
  assert all(rows['updates'][rings] >= first['updates']) and sum(rings) == 10


def test_the_docs_quote_the_committed_rows():
  page = (ROOT / 'docs' / 'minatar_offline.md').read_text()
  found = report.all_tables(*report.load(RESULTS))
  assert found
  for table in found:
    assert table in page

"""The offline MinAtar experiments: their plan and one small run."""

import pathlib

import minatar_offline
import minatar_offline_report as report
import numpy as np
import pytest

from implicit_rl import local_runs, metrics_log
from implicit_rl.data.tfds_replay import EMBEDDED
from implicit_rl.theory.output import write_csv

ROOT = pathlib.Path(__file__).parent.parent
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
def test_a_small_run_gets_into_table_and_figure(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  (tmp_path / 'replays').symlink_to(EMBEDDED)
  run = minatar_offline.Run('Breakout', 'cql', penalty=True, updates=2 * minatar_offline.ITERATION)
  job = minatar_offline.job(run, tmp_path, ('TFDSReplay.cache_dir = None', *SMALL))
  local_runs.run(job._replace(bindings=(*job.bindings, 'OfflineRunner.num_iterations = 1')))
  assert job.done == 1 and report.rows_of(run._asdict(), job) == []  # Half done.
  local_runs.run(job)
  local_runs.run_all([job])  # Finished: nothing is added.
  logged = metrics_log.read(job.base_dir / 'metrics.jsonl')
  assert [row['updates'] for row in logged] == [2, 4]

  rows = report.rows_of(run._asdict(), job)
  write_csv(tmp_path / 'grid.csv', rows + [row | {'seed': 1, 'srank': 3.0} for row in rows])
  back = report.read(tmp_path / 'grid.csv')
  updates, values = report.curves(back, 'srank')
  np.testing.assert_array_equal(updates, [2, 4])
  np.testing.assert_array_equal(values, [[row['srank'] for row in logged], [3, 3]])
  last = np.array([logged[-1]['srank'], 3])
  line = report.grid_table(back, 0.05).splitlines()[-1]
  assert line.startswith('| Breakout | CQL + penalty |')
  assert f'{np.mean(last):.3g} ± {np.std(last, ddof=1):.2g}' == line.split(' | ')[4]
  report.draw_search(back, tmp_path / 'search')
  assert (tmp_path / 'search.png').stat().st_size > 10_000


def test_gains_are_seedwise_differences():
  rows = [
    dict.fromkeys((*report.SETTING, *report.MEASURED), 0.0)
    | {'game': 'Breakout', 'agent': 'dqn', 'fraction': 0.05, 'penalty': penalty, 'seed': seed}
    | {'updates': updates, 'srank': 10.0 * seed + penalty * updates, 'eval_return': value}
    for penalty, values in ((0, [[4, 2], [1, 3]]), (1, [[8, 1], [5, 1]]))
    for seed, row in enumerate(values)
    for updates, value in enumerate(row)
  ]
  found = report.gains(rows, 'Breakout', 'dqn', 0.05)
  np.testing.assert_allclose(found['srank last'], [1, 1])
  np.testing.assert_allclose(found['return best'], [4, 2])
  np.testing.assert_allclose(found['return last'], [-1, -2])
  np.testing.assert_allclose(found['return best, relative'], (6.5 - 3.5) / 3.5)
  assert report.gains(rows[:6], 'Breakout', 'dqn', 0.05) == {}  # A seed is missing.

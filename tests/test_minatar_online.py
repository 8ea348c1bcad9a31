"""The online MinAtar experiments: their plan and one small run, into table and figures."""

import pathlib

import minatar_online
import pytest

from implicit_rl.analysis import runs, tables
from implicit_rl.logs import jsonl
from implicit_rl.running import parallel_runs

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
  'OnlineRunner.num_iterations = 2',
  'OnlineRunner.training_steps = 16',
  'OnlineRunner.evaluation_steps = 1',
  'OnlineRunner.max_steps_per_episode = 3',
  'OnlineRunner.measure_size = 8',
  'Agent.min_replay_history = 16',
)


def test_the_plan_holds_all_games_and_compares_like_with_like():
  planned = minatar_online.RUNS
  assert len({run.directory for run in planned}) == len(planned) == 24
  dqn = {run for run in planned if run.agent == 'dqn' and run.updates_per_step == 0.25}
  assert {(run.game, run.seed) for run in dqn} == {
    (g, s) for g in minatar_online.GAMES for s in (0, 1)
  }
  assert all(run.steps >= 500_000 for run in dqn)
  for run in planned:  # Whatever differs from DQN at n = 1/4 has its counterpart.
    assert run._replace(agent='dqn', updates_per_step=0.25, steps=500_000) in dqn
    assert run.steps % minatar_online.ITERATION == 0


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_small_run_gets_into_table_and_figures(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  run = minatar_online.DQN[0]
  job = minatar_online.job(run, tmp_path, SMALL)
  assert minatar_online.collect(tmp_path) is None
  parallel_runs.run(job)
  logged = jsonl.read(job.base_dir / 'metrics.jsonl')
  results = tmp_path / 'results'
  minatar_online.report(tmp_path, results)
  table = runs.load([results / 'runs.csv'])
  assert list(table['environment_steps']) == [16, 32] and list(table['updates']) == [0, 4]
  assert table['srank'].iloc[-1] == logged[-1]['srank']
  assert (results / 'dqn.png').stat().st_size > 10_000
  line = tables.markdown(minatar_online.last_rows(table)).splitlines()[-1]
  assert line.startswith('| Breakout | DQN, n = 0.25 | 1 | 32 |')

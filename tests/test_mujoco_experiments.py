"""The MuJoCo experiments: their plans, and small runs of both, into tables and figures."""

import pathlib
import shutil

import mujoco_offline
import mujoco_online
import pytest

from implicit_rl.analysis import runs, tables
from implicit_rl.logs import jsonl
from implicit_rl.running import parallel_runs

ROOT = pathlib.Path(__file__).parent.parent
_RUNNER = ('num_iterations = 2', 'evaluation_steps = 1', 'max_steps_per_episode = 4')
_BOTH = (
  'Agent.batch_size = 4',
  'networks.ActorCritic.hidden_units = (8, 8)',
  'MuJoCoEnvironment.num_environments = 1',
)
ONLINE = (
  *(f'OnlineRunner.{line}' for line in (*_RUNNER, 'measure_size = 8', 'training_steps = 8')),
  *_BOTH,
  'Agent.min_replay_history = 6',
)
OFFLINE = (
  *(f'OfflineRunner.{line}' for line in (*_RUNNER, 'measure_size = 2', 'training_steps = 2')),
  *_BOTH,
)


def test_the_plans_compare_like_with_like():
  planned = mujoco_online.RUNS
  assert len({run.directory for run in planned}) == len(planned) == 13
  assert {(run.task, run.steps) for run in mujoco_online.LEARNS} == {
    ('Hopper', 100_000),
    ('HalfCheetah', 100_000),
  }
  for run in planned:  # Whatever has n = 4 has its counterpart, of the same seed.
    if run.updates_per_step == 4:
      counterparts = [r for r in planned if r[:3] == (run.task, 1, run.seed)]
      assert counterparts and counterparts[0].steps >= run.steps
    assert run.steps % mujoco_online.ITERATION == 0
  planned = set(mujoco_offline.RUNS)
  assert len({run.directory for run in planned}) == len(planned) == 24
  for run in planned:
    assert run._replace(penalty=not run.penalty) in planned
    assert run.task in {r.task for r in mujoco_online.LEARNS} and run.seed in range(3)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_small_runs_get_into_tables_and_figures(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  run = mujoco_online.LEARNS[0]
  job = mujoco_online.job(run, tmp_path / 'online', ONLINE)
  parallel_runs.run(job)
  logged = jsonl.read(job.base_dir / 'metrics.jsonl')
  results = tmp_path / 'results'
  curve = tmp_path / 'online/peers/sbx/Hopper/seed_0/curve.csv'  # As mujoco_peer.py's.
  curve.parent.mkdir(parents=True)
  curve.write_text(
    'variant,game,seed,iteration,environment_steps,updates,eval_return\n'
    '"sbx, n = 1",Hopper,0,0,8,2,3.5\n"sbx, n = 1",Hopper,0,1,16,10,4\n'
  )
  long = mujoco_online.job(mujoco_online.LONG[0], tmp_path / 'online/long', ONLINE)
  long.base_dir.mkdir(parents=True)  # Begun, without an iteration.
  mujoco_online.report(tmp_path / 'online', results)
  assert not (results / 'long.png').exists()
  shutil.copytree(job.base_dir, long.base_dir, dirs_exist_ok=True)
  mujoco_online.report(tmp_path / 'online', results)
  assert (results / 'long.png').stat().st_size > 10_000
  assert 'sbx, n = 1' in (results / 'peers.csv').read_text()
  assert '| Hopper | sbx, n = 1 | 1 | 10 | 4' in capsys.readouterr().out
  table = runs.load([results / 'runs.csv'])
  assert list(table['environment_steps']) == [8, 16] and list(table['updates']) == [2, 10]
  assert table['srank'].iloc[-1] == logged[-1]['srank']
  assert (results / 'returns.png').stat().st_size > 10_000
  line = tables.markdown(mujoco_online.last_rows(table)).splitlines()[-1]
  assert line.startswith('| Hopper | SAC, n = 1 | 1 | 10 |')

  offline = mujoco_offline.Run('Hopper', penalty=True)
  job = mujoco_offline.job(offline, tmp_path / 'offline', tmp_path / 'online', OFFLINE)
  parallel_runs.run(job)
  mujoco_offline.report(tmp_path / 'offline', results)
  table = runs.load([results / 'runs.csv'])
  assert list(table['updates']) == [2, 4] and set(table['variant']) == {'SAC + penalty'}
  assert (results / 'sac.png').stat().st_size > 10_000


def test_the_docs_quote_the_committed_rows():
  page = (ROOT / 'docs' / 'mujoco.md').read_text()
  results = ROOT / 'docs' / 'results'
  online, peers = (
    runs.load([results / 'mujoco_online' / name]) for name in ('runs.csv', 'peers.csv')
  )
  long = [
    runs.load([results / 'mujoco_online' / name]) for name in ('long_runs.csv', 'long_peers.csv')
  ]
  found = [rows for _, rows in mujoco_online.parts(online, peers, long).values()]
  assert len(found) == 3
  for rows in [*found, runs.load([results / 'mujoco_offline' / 'runs.csv'])]:
    assert tables.markdown(mujoco_online.last_rows(rows)) in page

"""The small Pong experiment: what it would run, and its committed results drawn anew."""

import pathlib

import gin
import pong_small
import pytest

from implicit_rl.running import experiment

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize('run', pong_small.RUNS)
def test_every_run_is_the_shipped_file_at_another_scale(run, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  job = pong_small.job(run, tmp_path, pong_small.Scale(steps=1000, updates=50))
  experiment.parse_gin(job.gin_files, job.bindings)
  runner = 'OnlineRunner' if run.kind == 'online' else 'OfflineRunner'
  steps = gin.query_parameter(f'{runner}.training_steps')
  assert steps * job.iterations == (1000 if run.kind == 'online' else 50)
  if run.kind == 'offline':  # On what the online DQN logs.
    logged = pong_small.job(pong_small.LOGGED, tmp_path, pong_small.Scale())
    assert 'OnlineRunner.log_replay = True' in logged.bindings
    assert gin.query_parameter('TFDSReplay.data_dir') == str(logged.base_dir / 'replay')


def test_the_results_get_into_a_table_and_figures(tmp_path, capsys):
  kept = ROOT / 'docs' / 'results' / 'pong_small' / 'runs.csv'
  (tmp_path / 'runs.csv').write_bytes(kept.read_bytes())
  pong_small.report({}, tmp_path)
  table = capsys.readouterr().out.splitlines()
  assert [line.split(' | ')[0].strip('| ') for line in table[2:]] == [
    run.variant for run in pong_small.RUNS
  ]
  for name in ('online', 'offline'):
    assert (tmp_path / f'{name}.png').stat().st_size > 10_000

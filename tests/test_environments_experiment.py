"""The experiment on shipped environments: a small run of both phases, and what the docs quote."""

import pathlib

import environments
import pandas as pd
import pytest

from implicit_rl.running import parallel_runs

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
  'online': (
    'OnlineRunner.num_iterations = 1',
    'OnlineRunner.training_steps = 40',
    'OnlineRunner.evaluation_steps = 1',
    'OnlineRunner.measure_size = 16',
    'DeviceReplay.num_environments = 2',
    'DeviceReplay.capacity = 400',
    'Agent.min_replay_history = 16',
    'MLP.hidden_units = (16, 16)',
  ),
  'offline': (
    'OfflineRunner.num_iterations = 1',
    'OfflineRunner.training_steps = 3',
    'OfflineRunner.evaluation_steps = 1',
    'OfflineRunner.measure_size = 16',
    'MLP.hidden_units = (16, 16)',
  ),
}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_small_runs_of_both_phases_get_into_the_table(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  small = [environments.Run('Catch', phase, 0) for phase in ('online', 'offline')]
  for run in small:
    parallel_runs.run(environments.job(run, tmp_path, SMALL[run.phase]))
  monkeypatch.setattr(environments, 'RUNS', small)
  monkeypatch.setattr(environments, 'EPISODES', 4)
  environments.report(tmp_path, tmp_path / 'results')
  rows = pd.read_csv(tmp_path / 'results' / 'runs.csv')
  assert list(rows['phase']) == ['online', 'offline'] and list(rows['updates']) == [12, 3]
  assert (rows['episodes'] == 4).all() and rows['return_mean'].between(-1, 1).all()
  assert '| Catch | offline | 1 |' in capsys.readouterr().out


def test_the_docs_quote_the_committed_rows():
  rows = pd.read_csv(ROOT / 'docs' / 'results' / 'environments' / 'runs.csv')
  assert environments.table(rows) in (ROOT / 'docs' / 'environments.md').read_text()

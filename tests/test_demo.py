"""The demo trains, prints, draws and resumes; its title says what the numbers are."""

import os
import re

import pandas as pd
import pytest
from PIL import Image

from implicit_rl import demo
from implicit_rl.analysis import tables

SEEDS, ITERATIONS = 2, 2


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Two variants of the demo, shortened."""
  output = tmp_path_factory.mktemp('demo')
  names = ('DQN', 'control: clipped targets')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XLA_FLAGS', os.environ['XLA_FLAGS'])  # The demo adds to them, for its runs.
    patch.setattr(demo, 'VARIANTS', {name: demo.VARIANTS[name] for name in names})
    arguments = [f'--output={output}', f'--seeds={SEEDS}', f'--iterations={ITERATIONS}']
    assert demo.main(arguments) == 0
    yield output


@pytest.mark.slow
def test_it_draws_what_the_runs_logged(made, capsys):
  drawn = demo.draw(made, demo.jobs(made, SEEDS, ITERATIONS))
  assert [path.name for path in drawn] == ['rank_values_and_return.png', 'report.html']
  with Image.open(drawn[0]) as picture:
    assert picture.size[0] > 1000
  assert 'Demo: offline DQN on CartPole' in drawn[1].read_text()
  rows = [made / 'dqn' / f'seed_{seed}' / 'metrics.jsonl' for seed in range(SEEDS)]
  ends = [pd.read_json(path, lines=True).iloc[-1] for path in rows]
  assert all(end['updates'] == 500 * ITERATIONS for end in ends)
  (line,) = re.findall(r'\| DQN \|.*', capsys.readouterr().out)
  assert f'{sum(end["srank"] for end in ends) / SEEDS:.1f} ± ' in line


@pytest.mark.slow
def test_again_it_trains_nothing(made):
  logs = sorted(made.glob('*/seed_*/metrics.jsonl'))
  before = [path.read_bytes() for path in logs]
  assert demo.main([f'--output={made}', f'--seeds={SEEDS}', f'--iterations={ITERATIONS}']) == 0
  assert len(before) == 2 * SEEDS
  assert [path.read_bytes() for path in logs] == before


def test_the_title_states_numbers():
  starts = {'DQN': {'srank': 36.7}, 'DQN + L_p': {'srank': 37.0}}
  ends = {
    'DQN': {'srank': 4.3, 'q_mean': 7734.6, 'eval_return': 9.2},
    'DQN + L_p': {'srank': 22.7, 'q_mean': 38.9, 'eval_return': 158.5},
  }
  assert demo.title(starts, ends).endswith(
    'DQN: srank 37 → 4, Q 7,735, return 9; DQN + L_p: srank 37 → 23, Q 39, return 158'
  )


def test_nothing_below_one_is_accepted(capsys):
  with pytest.raises(SystemExit):
    demo.main(['--seeds=0'])
  assert '--seeds must be at least 1, got 0' in capsys.readouterr().err


def test_the_last_row_that_all_runs_have():
  table = pd.DataFrame(
    {
      'variant': ['a'] * 5,
      'run': ['x', 'x', 'x', 'y', 'y'],
      'iteration': [0, 1, 2, 0, 1],
      'srank': [9.0, 4.0, 1.0, 9.0, 6.0],
    }
  )
  (row,) = tables.last(table, ['srank']).to_dict('records')
  assert row['runs'] == 2
  assert [value for name, value in row.items() if name.startswith('srank')] == ['5.0 ± 1.4']

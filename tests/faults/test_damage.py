"""What a start finds damaged, forged or changed in a run's directory."""

import os
import pickle

import pytest
from absl import flags

import run_experiment
from implicit_rl.analysis import runs
from implicit_rl.logs import checkpoints, jsonl
from implicit_rl.logs.errors import DamagedLogError
from tests.command_line import ROOT, refusal, run, strip_speed
from tests.faults.processes import MINATAR, SMALL, more

pytestmark = pytest.mark.faults


@pytest.fixture
def whole(made):
  """A run of three iterations."""
  return made(3)


@pytest.mark.parametrize(
  'damage',
  [
    'changed',
    pytest.param('cut', marks=pytest.mark.exhaustive),
    pytest.param('empty', marks=pytest.mark.exhaustive),
  ],
)
def test_a_damaged_newest_checkpoint_costs_an_iteration(damage, whole, ran, tmp_path, caplog):
  ran(2)
  path = tmp_path / 'checkpoints' / 'checkpoint_1.msgpack'
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes({'cut': bytes(content[:-9]), 'changed': bytes(content), 'empty': b''}[damage])
  assert strip_speed(more(tmp_path, 3)) == strip_speed(jsonl.read(whole / 'metrics.jsonl'))
  assert f'{path} is' in caplog.text and 'Falling back to the checkpoint before it' in caplog.text


class Bomb:
  """What a pickle runs when it is read."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return os.mkdir, (self._path,)


def test_a_forged_checkpoint_runs_nothing(ran, tmp_path):
  ran(1)
  path = tmp_path / 'checkpoints' / 'checkpoint_0.msgpack'
  path.write_bytes(pickle.dumps(Bomb(str(tmp_path / 'exploded'))))
  (tmp_path / 'metrics.jsonl').unlink()
  assert f'{path} is not a checkpoint' in refusal(tmp_path, MINATAR, **SMALL)
  assert not (tmp_path / 'exploded').exists()


def test_a_row_cut_short_is_written_again(whole, ran, tmp_path):
  ran(2)
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"iteration": 2, "upda')
  assert strip_speed(more(tmp_path, 3)) == strip_speed(jsonl.read(whole / 'metrics.jsonl'))


def test_a_damaged_log_is_named_with_the_line(ran, tmp_path):
  ran(1)
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + 'rubbish\n')
  before = path.read_bytes()
  with pytest.raises(SystemExit, match=r'metrics\.jsonl is damaged at line 2 .*remove that line'):
    more(tmp_path, 2)
  assert path.read_bytes() == before
  with pytest.raises(DamagedLogError, match='line 2'):
    runs.read(tmp_path)


def test_a_damaged_record_is_put_aside(ran, tmp_path, caplog):
  ran(1)
  (tmp_path / 'run.json').write_text('{"starts": [')
  with pytest.raises(ValueError, match=r'run\.json is damaged'):
    runs.read(tmp_path)
  assert len(more(tmp_path, 2)) == 2
  assert (tmp_path / 'run.damaged').exists() and 'a new file is started' in caplog.text
  assert runs.read(tmp_path).seed == 0


def test_the_best_policy_is_kept(tmp_path):
  """It outlives its checkpoint."""
  rows = run(
    tmp_path,
    MINATAR,
    **SMALL | {'OfflineRunner.num_iterations': 5, 'OfflineRunner.keep_checkpoints': 1},
  )
  best = max(rows, key=lambda row: row['eval_return'])
  tree = checkpoints.read(tmp_path / 'checkpoints' / checkpoints.BEST)
  assert (tree['iteration'], tree['eval_return']) == (best['iteration'], best['eval_return'])
  assert int(tree['agent']['learner']['updates']) == best['updates']
  names = sorted(path.name for path in (tmp_path / 'checkpoints').iterdir())
  assert names == ['best.msgpack', 'checkpoint_4.msgpack']


def test_gin_files_from_an_address_are_refused(tmp_path):
  arguments = ['x', f'--base_dir={tmp_path / "run"}', '--gin_files=https://example.org/dqn.gin']
  flags.FLAGS.unparse_flags()
  try:
    with pytest.raises(SystemExit, match=r'is a URL\. A gin file can run'):
      run_experiment.main(flags.FLAGS(arguments))
  finally:
    flags.FLAGS.unparse_flags()
  assert not (tmp_path / 'run').exists()


def test_every_fault_in_the_docs_has_its_test():
  """The table in docs/reliability.md names them."""
  rows = [
    line.strip('|').split('|')
    for line in (ROOT / 'docs' / 'reliability.md').read_text().splitlines()
    if line.startswith('|') and '`tests/' in line
  ]
  assert len(rows) >= 20
  for cells in rows:
    path, name = cells[-1].strip().strip('`').split('::')
    assert f'def {name}(' in (ROOT / path).read_text(), f'{path} has no {name}'

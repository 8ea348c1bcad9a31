"""Disks that are full, directories that are taken or read-only, data that is gone."""

import shutil

import pytest

from implicit_rl.data.sources import tfds_replay
from implicit_rl.logs import checkpoints
from implicit_rl.running import run_directory
from tests.command_line import refusal
from tests.faults import processes
from tests.faults.processes import MINATAR, SMALL, more

pytestmark = pytest.mark.faults


def stopped_by(base_dir, iterations=2):
  """The one line that ends a run in mid-course."""
  with pytest.raises(SystemExit) as stopped:
    more(base_dir, iterations)
  message = str(stopped.value)
  assert message.startswith('run_experiment.py: ') and '\n' not in message
  return message


@pytest.mark.parametrize(
  'full',
  [
    'checkpoints/checkpoint_1.partial',
    pytest.param('checkpoints/best.partial', marks=pytest.mark.exhaustive),
    pytest.param('logs/log_1.partial', marks=pytest.mark.exhaustive),
  ],
)
def test_a_full_disk_leaves_the_last_checkpoint(full, ran, tmp_path):
  """/dev/full is the kernel's disk without room; each file in turn lies on it."""
  ran(1)
  tree = checkpoints.load(tmp_path / 'checkpoints', 0)
  tree['best']['eval_return'] = -1.0  # So that the next policy is better, and written.
  checkpoints.save(tmp_path / 'checkpoints', 0, tree)
  (tmp_path / full).symlink_to('/dev/full')
  message = stopped_by(tmp_path)
  assert 'No space left on device' in message
  assert 'in iteration 2. The last good checkpoint is' in message
  assert message.endswith('Fix the cause, then rerun the same command to resume.')
  assert checkpoints.iterations(tmp_path / 'checkpoints') == [0]
  (tmp_path / full).unlink(missing_ok=True)
  assert [row['iteration'] for row in more(tmp_path)] == [0, 1]


@pytest.mark.parametrize('log', ['metrics', 'spectra'])
def test_a_full_disk_does_not_cost_rows(log, ran, tmp_path):
  """A start writes them anew, without those later than the checkpoint."""
  ran(1)
  before = (tmp_path / f'{log}.jsonl').read_bytes()
  (tmp_path / f'{log}.partial').symlink_to('/dev/full')
  assert 'No space left on device' in stopped_by(tmp_path)
  assert (tmp_path / f'{log}.jsonl').read_bytes() == before
  (tmp_path / f'{log}.partial').unlink(missing_ok=True)
  assert [row['iteration'] for row in more(tmp_path)] == [0, 1]


def test_a_directory_that_can_not_be_written_is_refused():
  assert '--base_dir: /proc/1/run cannot be written' in refusal('/proc/1/run', MINATAR, **SMALL)


def test_a_directory_that_another_process_runs_in_is_refused(tmp_path):
  base_dir = tmp_path / 'run'
  process = processes.start(base_dir, MINATAR, SMALL | {'OfflineRunner.num_iterations': 100_000})
  assert processes.wait_for(processes.begun(base_dir), process), processes.output(base_dir)
  with pytest.raises(SystemExit, match=rf'in use by process {process.pid} on .*another directory'):
    more(base_dir)
  process.kill()
  process.join()
  done = len(processes.rows(base_dir))
  assert len(more(base_dir, done + 1)) == done + 1  # Free as soon as the process is gone.


def test_a_run_gives_its_directory_back(tmp_path):
  more(tmp_path, 1)
  assert tmp_path.resolve() not in run_directory._held


def sample(tmp_path):
  """A copy of the embedded data, to be harmed."""
  embedded = tfds_replay.EMBEDDED
  shutil.copytree(embedded, tmp_path / 'data')
  return tmp_path / 'data'


def test_data_that_is_gone_is_named(tmp_path):
  data = sample(tmp_path)
  for path in data.rglob('Breakout_run_1'):
    shutil.rmtree(path)
  message = refusal(tmp_path / 'run', MINATAR, data_dir=data, **SMALL)
  assert 'Breakout_run_1' in message


def test_a_data_file_that_is_gone_is_named(tmp_path):
  data = sample(tmp_path)
  gone = next(path for path in data.rglob('*Breakout_run_1*/**/*tfrecord*'))
  gone.unlink()
  message = refusal(tmp_path / 'run', MINATAR, data_dir=data, **SMALL)
  assert gone.name in message


def test_a_damaged_data_file_is_named(tmp_path):
  data = sample(tmp_path)
  harmed = next(path for path in data.rglob('*Breakout_run_1*/**/*tfrecord*'))
  content = bytearray(harmed.read_bytes())
  content[len(content) // 2] ^= 0xFF
  harmed.write_bytes(content)
  message = refusal(tmp_path / 'run', MINATAR, data_dir=data, **SMALL)
  assert harmed.name in message


def test_data_deleted_during_a_run_harms_nothing(tmp_path):
  """It is in memory or mapped; the next start makes the cache anew."""
  data = sample(tmp_path)
  base_dir, settings = tmp_path / 'run', SMALL | {'OfflineRunner.num_iterations': 100_000}
  settings |= {
    'TFDSReplay.data_dir': repr(str(data)),
    'TFDSReplay.cache_dir': f"'{tmp_path}/cache'",
  }
  process = processes.start(base_dir, MINATAR, settings)
  assert processes.wait_for(processes.begun(base_dir), process), processes.output(base_dir)
  shutil.rmtree(tmp_path / 'cache')
  shutil.move(data, tmp_path / 'elsewhere')
  done = len(processes.rows(base_dir))
  assert processes.wait_for(lambda: len(processes.rows(base_dir)) > done + 2, process)
  process.kill()
  process.join()
  assert processes.finish(base_dir, MINATAR, settings) != 0
  assert str(data) in processes.output(base_dir)

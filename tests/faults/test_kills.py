"""Killed at random moments, within checkpoint writes too, a run ends as one that never was."""

import pathlib
import random
import time

import pytest

from tests.cases import cases
from tests.command_line import MINATAR_REPLAY, OFFLINE, ONLINE
from tests.faults import processes

# Of five, one comes while the run starts, two await a checkpoint's write, two come at any moment.
KILLS = [(5, 1), (20, 2)]
ITERATIONS = 3  # after the last kill
KINDS = {
  'offline': (
    'gin_configs/minatar/offline_dqn.gin',
    OFFLINE | {'OfflineRunner.training_steps': 40, 'MinAtarCNN.hidden_units': 32},
  ),
  'online': (
    'gin_configs/minatar/online_dqn.gin',
    ONLINE
    | MINATAR_REPLAY
    | {
      'OnlineRunner.training_steps': 200,
      'OnlineRunner.log_replay': True,
      'MinAtarCNN.hidden_units': 32,
    },
  ),
}


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
  ('kind', 'kills', 'least_within_a_write'),
  cases(
    [(kind, *kills) for kind in KINDS for kills in KILLS],
    lambda kind, kills, _: kind == 'offline' and kills == 5,
  ),
)
def test_killed_again_and_again_equals_never(kind, kills, least_within_a_write, tmp_path):
  gin_file, bindings = KINDS[kind]
  runner = 'OnlineRunner' if kind == 'online' else 'OfflineRunner'
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  endless = bindings | {f'{runner}.num_iterations': 100_000}
  moments, within_a_write = random.Random(kind), 0
  checkpoints = killed / 'checkpoints'
  for kill in range(3 * kills):
    if kill >= kills and within_a_write >= least_within_a_write:
      break
    process = processes.start(killed, gin_file, endless)
    if kill % 5 == 4:  # While it starts, whatever it does then.
      time.sleep(moments.uniform(0, 2))
    else:
      assert processes.wait_for(processes.begun(killed), process), processes.output(killed)
      if kill % 5 in (1, 3):
        processes.wait_for(lambda: any(checkpoints.glob('*.partial')), process)
      else:
        time.sleep(moments.uniform(0, 1))
    process.kill()
    process.join()
    within_a_write += any(checkpoints.glob('*.partial'))
  assert within_a_write >= least_within_a_write  # Most writes end before the kill comes.
  done = len(processes.rows(killed))
  ended = bindings | {f'{runner}.num_iterations': done + ITERATIONS}
  for base_dir in (killed, whole):
    assert processes.finish(base_dir, gin_file, ended) == 0, processes.output(base_dir)
  assert [row['iteration'] for row in processes.rows(killed)] == list(range(done + ITERATIONS))
  processes.assert_same_run(killed, whole)
  if kind == 'online':
    assert replay(killed) == replay(whole)


def replay(base_dir):
  """Names and bytes of the exported dataset."""
  root = pathlib.Path(base_dir) / 'replay'
  files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}
  assert any('tfrecord' in name for name in files)
  return files

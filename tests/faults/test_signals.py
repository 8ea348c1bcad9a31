"""SIGTERM and SIGINT: saved within the iteration, exit 0; resumed equals uninterrupted."""

import os
import pathlib
import signal

import pytest

from implicit_rl.logs import checkpoints
from tests.command_line import ATARI_REPLAY, MINATAR_REPLAY, OFFLINE, ONLINE
from tests.faults import processes

TWO = {'OfflineRunner.num_iterations': 2, 'OnlineRunner.num_iterations': 2}
MINATAR = {'MinAtarCNN.hidden_units': 32}
ATARI = {'Agent.network': '@SmallCNN', 'SmallCNN.hidden_units': 16}


def only(runner, bindings):
  """Those that are not of the other runner."""
  other = {'OfflineRunner': 'OnlineRunner', 'OnlineRunner': 'OfflineRunner'}[runner]
  return {name: value for name, value in bindings.items() if not name.startswith(other)}


CASES = {
  'offline, training': (
    'gin_configs/minatar/offline_dqn.gin',
    only('OfflineRunner', OFFLINE | TWO | MINATAR | {'OfflineRunner.training_steps': 2560}),
    signal.SIGTERM,
    'training',
  ),
  'online compiled, training': (
    'gin_configs/minatar/online_rainbow.gin',
    only(
      'OnlineRunner',
      ONLINE
      | MINATAR_REPLAY
      | TWO
      | MINATAR
      | {'OnlineRunner.training_steps': 5000, 'OnlineRunner.log_replay': True},
    ),
    signal.SIGINT,
    'training',
  ),
  'Atari online, within an episode': (
    'gin_configs/atari/online_dqn.gin',
    only(
      'OnlineRunner',
      ONLINE
      | ATARI_REPLAY
      | TWO
      | ATARI
      | {
        'OnlineRunner.training_steps': 400,
        'OnlineRunner.max_steps_per_episode': 300,
        'OnlineRunner.evaluation_steps': 20,
      },
    ),
    signal.SIGTERM,
    'training',
  ),
  'Atari offline, evaluating': (
    'gin_configs/atari/offline_dqn.gin',
    only(
      'OfflineRunner',
      OFFLINE
      | TWO
      | ATARI
      | {'OfflineRunner.evaluation_steps': 500, 'OfflineRunner.max_steps_per_episode': 500},
    ),
    signal.SIGINT,
    'evaluating',
  ),
}


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.exhaustive
@pytest.mark.parametrize('case', CASES)
def test_a_signal_saves_and_the_rest_is_as_if_there_was_none(case, tmp_path):
  gin_file, bindings, number, phase = CASES[case]
  stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
  process = processes.start(stopped, gin_file, bindings)
  assert processes.wait_for(lambda: shows_progress(stopped, phase), process), processes.output(
    stopped
  )
  os.kill(process.pid, number)
  process.join(60)
  said = processes.output(stopped)
  assert process.exitcode == 0, said
  assert f'{number.name}: saving, then stopping' in said
  assert 'Stopped within iteration 1/2. Rerun the same command to resume.' in said
  iteration, tree = checkpoints.load_newest(stopped / 'checkpoints')
  assert iteration == 0 and (tree['interrupted']['trained'] is None) == (phase == 'training')
  assert not processes.rows(stopped)
  for base_dir in (stopped, whole):
    assert processes.finish(base_dir, gin_file, bindings) == 0, processes.output(base_dir)
  assert 'Resuming within iteration 1/2' in processes.output(stopped)
  assert not list((stopped / 'checkpoints').glob('interrupted*'))
  processes.assert_same_run(stopped, whole)


def shows_progress(base_dir, phase):
  """Whether the bar of a phase has moved."""
  moved = [line for line in processes.output(base_dir).splitlines() if f'{phase}: ' in line]
  return any(' 0/' not in line for line in moved)


@pytest.mark.faults
def test_a_second_signal_ends_it_at_once(tmp_path):
  """While the first waits for a compiled call, or for the write of what there is."""
  gin_file, bindings, number, phase = CASES['offline, training']
  process = processes.start(tmp_path / 'run', gin_file, bindings)
  assert processes.wait_for(lambda: shows_progress(tmp_path / 'run', phase), process)
  # The pipe in place of its checkpoint never ends, so it is still there for the second one.
  folder = tmp_path / 'run' / 'checkpoints'
  folder.mkdir(exist_ok=True)
  os.mkfifo(folder / 'interrupted_0.partial')
  os.kill(process.pid, number)
  assert processes.wait_for(lambda: 'saving' in processes.output(tmp_path / 'run'), process)
  os.kill(process.pid, signal.SIGINT)
  process.join(10)
  assert process.exitcode == 128 + signal.SIGINT
  assert not pathlib.Path(tmp_path / 'run' / 'metrics.jsonl').exists()

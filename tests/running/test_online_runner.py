"""Online runs through the real entry point: resume, the logged replay, what is refused."""

import re
import shutil

import jax
import numpy as np
import pytest

from implicit_rl.data.formats import tfds_writer
from implicit_rl.data.replay import replay_log
from implicit_rl.data.replay.device_replay import DeviceReplay
from implicit_rl.data.sources import tfds_replay
from implicit_rl.logs import checkpoints
from tests.command_line import refusal, run, strip_speed

DQN = 'gin_configs/minatar/online_dqn.gin'
RAINBOW = 'gin_configs/minatar/online_rainbow.gin'
ATARI_RAINBOW = 'gin_configs/atari/online_rainbow.gin'
PENALTY = 'gin_configs/penalties/lp.gin'


def newest(base_dir):
  return checkpoints.load_newest(base_dir / 'checkpoints')[1]


def replay_of(base_dir):
  """The rows that a run's replay held at its end."""
  replay = DeviceReplay(
    (10, 10, 4),
    np.uint8,
    stack_size=1,
    update_horizon=1,
    gamma=0.99,
    capacity=1000,
    num_environments=2,
  )
  replay.load_state_dict(newest(base_dir)['agent']['source'])
  return replay.memory.rows._asdict()


@pytest.mark.slow
@pytest.mark.parametrize(
  'gin_file', [RAINBOW, pytest.param(ATARI_RAINBOW, marks=pytest.mark.exhaustive)]
)
def test_resumed_equals_uninterrupted(gin_file, tmp_path):
  """Rows and parameters, and the games and the replay where the next iteration begins."""
  three = {'OnlineRunner.num_iterations': 3, 'OnlineRunner.log_replay': True}
  if gin_file == ATARI_RAINBOW:  # The log needs a replay that holds an iteration's longest game.
    three['OnlineReplay.capacity'] = 30_000
  straight = run(tmp_path / 'a', gin_file, PENALTY, **three)
  run(tmp_path / 'b', gin_file, PENALTY, **{**three, 'OnlineRunner.num_iterations': 1})
  # As if it was killed after the next iteration was logged and before its checkpoint was written.
  left = replay_log.ReplayLog(tmp_path / 'b' / 'replay_log')
  left.write(1, replay_log.Rows(*(np.zeros((1, 2), bool) for _ in replay_log.Rows._fields)))
  resumed = run(tmp_path / 'b', gin_file, PENALTY, **three)
  assert strip_speed(straight) == strip_speed(resumed)
  steps, after = (15, 7) if gin_file == ATARI_RAINBOW else (16, 8)
  assert [row['environment_steps'] for row in straight] == [steps, 2 * steps, 3 * steps]
  assert [row['updates'] for row in straight] == [(k * steps - after) // 4 for k in (1, 2, 3)]
  a, b = newest(tmp_path / 'a'), newest(tmp_path / 'b')
  jax.tree.map(np.testing.assert_array_equal, a['agent'], b['agent'])
  assert a.keys() == b.keys()
  if 'loop' in a:
    jax.tree.map(np.testing.assert_array_equal, a['loop'], b['loop'])
  logs = [list(replay_log.ReplayLog(tmp_path / x / 'replay_log').episodes()) for x in 'ab']
  jax.tree.map(np.testing.assert_array_equal, *logs)


@pytest.mark.parametrize('exported', [False, True])
@pytest.mark.exhaustive
def test_the_logged_replay_is_a_dataset_that_agents_train_on(tmp_path, exported):
  steps = {'OnlineRunner.num_iterations': 3, 'OnlineRunner.training_steps': 40}
  if exported:
    shorter = steps | {'OnlineRunner.num_iterations': 2, 'OnlineRunner.log_replay': True}
    run(tmp_path / 'online', DQN, **shorter)
    shutil.copytree(tmp_path / 'online' / 'replay', tmp_path / 'shorter')
  run(tmp_path / 'online', DQN, **steps, **{'OnlineRunner.log_replay': True})
  replay = tmp_path / 'online' / 'replay'
  shutil.rmtree(replay)  # As if it was killed before this was written,
  if exported:  # or when only that of a shorter run was there.
    shutil.copytree(tmp_path / 'shorter', replay)
  run(tmp_path / 'online', DQN, **steps, **{'OnlineRunner.log_replay': True})
  memory = replay_of(tmp_path / 'online')
  log = replay_log.ReplayLog(tmp_path / 'online' / 'replay_log')
  episodes = list(log.episodes())
  assert sum(len(rows['action']) for _, rows in episodes) == 120
  # Stream after stream, in order of time, the log holds what the replay holds.
  for name in ('action', 'reward', 'observation'):
    for stream in range(2):
      logged = [
        rows[name] for began, rows in sorted(episodes, key=lambda e: e[0]) if began % 2 == stream
      ]
      held = np.asarray(replay_of(tmp_path / 'online')[name])[:60, stream]
      np.testing.assert_array_equal(np.concatenate(logged), held)

  source = tfds_replay.TFDSReplay(
    stack_size=1,
    update_horizon=1,
    gamma=0.99,
    dataset=tfds_writer.MINATAR,
    game='Breakout',
    data_dir=tmp_path / 'online' / 'replay',
    fraction=1.0,
  )
  described = source.describe()
  assert described['rows'] == 120
  np.testing.assert_allclose(described['reward_sum'], memory['reward'][:60].sum())
  assert described['terminals'] == memory['terminal'][:60].sum() > 0
  (row,) = run(
    tmp_path / 'offline',
    'gin_configs/minatar/offline_dqn.gin',
    data_dir=tmp_path / 'online' / 'replay',
    **{'TFDSReplay.fraction': 1.0},
  )
  assert row['updates'] == 2


@pytest.mark.parametrize('replay', ['PrioritizedReplay', 'OnlineReplay'])
@pytest.mark.exhaustive
def test_minatar_trains_from_a_replay_in_host_memory(replay, tmp_path):
  """Step by step; stopped after an iteration, it goes on as the run that never was."""
  settings = {'Agent.source': f'@{replay}', 'OnlineReplay.capacity': 100}
  gin_file = tmp_path / 'host.gin'
  gin_file.write_text(
    f"include '{DQN}'\nimport implicit_rl.data.replay.prioritized_replay\n"
    'import implicit_rl.data.replay.online_replay\n'
  )
  two = {**settings, 'OnlineRunner.num_iterations': 2}
  straight = run(tmp_path / 'a', DQN, gin_file, **two)
  run(tmp_path / 'b', DQN, gin_file, **settings)
  assert strip_speed(run(tmp_path / 'b', DQN, gin_file, **two)) == strip_speed(straight)
  for row, steps in zip(straight, (20, 40), strict=True):  # Four episodes of five steps.
    assert row['environment_steps'] == steps and row['updates'] == (steps - 8) // 4
  a, b = newest(tmp_path / 'a'), newest(tmp_path / 'b')
  jax.tree.map(np.testing.assert_array_equal, a['agent'], b['agent'])


def test_updates_per_step_and_clipping_are_the_runners(tmp_path):
  (row,) = run(tmp_path, DQN, **{'OnlineRunner.updates_per_step': 2})
  assert row['updates'] == 16 and row['environment_steps'] == 16


@pytest.mark.parametrize(
  ('settings', 'expected'),
  [
    ({'Agent.updates_per_step': 1}, 'Bind OnlineRunner.updates_per_step'),
    ({'OnlineRunner.updates_per_step': -1}, 'updates_per_step must be a number of at least 0'),
    ({'OnlineRunner.training_steps': 15}, r'training_steps \(15\) must be a multiple of the 2'),
    ({'DeviceReplay.capacity': 13}, 'multiple of num_environments = 2'),
    ({'Agent.min_replay_history': 3}, r'min_replay_history \(3\) must be at least 4'),
    ({'DeviceReplay.gamma': 0.5}, 'gamma'),
    ({'Agent.min_replay_history': 0}, 'min_replay_history must be a whole number of at least 1'),
  ],
)
def test_wrong_settings_end_in_one_line(tmp_path, settings, expected):
  message = refusal(tmp_path / 'run', DQN, **settings)
  assert re.search(expected, message), message


def test_parts_that_do_not_go_together_are_named(tmp_path):
  (tmp_path / 'mine.gin').write_text(
    "include 'gin_configs/minatar/online_dqn.gin'\nimport implicit_rl.environments.atari\n"
    'import implicit_rl.data.sources.tfds_replay\n'
  )
  files = (DQN, tmp_path / 'mine.gin')
  atari = {'Experiment.environment': '@AtariEnvironment', 'Agent.network': '@NatureCNN'}
  message = refusal(tmp_path / 'a', *files, **atari)
  assert 'Pong does not run in a compiled loop' in message and '@OnlineReplay' in message
  dataset = {
    'Agent.source': '@TFDSReplay',
    'TFDSReplay.dataset': "'minatar_checkpoints_ordered'",
    'TFDSReplay.game': "'Breakout'",
  }
  assert 'Online training needs a replay' in refusal(tmp_path / 'b', *files, **dataset)

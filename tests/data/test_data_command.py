"""The command line of the data: from each kind of source to a store and out again."""

import json

import numpy as np
import pytest

from implicit_rl.data import __main__
from implicit_rl.data.formats import minari_recordings
from implicit_rl.data.replay import online_replay
from implicit_rl.data.sources import dopamine_logs, store_replay
from implicit_rl.data.store import store_files, store_writer
from implicit_rl.logs import checkpoints
from tests.data import dopamine_reference, reference
from tests.data.conftest import ATARI
from tests.data.sources.test_dopamine_logs import flat, read_all
from tests.data.sources.test_store_replay import SETTINGS, assert_alike
from tests.data.sources.test_tfds_replay import assert_same
from tests.data.sources.test_tfds_replay import load as load_tfds


def run(*arguments):
  return __main__.main([str(a) for a in arguments])


def load(path, **kwargs):
  return store_replay.StoreReplay(**(SETTINGS | dict(path=path) | kwargs))


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """Raw logs, their episodes, and the store that the command made of them."""
  folder = tmp_path_factory.mktemp('command')
  episodes = dopamine_reference.random_run(np.random.default_rng(98), 40, 25, (84, 84))
  for episode in episodes:
    for step in episode:
      step.reward = float(np.clip(step.reward, -1, 1))
  logs = folder / 'Pong' / '1' / 'replay_logs'
  logged = dopamine_reference.write(logs, flat(episodes), 120)
  assert run('prepare', folder / 'Pong' / '1', folder / 'store') == 0
  held = {n for ring in logged.step_of.values() for n in ring if n >= 0}
  assert held == set(range(sum(map(len, episodes))))
  return logs, episodes, folder / 'store'


def test_prepare_info_and_verify(raw, capsys):
  logs, episodes, store = raw
  assert_same(load(store), episodes)
  assert run('info', store) == 0
  said = capsys.readouterr().out
  rows = sum(map(len, episodes))
  assert f'{rows:,} in 40 episodes' in said
  assert 'replay_logs/Pong/1' in said
  assert 'checkpoints       0-4' in said
  assert run('info', store, '--json') == 0
  assert json.loads(capsys.readouterr().out)['settings']['rows'] == rows
  assert run('verify', store) == 0
  assert 'The store is intact.' in capsys.readouterr().out
  assert run('prepare', logs, store) == 1
  assert capsys.readouterr().err.startswith(f'error: {store} already exists')


def test_errors_are_one_line(raw, tmp_path, capsys):
  def error(*arguments):
    assert run(*arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: ')
    assert said.count('\n') == 1
    return said

  logs, _, store = raw
  assert 'There is no folder' in error('prepare', tmp_path / 'nowhere', tmp_path / 'a')
  assert 'Name one run' in error('prepare', logs.parents[2], tmp_path / 'a')
  assert 'holds no Dopamine logs' in error('prepare', tmp_path, tmp_path / 'a')
  assert 'lacks checkpoint 7' in error('prepare', logs, tmp_path / 'a', '--checkpoints=3,7')
  assert 'There is no store' in error('info', tmp_path / 'a')
  assert 'There is no store' in error('verify', tmp_path / 'a')
  assert '--name is missing' in error('export', store, tmp_path, '--format=tfds')
  assert 'such as Maze_run_1' in error('export', store, tmp_path, '--format=tfds', '--name=x/y')
  assert '--capacity must be' in error(
    'export', store, tmp_path, '--format=dopamine', '--capacity=2'
  )
  with store_writer.StoreWriter(tmp_path / 'b', (2,), np.uint8, {}):
    assert 'is being written by another process' in error('info', tmp_path / 'b')
    assert 'Another process is writing' in error('prepare', logs, tmp_path / 'b')
  assert 'is not complete yet' in error('info', tmp_path / 'b')
  with pytest.raises(SystemExit):
    run('export', store, tmp_path, '--format=csv')


def test_skipped_checkpoints_are_recorded(raw, tmp_path, capsys):
  logs, _, _ = raw
  settings = ('--checkpoints=0-2,7', '--skip_missing')
  assert run('prepare', logs, tmp_path / 'store', *settings) == 0
  assert 'lacks checkpoint 7' in capsys.readouterr().out
  settings = store_files.read_index(tmp_path / 'store')['settings']
  assert [entry['checkpoint'] for entry in settings['skipped']] == [7]


@pytest.mark.parametrize('capacity', [97, 119, 1000])
def test_exported_logs_are_read_by_dopamine_and_by_us(raw, tmp_path, capacity, capsys):
  _, episodes, store = raw
  logs = tmp_path / 'logs'
  assert run('export', store, logs, '--format=dopamine', f'--capacity={capacity}') == 0
  assert 'logs' in capsys.readouterr().out
  assert run('export', store, logs, '--format=dopamine') == 1  # They are not overwritten.
  ours, again = (read_all(r) for r in (dopamine_logs.DopamineLogs(logs), StoredRows(store)))
  for name in ('observation', 'action', 'reward', 'terminal', 'episode_end', 'is_first'):
    np.testing.assert_array_equal(getattr(ours, name), getattr(again, name))
  data, compared = load(store), 0
  number = {s.observation.tobytes(): i for i, s in enumerate(flat(episodes))}
  found = {state[-1].tobytes() for state in data._gather(data._valid[:]).state}
  for checkpoint in sorted(dopamine_logs.dopamine_files.list_logs(logs)):
    buffer = dopamine_reference.buffer_of((84, 84), capacity)
    buffer.load(str(logs), checkpoint)
    valid = [
      i
      for i in range(capacity)
      if buffer.is_valid_transition(i)
      and buffer._store['observation'][i].tobytes() in found  # Not padding: see its is_valid.
      and not any((i - k) % capacity in buffer.episode_end_indices for k in (1, 2, 3))
    ]
    state, action, reward, following, *_, terminal, _ = buffer.sample_transition_batch(
      len(valid), valid
    )
    batch = data._gather(np.array([number[s[..., -1].tobytes()] for s in state]))
    np.testing.assert_array_equal(np.moveaxis(batch.state, 1, -1), state)
    np.testing.assert_array_equal(batch.action, action)
    np.testing.assert_array_equal(batch.reward, reward)
    np.testing.assert_array_equal(batch.discount, 1 - terminal)
    alive = terminal == 0
    np.testing.assert_array_equal(np.moveaxis(batch.next_state, 1, -1)[alive], following[alive])
    compared += len(valid)
  assert compared > 0.8 * len(data)


class StoredRows:
  """A store read as a recording, to compare with."""

  def __init__(self, folder):
    self.stored = __main__.export.Stored(folder)

  def read(self, start=0):
    columns = {name: np.asarray(c) for name, c in self.stored.columns.items()}
    rows = dopamine_logs.recordings.Rows(
      self.stored.frames.take(np.arange(len(columns['action']))),
      **{name: columns[name] for name in dopamine_logs.recordings.COLUMNS},
    )
    return iter([rows])


def test_tfds_to_a_store_and_back(official_dir, episodes, tmp_path, capsys):
  source = official_dir / ATARI / 'Pong_run_1'
  assert run('prepare', source, tmp_path / 'store') == 0
  assert run('prepare', source / '1.1.0', tmp_path / 'again') == 0
  assert_same(load(tmp_path / 'store'), flat_episodes(episodes))
  name = f'--name={ATARI}/Pong_run_1'
  assert run('export', tmp_path / 'store', tmp_path / 'tfds', '--format=tfds', name) == 0
  written = load_tfds(tmp_path / 'tfds')
  assert_alike(written, load_tfds(official_dir))
  assert written.describe()['splits'] == 3
  assert run('export', tmp_path / 'store', tmp_path / 'tfds', '--format=tfds', name) == 1
  assert 'already exists' in capsys.readouterr().err


def flat_episodes(episodes):
  return [e for held in episodes.values() for e in held]


def test_an_online_runs_replay(tmp_path, capsys):
  replay = online_replay.OnlineReplay(
    (3, 2), stack_size=4, update_horizon=1, gamma=0.99, capacity=60
  )
  episodes = reference.random_episodes(
    np.random.default_rng(0), [30, 20, 25], [True, False, True], (3, 2)
  )
  for s in flat(episodes):
    replay.add(s.observation, s.action, s.reward, s.terminal, s.episode_end)
  tree = {'agent': {'source': replay.state_dict()}, 'dataset': {'game': 'Pong'}}
  checkpoints.save(tmp_path / 'run' / 'checkpoints', 3, tree)
  assert run('prepare', tmp_path / 'run', tmp_path / 'store') == 0
  data = load(tmp_path / 'store')
  assert data.describe()['game'] == 'Pong'
  assert len(data) == len(replay)
  rows = np.arange(15, 75)
  rows = rows[replay._complete(rows)]
  for a, b in zip(data._gather(data._valid[:]), replay._gather(rows), strict=True):
    np.testing.assert_array_equal(a, b)
  tree['agent']['source']['reward'][7] += 1  # Another run that got as far.
  checkpoints.save(tmp_path / 'twin' / 'checkpoints', 3, tree)
  assert run('prepare', tmp_path / 'twin', tmp_path / 'store') == 1
  assert 'made from other data (rows_sha256 was' in capsys.readouterr().err
  checkpoints.save(tmp_path / 'offline' / 'checkpoints', 3, {'agent': {}})
  assert run('prepare', tmp_path / 'offline', tmp_path / 'other') == 1
  assert 'hold no replay memory' in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore:`eval_env` is set to None', 'ignore:env_spec is None')
def test_a_local_minari_dataset(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))
  import gymnasium as gym
  import minari
  from minari.data_collector import EpisodeBuffer

  episodes = reference.random_episodes(
    np.random.default_rng(0), [30, 20, 25], [True, False, True], (84, 84)
  )
  buffers = [
    EpisodeBuffer(
      id=i,
      observations=[s.observation for s in [*episode, episode[-1]]],
      actions=[s.action for s in episode],
      rewards=[s.reward for s in episode],
      terminations=[s.terminal for s in episode],
      truncations=[s.episode_end and not s.terminal for s in episode],
    )
    for i, episode in enumerate(episodes)
  ]
  minari.create_dataset_from_buffers(
    'atari/test-v0',
    buffers,
    observation_space=gym.spaces.Box(0, 255, (84, 84), np.uint8),
    action_space=gym.spaces.Discrete(6),
    algorithm_name='random',
    code_permalink='none',
    author='none',
    author_email='none',
    description='frames of noise',
  )
  folder = tmp_path / 'minari' / 'atari' / 'test-v0'
  assert run('prepare', folder, tmp_path / 'store') == 0
  # Minari keeps images as JPEG, so what it gives back is not quite what went in.
  for episode, kept in zip(episodes, minari.load_dataset('atari/test-v0'), strict=True):
    for step, frame in zip(episode, kept.observations[:-1], strict=True):
      assert np.abs(step.observation.astype(int) - frame).mean() < 15
      step.observation = frame
  assert_same(load(tmp_path / 'store'), episodes)
  recording = minari_recordings.MinariRecording(folder)
  for start in (0, 29, 30, 60, 75):
    parts = [rows.action for rows in recording.read(start)]
    actions = [s.action for s in flat(episodes)][start:]
    assert np.concatenate([np.zeros(0, int), *parts]).tolist() == actions
  assert run('prepare', tmp_path, tmp_path / 'x', '--format=minari') == 1
  assert 'it is not a Minari dataset' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('shape', 'expected'),
  [
    ((84, 84), lambda o: o),
    ((84, 84, 1), lambda o: o[..., 0]),
    ((4, 84, 84), lambda o: o[:, 3]),
    ((84, 84, 4), lambda o: o[..., 3]),
  ],
)
def test_the_newest_frame_of_an_observation(shape, expected):
  observations = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
  np.testing.assert_array_equal(
    minari_recordings.newest_frames(observations), expected(observations)
  )


def test_screens_become_grey_frames():
  screens = np.full((2, 210, 160, 3), [255, 0, 0], np.uint8)
  frames = minari_recordings.newest_frames(screens)
  assert frames.shape == (2, 84, 84)
  assert (frames == 76).all()  # 0.299 of 255: the weight of red in grey.
  with pytest.raises(ValueError, match=r'float32 \(84, 84\)'):
    minari_recordings.newest_frames(np.zeros((1, 84, 84), np.float32))

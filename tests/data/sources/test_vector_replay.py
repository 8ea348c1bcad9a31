"""Vector datasets: flat HDF5 and Minari, read, written and cut into transitions."""

import pathlib
import subprocess
import sys

import h5py
import minari
import numpy as np
import pytest

from implicit_rl import environments
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data.__main__ import main
from implicit_rl.data.formats import vector_files
from implicit_rl.data.replay import online_replay, replay_log
from implicit_rl.data.source import DataSource
from implicit_rl.data.sources import vector_replay
from implicit_rl.environments import mujoco
from implicit_rl.networks import MLP

ROOT = pathlib.Path(__file__).parents[3]


def transitions_of(episodes):
  """What can be learnt from: (state, action, reward, next state, discount), by a loop."""
  found = []
  for episode in episodes:
    steps = len(episode.reward)
    for t in range(steps):
      last = t == steps - 1
      followed = episode.observation[t + 1] if t + 1 < len(episode.observation) else None
      if last and episode.terminal:
        found.append((episode.observation[t], episode.action[t], episode.reward[t], None, 0.0))
      elif followed is not None:
        found.append((episode.observation[t], episode.action[t], episode.reward[t], followed, 1.0))
  return found


def assert_transitions(source: DataSource, episodes):
  batches = list(source.in_order(1000))
  assert len(batches) == 1
  (batch,) = batches
  expected = transitions_of(episodes)
  assert len(batch.reward) == len(expected) == len(source)
  for t, (state, action, reward, followed, discount) in enumerate(expected):
    np.testing.assert_array_equal(batch.state[t, 0], state)
    np.testing.assert_array_equal(batch.action[t], action)
    assert batch.reward[t] == reward and batch.discount[t] == discount
    if followed is not None:
      np.testing.assert_array_equal(batch.next_state[t, 0], followed)
  assert batch.action.dtype == np.float32


def test_a_cut_episode_looks_ahead_at_its_last_step(hopper_replay, hopper_episodes):
  source = vector_replay.VectorReplay(path=hopper_replay, fraction=1.0)
  assert_transitions(source, hopper_episodes)
  assert len(source) == sum(len(e.reward) for e in hopper_episodes)
  assert source.action_shape == (3,) and source.max_action == -1
  described = source.describe()
  assert described['game'] == 'Hopper' and described['dataset'] == 'Hopper-v5'


def test_a_fraction_is_of_single_transitions(hopper_replay, hopper_episodes):
  steps = sum(len(e.reward) for e in hopper_episodes)
  parts = [vector_replay.VectorReplay(path=hopper_replay, subset_seed=seed) for seed in (0, 0, 1)]
  assert {len(part) for part in parts} == {round(0.2 * steps)}
  hashes = [part.describe()['selection_sha256'] for part in parts]
  assert hashes[0] == hashes[1] != hashes[2]


def test_flat_files_of_others_are_read_without_what_follows(
  tmp_path, hopper_replay, hopper_episodes
):
  """D4RL's older files have no `next_observations`, some no `timeouts`."""
  with h5py.File(hopper_replay / vector_files.FILE) as file:
    arrays = {name: np.asarray(file[name]) for name in file}

  def written(*without):
    with h5py.File(tmp_path / 'other.hdf5', 'w') as file:
      for name, values in arrays.items():
        if name not in without:
          file[name] = values
    return tmp_path / 'other.hdf5'

  blind = [e._replace(observation=e.observation[:-1]) for e in hopper_episodes]
  settings = {'fraction': 1.0, 'observation_shape': (11,), 'action_shape': (3,)}
  source = vector_replay.VectorReplay(path=written('next_observations'), **settings)
  assert_transitions(source, blind)
  source = vector_replay.VectorReplay(path=written('timeouts'), **settings)
  assert_transitions(source, hopper_episodes)
  neither = written('timeouts', 'next_observations')
  with pytest.raises(ValueError, match=r'VectorReplay\.time_limit'):
    vector_replay.VectorReplay(path=neither)
  # A limit of ten steps cuts the falls' episodes too; what is read is cut the same way.
  cut = []
  for episode in blind:
    for at in range(0, len(episode.reward), 10):
      part = slice(at, at + 10)
      whole = at + 10 >= len(episode.reward) and episode.terminal
      cut.append(
        vector_files.VectorEpisode(
          episode.observation[part], episode.action[part], episode.reward[part], whole
        )
      )
  assert_transitions(vector_replay.VectorReplay(path=neither, time_limit=10, **settings), cut)
  with pytest.raises(ValueError, match='lacks terminals'):
    vector_replay.VectorReplay(path=written('terminals'))
  with pytest.raises(FileNotFoundError, match=r'No such file or folder: .*absent'):
    vector_replay.VectorReplay(path=tmp_path / 'absent')
  with pytest.raises(FileNotFoundError, match='holds neither'):
    vector_replay.VectorReplay(path=tmp_path)
  with pytest.raises(ValueError, match='shapes'):
    vector_replay.VectorReplay(path=hopper_replay, observation_shape=(17,), action_shape=(6,))


@pytest.mark.filterwarnings('ignore:`eval_env` is set to None')
def test_minari_there_and_back(tmp_path, monkeypatch, capsys, hopper_replay, hopper_episodes):
  """Written by our command, read by Minari's own library and by us."""
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
  arguments = ['minari', str(hopper_replay), 'mujoco/hopper/test-v0', '--author=nobody']
  assert main(arguments) == 0
  folder = tmp_path / 'mujoco' / 'hopper' / 'test-v0'
  assert str(folder) in capsys.readouterr().out
  loaded = minari.load_dataset('mujoco/hopper/test-v0')
  assert loaded.spec.env_spec.id == 'Hopper-v5'
  for found, expected in zip(loaded.iterate_episodes(), hopper_episodes, strict=True):
    np.testing.assert_array_equal(found.observations, expected.observation)
    np.testing.assert_array_equal(found.actions, expected.action)
    np.testing.assert_array_equal(found.rewards, expected.reward)
    assert found.terminations[-1] == expected.terminal == (not found.truncations[-1])
    assert not found.terminations[:-1].any() and not found.truncations[:-1].any()
  source = vector_replay.VectorReplay(path=folder, fraction=1.0)
  assert_transitions(source, hopper_episodes)
  assert source.describe()['game'] == 'Hopper'
  assert main(arguments) == 1  # It is there already.
  assert 'error:' in capsys.readouterr().err


_OWN_TASK = """
import gymnasium
import numpy as np


class Line(gymnasium.Env):
  observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)

  def reset(self, *, seed=None, options=None):
    return np.zeros(2, np.float32), {}


gymnasium.register('OwnLine-v0', entry_point='own_line_task:Line', max_episode_steps=5)
gymnasium.register('OwnClass-v0', entry_point=Line, max_episode_steps=5)
"""


@pytest.mark.filterwarnings('ignore:`eval_env` is set to None')
def test_minari_of_a_task_of_ones_own(tmp_path, monkeypatch, capsys):
  """The log names 'module:Id', whose module gymnasium imports; --environment overrides it."""
  (tmp_path / 'own_line_task.py').write_text(_OWN_TASK)
  monkeypatch.syspath_prepend(tmp_path)
  datasets = tmp_path / 'minari'
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(datasets))
  episode = vector_files.VectorEpisode(
    np.ones((4, 2), np.float32), np.array([0, 1, 1]), np.ones(3, np.float32), True
  )

  def log(task):
    path = tmp_path / 'log.hdf5'
    vector_files.write_flat(path, [episode], {'environment': task})
    return str(path)

  refused = {
    'own_line_task:Absent-v0': 'Absent',
    'absent_module:OwnLine-v0': 'absent_module',
    'own_line_task:OwnClass-v0': 'allable',
  }
  for task, why in refused.items():
    assert main(['minari', log(task), 'own/line-v0']) == 1
    message = capsys.readouterr().err
    assert repr(task) in message and why in message and '--environment' in message
    assert message.count('\n') == 1 and not list(datasets.rglob('*'))
  assert main(['minari', log('own_line_task:OwnLine-v0'), 'own/line-v0']) == 0
  chosen = ['minari', log('gone:Line-v0'), 'own/line-v1', '--environment=own_line_task:OwnLine-v0']
  assert main(chosen) == 0
  for name in ('own/line-v0', 'own/line-v1'):
    loaded = minari.load_dataset(name)
    assert loaded.spec.env_spec.id == 'OwnLine-v0'
    np.testing.assert_array_equal(loaded[0].observations, episode.observation)


@pytest.mark.filterwarnings('ignore:`eval_env` is set to None', 'ignore:env_spec is None')
def test_minari_datasets_of_other_kinds(tmp_path, monkeypatch):
  """Observations that are dictionaries, actions that are discrete."""
  import gymnasium
  from minari.data_collector import EpisodeBuffer

  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
  rng = np.random.default_rng(0)
  box = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
  seen = {name: rng.normal(size=(5, 2)).astype(np.float32) for name in ('goal', 'place')}
  minari.create_dataset_from_buffers(
    'maze/test-v0',
    [
      EpisodeBuffer(
        observations=seen,
        actions=rng.integers(0, 3, 4),
        rewards=rng.normal(size=4),
        terminations=[False] * 4,
        truncations=[False] * 3 + [True],
      )
    ],
    observation_space=gymnasium.spaces.Dict({'goal': box, 'place': box}),
    action_space=gymnasium.spaces.Discrete(3),
    algorithm_name='random',
    code_permalink='none',
    author='none',
    author_email='none',
    description='noise',
  )
  source = vector_replay.VectorReplay(path=tmp_path / 'maze' / 'test-v0', fraction=1.0)
  (batch,) = source.in_order(10)
  together = np.concatenate([seen['goal'], seen['place']], axis=1)
  np.testing.assert_array_equal(batch.state[:, 0], together[:4])
  np.testing.assert_array_equal(batch.next_state[:, 0], together[1:])
  assert batch.action.dtype == np.int32 and source.max_action <= 2 and source.action_shape == ()


def test_the_log_of_a_run_becomes_a_dataset(tmp_path, hopper_episodes):
  log = replay_log.ReplayLog(tmp_path / 'log')
  replay = online_replay.OnlineReplay(
    (11,), np.float32, stack_size=1, update_horizon=1, gamma=0.99, action_shape=(3,), capacity=500
  )
  for iteration, part in enumerate((hopper_episodes[:2], hopper_episodes[2:])):
    first = replay.added
    for episode in part:
      for t in range(len(episode.reward)):
        end = t == len(episode.reward) - 1
        replay.add(
          episode.observation[t],
          episode.action[t],
          episode.reward[t],
          terminal=end and episode.terminal,
          episode_end=end,
        )
    rows = replay_log.Rows(**replay.rows(first, replay.added))
    finals = np.stack([episode.observation[-1] for episode in part])
    log.write(iteration, rows._replace(final_observation=finals))
  # In the replay itself a cut episode's last step starts no transition, and none ends there.
  assert len(replay) == sum(len(e.reward) - (not e.terminal) for e in hopper_episodes)
  batch = replay.fixed_batch(200)
  assert batch.action.shape == (200, 3) and batch.next_action.dtype == np.float32
  assert set(batch.discount.tolist()) == {0.0, 1.0}
  hopper = mujoco.MuJoCoEnvironment('Hopper')
  dataset = replay_log.Dataset.of(hopper, environments.check(hopper), run=1)
  assert not log.is_exported(tmp_path / 'replay')
  folder = log.export(tmp_path / 'replay', dataset)
  assert log.is_exported(tmp_path / 'replay') and folder.name == 'Hopper_run_1'
  assert vector_files.read(folder).about == {
    'dataset': 'Hopper-v5',
    'environment': 'Hopper-v5',
    'game': 'Hopper',
    'run': 1,
  }
  assert_transitions(vector_replay.VectorReplay(path=folder, fraction=1.0), hopper_episodes)
  with pytest.raises(FileExistsError, match='overwrite'):
    vector_files.write_dataset(tmp_path / 'replay', 'mujoco', 'Hopper_run_1', [])
  with pytest.raises(ValueError, match='must be names'):
    vector_files.check_config('mujoco', '../Hopper_run_1')


def test_a_log_without_last_observations_is_written_without_what_follows(tmp_path, hopper_episodes):
  """As a compiled loop logs it; a cut episode's last step then starts no transition."""
  rows = [
    (
      0,
      {
        'observation': episode.observation[:-1],
        'action': episode.action,
        'reward': episode.reward,
        'terminal': np.arange(len(episode.reward)) == len(episode.reward) - 1
        if episode.terminal
        else np.zeros(len(episode.reward), bool),
      },
    )
    for episode in hopper_episodes
  ]
  folder = vector_files.write_dataset(tmp_path, 'mine', 'Robot_run_2', rows)
  expected = [e._replace(observation=e.observation[:-1]) for e in hopper_episodes]
  replay = vector_replay.VectorReplay(path=folder, fraction=1.0)
  assert_transitions(replay, expected)
  assert replay.describe()['dataset'] == 'mine/Robot_run_2' and replay.identity()['game'] == 'Robot'


def test_agents_and_data_of_different_kinds_are_refused(hopper_replay):
  def source(**settings):
    return vector_replay.VectorReplay(path=hopper_replay, **settings)

  with pytest.raises(ValueError, match=r'shape \(3,\), one of the agent \(\)'):
    DQNAgent(3, (11,), np.float32, 1, source, network=MLP)


def test_reading_vectors_loads_no_environment():
  code = 'import sys; from implicit_rl.data.sources import vector_replay; print(*sys.modules)'
  loaded = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  assert 'implicit_rl.data.formats.vector_files' in loaded
  assert not [name for name in loaded if name.startswith(('gymnasium', 'implicit_rl.environments'))]

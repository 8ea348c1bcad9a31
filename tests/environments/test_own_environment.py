"""The environment that docs/extending.md shows, from a folder outside the repository, in real runs.

It trains online, evaluates, logs its replay, trains offline on that log, is killed and resumes. And
environments that have only what is required, or less.
"""

import json
import re
import time

import h5py
import numpy as np
import pytest

from implicit_rl import environments
from implicit_rl.data import source
from implicit_rl.data.replay import replay_log
from implicit_rl.data.sources import tfds_replay, vector_replay
from implicit_rl.environments import atari, minatar, mujoco
from implicit_rl.logs import checkpoints
from tests.command_line import refusal, run
from tests.faults import processes
from tests.test_docs import DOCS, block

SHORT = {
  'OnlineReplay.capacity': 1000,
  'Agent.min_replay_history': 40,
  'Agent.batch_size': 4,
  'MLP.hidden_units': (16, 16),
  'OnlineRunner.training_steps': 100,
  'OnlineRunner.num_iterations': 3,
  'OnlineRunner.evaluation_steps': 60,
  'OnlineRunner.measure_size': 32,
}


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """A folder with the files that the page shows, and with less."""
  folder = tmp_path_factory.mktemp('mine')
  for name in ('my_games.py', 'my_games.gin', 'my_games_offline.gin'):
    (folder / name).write_text(block('extending.md', name))
  (folder / 'my_lamps.py').write_text(LAMPS)
  text = (folder / 'my_games.gin').read_text()
  for old, new in (
    ("GymGame.game = 'CartPole-v1'\n", ''),
    ('OnlineRunner.log_replay = True\n', ''),
    ('my_games', 'my_lamps'),
    ('GymGame', 'Least'),
  ):
    assert old in text
    text = text.replace(old, new)
  (folder / 'my_lamps.gin').write_text(text + 'import implicit_rl.data.replay.device_replay\n')
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    yield folder


@pytest.mark.exhaustive
def test_it_trains_evaluates_logs_is_killed_and_resumes(page, tmp_path):
  """After SIGKILL in its second iteration it ends bit for bit as the run that was left alone."""
  gin_file = page / 'my_games.gin'
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  endless = SHORT | {'OnlineRunner.num_iterations': 10_000}
  process = processes.start(killed, gin_file, endless)
  saved = killed / 'checkpoints'
  begun = processes.wait_for(lambda: saved.is_dir() and checkpoints.newest(saved), process)
  assert begun, processes.output(killed)
  time.sleep(0.05)
  process.kill()
  process.join()
  done = len(processes.rows(killed))
  assert done >= 1
  more = SHORT | {'OnlineRunner.num_iterations': done + 2}
  for base_dir in (killed, whole):
    assert processes.finish(base_dir, gin_file, more) == 0, processes.output(base_dir)
  rows = processes.rows(whole)
  assert [row['iteration'] for row in rows] == list(range(done + 2))
  assert all(row['eval_return'] >= 8 and row['eval_episodes'] >= 1 for row in rows)
  assert rows[-1]['updates'] == (rows[-1]['environment_steps'] - 40) // 4
  processes.assert_same_run(killed, whole)
  logs = [base / 'replay' / 'gymnasium' / 'CartPole-v1_run_1' for base in (killed, whole)]
  with h5py.File(logs[0] / 'transitions.hdf5') as a, h5py.File(logs[1] / 'transitions.hdf5') as b:
    assert a.keys() == b.keys() and dict(a.attrs) == dict(b.attrs)
    assert a.attrs['game'] == 'CartPole-v1'
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
    assert len(a['rewards']) == rows[-1]['environment_steps']


@pytest.mark.exhaustive
def test_it_trains_offline_on_what_it_logged(page, tmp_path):
  """Every step of the log is one that the rules of the game take."""
  online = tmp_path / 'online'
  (_, last) = run(online, page / 'my_games.gin', **SHORT | {'OnlineRunner.num_iterations': 2})
  folder = online / 'replay' / 'gymnasium' / 'CartPole-v1_run_1'
  (batch,) = vector_replay.VectorReplay(path=folder, fraction=1.0).in_order(10_000)
  assert len(batch.reward) == last['environment_steps'] and set(batch.reward.tolist()) == {1.0}
  x, v, angle, w = batch.state[:, 0].T.astype(np.float64)
  x_next, _, angle_next, _ = batch.next_state[:, 0].T.astype(np.float64)
  goes_on = batch.discount == 1
  np.testing.assert_allclose((x + 0.02 * v)[goes_on], x_next[goes_on], atol=1e-5)  # Euler's step
  np.testing.assert_allclose((angle + 0.02 * w)[goes_on], angle_next[goes_on], atol=1e-5)
  rows = run(
    tmp_path / 'offline',
    page / 'my_games_offline.gin',
    **{
      'VectorReplay.path': repr(str(folder)),
      'OfflineRunner.num_iterations': 2,
      'OfflineRunner.training_steps': 6,
      'OfflineRunner.evaluation_steps': 20,
      'OfflineRunner.measure_size': 32,
      'MLP.hidden_units': (16, 16),
    },
  )
  assert [row['updates'] for row in rows] == [6, 12]
  assert [row['eval_return'] for row in rows] == [5, 5]  # Cut there.
  (start,) = json.loads((tmp_path / 'offline' / 'run.json').read_text())['starts']
  assert start['environment'] == start['dataset']['game'] == 'CartPole-v1'
  assert start['dataset']['dataset'] == 'gymnasium/CartPole-v1_run_1'


LAMPS = '''
import gin
import numpy as np


@gin.configurable(denylist=['seed'])
class Least:
  """A picture of a lamp that action 1 switches; an episode is three steps."""

  name = 'Lamp'
  num_actions = 2
  observation_shape = (3, 2)
  observation_dtype = np.uint8
  stack_size = 2
  max_steps_per_episode = 7
  game_over = False

  def __init__(self, seed=0):
    del seed

  def reset(self):
    self.game_over, self._on, self._steps = False, 0, 0
    return self._picture()

  def step(self, action):
    self._on = (self._on + action) % 2
    self._steps += 1
    self.game_over = self._steps == 3
    return self._picture(), float(self._on), self.game_over, {}

  def _picture(self):
    return np.full((3, 2), 200 * self._on, np.uint8)


@gin.configurable
class Unseeded(Least):
  """The same, and takes no seed."""

  def __init__(self):
    super().__init__()


@gin.configurable(denylist=['seed'])
class Logged(Least):
  """The same, with a name for its data."""

  dataset = 'lamps'


@gin.configurable(denylist=['seed'])
class Cut(Least):
  """The same, cut off after two steps by a limit of its own."""

  truncated = False

  def step(self, action):
    assert not self.truncated, 'It was cut off.'
    stepped = super().step(action)
    self.truncated = self._steps == 2
    return stepped

  def reset(self):
    self.truncated = False
    return super().reset()


@gin.configurable(denylist=['seed'])
class Push(Cut):
  """A point on a line that a continuous action pushes; the reward is where it was."""

  num_actions = 1
  action_shape = (1,)
  observation_shape = (1,)
  observation_dtype = np.float32
  stack_size = 1
  dataset = 'points'

  def reset(self):
    self._at = 0.25
    super().reset()
    return np.array([self._at])

  def step(self, action):
    assert action.shape == (1,) and -1 <= action[0] <= 1
    reward, self._at = self._at, self._at + 0.5 * float(action[0])
    super().step(0)
    return np.array([self._at]), reward, self.game_over, {}
'''


@pytest.fixture
def lamp(page):
  """A gin file that trains in the least environment there can be."""
  return page / 'my_lamps.gin'


LAMP = SHORT | {'OnlineRunner.training_steps': 60, 'OnlineRunner.num_iterations': 1}


def test_the_least_environment_trains_and_evaluates(lamp, tmp_path):
  (row,) = run(tmp_path / 'run', lamp, **LAMP)
  assert row['environment_steps'] == 60 and row['train_episodes'] == 20 and row['updates'] == 5
  assert row['eval_episodes'] == 20 and 0 <= row['eval_return'] <= 3


def test_an_environment_may_cut_its_episodes(lamp, tmp_path):
  cut = {'Experiment.environment': '@my_lamps.Cut'}
  (row,) = run(tmp_path / 'run', lamp, **LAMP | cut)
  assert row['train_episodes'] == 30 and row['eval_episodes'] == 30
  _, tree = checkpoints.load_newest(tmp_path / 'run' / 'checkpoints')
  replay = tree['agent']['source']
  assert replay['episode_end'].sum() == 30 and not replay['terminal'].any()


def test_images_of_ones_own_are_logged_and_read(lamp, tmp_path):
  logged = {'Experiment.environment': '@my_lamps.Logged', 'OnlineRunner.log_replay': True}
  run(tmp_path / 'run', lamp, **LAMP | logged)
  lamps = tfds_replay.TFDSReplay(
    stack_size=2,
    update_horizon=1,
    gamma=0.99,
    observation_shape=(3, 2),
    dataset='lamps',
    game='Lamp',
    data_dir=tmp_path / 'run' / 'replay',
    fraction=1.0,
  )
  (batch,) = lamps.in_order(1000)
  assert len(batch.reward) == 60 and lamps.observation_dtype == np.uint8
  seen = batch.state[:, -1, 0, 0] // 200
  np.testing.assert_array_equal((seen + batch.action) % 2, batch.reward)
  assert (batch.discount == 0).sum() == 20 and set(np.unique(batch.state)) == {0, 200}


@pytest.mark.exhaustive
def test_continuous_actions_train_and_are_logged_and_read(lamp, tmp_path):
  gin_file = tmp_path / 'push.gin'
  gin_file.write_text(
    'import implicit_rl.agents.sac\nimport implicit_rl.data.sources.vector_replay\n'
  )
  push = {
    'Experiment.environment': '@my_lamps.Push',
    'Experiment.agent': '@sac.SACAgent',
    'Agent.network': '@networks.ActorCritic',
    'networks.ActorCritic.hidden_units': (8, 8),
    **LOG,
  }
  (row,) = run(tmp_path / 'run', lamp, gin_file, **LAMP | push)
  assert row['train_episodes'] == 30 and row['updates'] == 5 and np.isfinite(row['eval_return'])
  folder = tmp_path / 'run' / 'replay' / 'points' / 'Lamp_run_1'
  replay = vector_replay.VectorReplay(path=folder, fraction=1.0, action_shape=(1,))
  (batch,) = replay.in_order(1000)
  assert len(batch.reward) == 60 and (batch.discount == 1).all()
  np.testing.assert_array_equal(batch.reward, batch.state[:, 0, 0])
  moved = batch.state[:, 0] + 0.5 * batch.action
  np.testing.assert_allclose(batch.next_state[:, 0], moved, rtol=1e-5, atol=1e-6)


LOG = {'OnlineRunner.log_replay': True}
LONG = {'OnlineRunner.max_steps_per_episode': 2000}  # Longer than the environment's 7.
OWN = {'evaluate': lambda *arguments: None}  # What plays by itself is not tried.


@pytest.mark.parametrize(
  ('changes', 'settings', 'expected'),
  [
    ({'game_over': None, 'num_actions': None}, {}, 'Least lacks num_actions, game_over; docs/ext'),
    ({'reset': lambda self: (np.zeros((3, 2)), {})}, {}, r'reset\(\) must return an obs.*a tuple'),
    ({'step': lambda self, action: (0, 0.0, False, False, {})}, {}, r'info\), got 5 values\. Set'),
    ({'step': lambda self: None}, {}, r'Least\.step is called with 1 arguments: too many'),
    ({'evaluate': lambda self, policy: None}, {}, r'evaluate is called with 6 arguments: too many'),
    ({'step': 3}, {}, r'Least\.step must be a method, got 3'),
    ({'num_actions': 2.0}, {}, r'Least\.num_actions must be an int of at least 1, got 2\.0'),
    ({'state_dict': dict}, {}, 'it needs both or neither'),
    ({'rules': 3}, {}, r'Least\.rules must have start and advance, got 3'),
    ({'action_shape': (3,)}, {}, r'action_shape must be \(\) or .* = \(2,\), got \(3,\)'),
    ({'action_shape': (2,), **OWN}, {}, r'DQNAgent chooses actions of shape \(\).*of shape \(2,\)'),
    ({'observation_shape': (4, 2)}, {}, r'returned uint8 of shape \(3, 2\).*\(4, 2\)'),
    ({}, {'Experiment.environment': '@my_lamps.Unseeded'}, 'Unseeded takes no seed'),
    ({}, LOG, 'log_replay: Least names no dataset'),
    ({'dataset': 'lamps'}, LOG | LONG, 'holds a whole iteration, 2060 rows'),
    ({'dataset': 'My lamps'}, LOG, 'must be lower-case'),
    (
      {'dataset': 'lamps', 'action_shape': (2,), **OWN},
      LOG,
      r'continuous actions .* shape \(3, 2\)',
    ),
    (
      {},
      {'Agent.source': '@DeviceReplay'},
      'Lamp does not run in a compiled loop',
    ),
  ],
)
def test_what_is_missing_is_named_before_anything_is_trained(
  lamp, tmp_path, monkeypatch, changes, settings, expected
):
  import my_lamps

  for name, value in changes.items():
    if value is None:
      monkeypatch.delattr(my_lamps.Least, name)
    else:
      monkeypatch.setattr(my_lamps.Least, name, value, raising=False)
  message = refusal(tmp_path / 'run', lamp, **LAMP | settings)
  assert re.search(expected, message), message


def test_shipped_environments_conform():
  for made in (
    atari.AtariEnvironment('Pong'),
    minatar.MinAtarEnvironment('Asterix'),
    mujoco.MuJoCoEnvironment('Hopper'),
  ):
    able = environments.check(made)
    assert able.seed and able.evaluate and able.state_dict and able.truncated
    assert (able.rules is not None) == (made.name == 'Asterix')
    assert able.action_shape == ((3,) if made.name == 'Hopper' else ())
    assert replay_log.Dataset.of(made, able, run=1).vectors == (made.name == 'Hopper')


def test_the_page_names_every_member():
  text = (DOCS / 'extending.md').read_text()
  tables = '\n'.join(line for line in text.splitlines() if line.startswith('|'))
  optional = environments.members(environments.Capabilities)
  optional.remove('over')  # What runners ask; the environment does not have it.
  required = environments.members(environments.Environment)
  assert len(required) >= 9 and len(optional) >= 9
  for name in required + optional + source.members():
    assert re.search(rf'`{name}[`(]', tables), name

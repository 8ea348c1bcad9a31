"""gymnasium: episodes against gymnasium itself, time limits, spaces, images, and the gin files."""

import shlex
import time

import gin
import gymnasium
import h5py
import jax
import numpy as np
import pytest
from gymnasium import spaces

from implicit_rl import environments
from implicit_rl.data.replay import replay_log
from implicit_rl.data.sources import vector_replay
from implicit_rl.environments.gymnasium import GymnasiumEnvironment
from implicit_rl.logs import checkpoints
from implicit_rl.running import experiment
from tests.command_line import ROOT, run
from tests.faults import processes

KEY = jax.random.key(3)


def act_alternately(params, states, key):
  """Numbered actions that depend on the parameters, the newest observation and the key."""
  up = states[:, -1].reshape(len(states), -1)[:, 0] > 0
  return (up + params + jax.random.randint(key, up.shape, 0, 2)) % 2


@pytest.mark.parametrize('task', ['CartPole-v1', 'LunarLander-v3', 'Pendulum-v1', 'Taxi-v4'])
def test_trajectories_are_gymnasiums_own(task):
  """The same seed and actions give what the task of gymnasium returns, converted."""
  made, raw = GymnasiumEnvironment(task, seed=7), gymnasium.make(task)
  rng = np.random.default_rng(0)
  expected, _ = raw.reset(seed=7)
  observation = made.reset()
  for _ in range(200):
    expected = np.eye(500)[expected] if task == 'Taxi-v4' else expected
    np.testing.assert_array_equal(observation, np.asarray(expected, np.float32))
    assert observation.dtype == made.observation_dtype == np.float32
    assert observation.shape == made.observation_shape
    action = given = rng.integers(made.num_actions)
    if made.action_shape:
      action = rng.uniform(-1, 1, made.action_shape).astype(np.float32)
      given = 2 * action  # Pendulum's torque reaches from −2 to 2.
    expected, expected_reward, terminated, truncated, _ = raw.step(given)
    observation, reward, over, _ = made.step(action)
    assert (reward, over, made.game_over) == (float(expected_reward), terminated, terminated)
    assert made.truncated == (truncated and not terminated)
    if terminated or truncated:
      break
  assert terminated or truncated


def test_a_time_limit_truncates_and_a_fall_terminates():
  made = GymnasiumEnvironment('CartPole-v1', max_steps_per_episode=5)
  assert made.max_steps_per_episode == 5
  made.reset()
  assert [made.step(t % 2)[2] for t in range(5)] == [False] * 5
  assert made.truncated and not made.game_over
  made = GymnasiumEnvironment('CartPole-v1')
  assert made.max_steps_per_episode == 500
  made.reset()
  while not made.game_over:  # Pushed to one side only, it falls.
    made.step(1)
  assert not made.truncated
  made = GymnasiumEnvironment('CartPole-v1', max_steps_per_episode=made._actions.count(1))
  made.reset()
  while not made.game_over:  # It falls in the very step that the limit would have been the last.
    made.step(1)
  assert not made.truncated


def test_evaluation_is_a_loop_over_episodes():
  made = GymnasiumEnvironment('CartPole-v1', num_environments=3)
  returns, lengths = made.evaluate(act_alternately, 0, KEY, 100)
  assert len(returns) % 3 == 0 and lengths.sum() >= 100 > lengths[:-3].sum()
  raw = gymnasium.make('CartPole-v1')
  act = jax.jit(act_alternately)
  for number, (found, length) in enumerate(zip(returns, lengths, strict=True)):
    key = jax.random.fold_in(KEY, number // 3)
    seed = int(jax.random.bits(key, (3,), 'uint32')[number % 3])
    observation, steps, over = raw.reset(seed=seed)[0], 0, False
    while not over:
      states = np.tile(observation, (3, 1, 1))
      action = np.asarray(act(0, states, jax.random.fold_in(key, steps)))[number % 3]
      observation, _, terminated, truncated, _ = raw.step(int(action))
      steps, over = steps + 1, terminated or truncated
    assert found == length == steps
  _, lengths = made.evaluate(act_alternately, 0, KEY, 1, 4)
  assert (lengths == 4).all()


@pytest.mark.parametrize('task', ['LunarLander-v3', 'Pendulum-v1'])
def test_an_episode_that_is_restored_goes_on_as_the_one_that_was_not(task):
  one, other = GymnasiumEnvironment(task, seed=3), GymnasiumEnvironment(task, seed=8)
  rng = np.random.default_rng(0)

  def play(made, actions):
    seen = []
    for action in actions:
      seen.append((made.step(action)[:3], made.truncated))
      if made.game_over or made.truncated:
        seen.append(made.reset())
    return seen

  def draw(count):
    if one.action_shape:
      return rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    return rng.integers(one.num_actions, size=count)

  one.reset()
  play(one, draw(250))
  saved = one.state_dict()
  assert 0 < len(saved['actions']) < 250 and saved['episodes'] > 1
  other.load_state_dict(saved)
  actions = draw(250)
  assert repr(play(one, actions)) == repr(play(other, actions))
  other.seed(3)
  np.testing.assert_array_equal(other.reset(), GymnasiumEnvironment(task, seed=3).reset())


def test_pictures_are_shrunk_greyed_and_stacked():
  settings = {'pixels': True, 'grey': True, 'image_size': 84, 'stack_size': 2}
  made = GymnasiumEnvironment('CartPole-v1', num_environments=2, **settings)
  assert made.observation_shape == (84, 84) and made.observation_dtype == np.uint8
  picture = made.reset()
  assert picture.shape == (84, 84) and 0 < picture.std()
  assert not replay_log.Dataset.of(made, environments.check(made), run=1).vectors
  seen = []

  def act(params, states, key):
    jax.debug.callback(lambda s: seen.append(np.asarray(s)), states, ordered=True)
    return np.ones(2, np.int32)

  made.evaluate(act, None, KEY, 1, 3)
  jax.effects_barrier()
  assert [s.shape for s in seen] == [(2, 2, 84, 84)] * 3
  assert not seen[0][:, 0].any()  # Nothing was seen before an episode's first frame.
  np.testing.assert_array_equal(seen[1][:, 0], seen[0][:, 1])
  np.testing.assert_array_equal(seen[2][:, 0], seen[1][:, 1])
  coloured = GymnasiumEnvironment('CartPole-v1', pixels=True)
  assert len(coloured.observation_shape) == 3 and coloured.observation_shape[2] == 3


def test_pictures_for_watching_are_gymnasiums_and_change_nothing():
  made, raw = (
    GymnasiumEnvironment('CartPole-v1', seed=7),
    gymnasium.make('CartPole-v1', render_mode='rgb_array'),
  )
  for _ in range(2):
    made.seed(7)
    made.reset(), raw.reset(seed=7)
    for t in range(6):
      observation, expected = made.step(t % 3 % 2)[0], raw.step(t % 3 % 2)[0]
      np.testing.assert_array_equal(observation, expected)
      if t % 2:
        picture = made.render()
        assert picture.dtype == np.uint8 and picture.shape == (400, 600, 3)
        np.testing.assert_array_equal(picture, raw.render())


class Odd(gymnasium.Env):
  """A task with the spaces it is given; an episode has no end."""

  def __init__(self, action_space=None, observation_space=None):
    self.action_space = action_space or spaces.Discrete(3, start=-1)
    self.observation_space = observation_space or spaces.Dict(
      {'place': spaces.Box(-1, 1, (2, 2)), 'door': spaces.Discrete(3)}
    )

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    return {'place': np.full((2, 2), 0.5, np.float32), 'door': 2}, {}

  def step(self, action):
    return self.reset()[0], float(np.sum(action)), False, False, {}


@pytest.fixture(scope='module', autouse=True)
def odd():
  gymnasium.register('Odd-v0', Odd)
  yield
  del gymnasium.registry['Odd-v0']


def test_dictionaries_and_shifted_or_scaled_actions():
  made = GymnasiumEnvironment('Odd-v0', max_steps_per_episode=9)
  environments.check(made)
  assert made.num_actions == 3 and made.action_shape == ()
  np.testing.assert_array_equal(made.reset(), [0, 0, 1, 0.5, 0.5, 0.5, 0.5])  # Keys in order.
  assert [made.step(action)[1] for action in range(3)] == [-1, 0, 1]
  bounds = np.array([0, -4], np.float32), np.array([1, 8], np.float32)
  box = {'action_space': spaces.Box(*bounds)}
  made = GymnasiumEnvironment('Odd-v0', arguments=box, max_steps_per_episode=9)
  assert made.action_shape == (2,) and made.num_actions == 2
  made.reset()
  for action, total in ((-1, -4), (0, 2.5), (1, 9)):
    assert made.step(np.full(2, action, np.float32))[1] == total


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'task': 'CartPol-v1'}, "task = 'CartPol-v1': .*[Dd]id you mean.*CartPole"),
    ({'task': 'no_module:X-v0'}, "task = 'no_module:X-v0': .*no_module"),
    (
      {'arguments': {'sails': 3}},
      r"'CartPole-v1' with arguments \{'sails': 3\}: .*sails",
    ),
    ({'task': 'Odd-v0'}, 'no time limit. Bind GymnasiumEnvironment.max_steps_per_ep'),
    (
      {'task': 'Odd-v0', 'arguments': {'action_space': spaces.MultiDiscrete([2, 2])}},
      r'takes actions of MultiDiscrete\(\[2 2\]\)',
    ),
    (
      {'task': 'Odd-v0', 'arguments': {'action_space': spaces.Box(-np.inf, 1, (2,))}},
      'continuous ones with finite bounds',
    ),
    (
      {'task': 'Odd-v0', 'arguments': {'observation_space': spaces.Sequence(spaces.Discrete(2))}},
      'shows Sequence.*no fixed length',
    ),
    ({'grey': True}, 'are for images; CartPole-v1 shows Box.*pixels = True'),
    ({'stack_size': 0}, 'GymnasiumEnvironment.stack_size must be .*at least 1, got 0'),
    ({'num_environments': 'ten'}, 'GymnasiumEnvironment.num_environments'),
  ],
)
def test_bad_settings_end_in_one_clear_line(settings, message):
  with pytest.raises(ValueError, match=message) as raised:
    GymnasiumEnvironment(**settings)
  assert str(raised.value).count('\n') == 1  # gin says in the second whom it called.


FILES = sorted(path.name for path in (ROOT / 'gin_configs' / 'gymnasium').glob('*.gin'))


@pytest.mark.parametrize('name', FILES)
def test_the_gin_files_name_tasks_and_offline_ones_the_log_of_online_ones(name):
  experiment.parse_gin([str(ROOT / 'gin_configs' / 'gymnasium' / name)], [])
  made = GymnasiumEnvironment(seed=0)
  assert name.replace('online', 'offline') in FILES
  assert bool(made.action_shape) == ('sac' in name)
  if 'offline' in name:
    folder = replay_log.Dataset.of(made, environments.check(made), run=1).config
    if 'images' in name:
      assert gin.query_parameter('TFDSReplay.dataset') == made.dataset
      return
    assert gin.query_parameter('VectorReplay.path').endswith(f'/replay/gymnasium/{folder}')


SHORT = {
  'Agent.min_replay_history': 40,
  'Agent.batch_size': 4,
  'MLP.hidden_units': (16, 16),
  'networks.ActorCritic.hidden_units': (16, 16),
}
ONLINE = {
  'num_iterations': 2,
  'training_steps': 60,
  'evaluation_steps': 20,
  'max_steps_per_episode': 30,
  'measure_size': 16,
}


def settings(runner, **changes):
  return {f'{runner}.{name}': value for name, value in (ONLINE | changes).items()}


def log_of(base_dir):
  (folder,) = (base_dir / 'replay' / 'gymnasium').iterdir()
  with h5py.File(folder / 'transitions.hdf5') as file:
    return folder, {name: np.asarray(file[name]) for name in file}


def test_it_is_killed_resumed_and_trains_offline_on_its_own_log(tmp_path):
  """After SIGKILL it ends bit for bit as the run that was left alone; so does what it logged."""
  gin_file = 'gin_configs/gymnasium/online_dqn.gin'
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  online = SHORT | settings('OnlineRunner')
  del online['networks.ActorCritic.hidden_units']
  process = processes.start(killed, gin_file, online | {'OnlineRunner.num_iterations': 10_000})
  saved = killed / 'checkpoints'
  begun = processes.wait_for(lambda: saved.is_dir() and checkpoints.newest(saved), process)
  assert begun, processes.output(killed)
  time.sleep(0.05)
  process.kill()
  process.join()
  done = len(processes.rows(killed))
  more = online | {'OnlineRunner.num_iterations': done + 2}
  for base_dir in (killed, whole):
    assert processes.finish(base_dir, gin_file, more) == 0, processes.output(base_dir)
  processes.assert_same_run(killed, whole)
  folder, logged = log_of(killed)
  _, expected = log_of(whole)
  assert logged.keys() == expected.keys()
  for name, values in logged.items():
    np.testing.assert_array_equal(values, expected[name])
  (batch,) = vector_replay.VectorReplay(path=folder, fraction=1.0).in_order(10**6)
  assert len(batch.reward) == processes.rows(killed)[-1]['environment_steps']
  raw = gymnasium.make('CartPole-v1').unwrapped
  raw.reset(seed=0)
  for row in range(0, len(batch.reward), 7):  # Each step is one that gymnasium takes.
    raw.state, raw.steps_beyond_terminated = batch.state[row, 0].astype(np.float64), None
    after, reward, terminated, _, _ = raw.step(int(batch.action[row]))
    assert (reward, 1 - terminated) == (batch.reward[row], batch.discount[row])
    if not terminated:
      np.testing.assert_allclose(batch.next_state[row, 0], after, rtol=1e-5, atol=1e-5)
  offline = settings('OfflineRunner', training_steps=3) | {'MLP.hidden_units': (16, 16)}
  offline |= {'VectorReplay.path': repr(str(folder))}
  rows = run(tmp_path / 'offline', gin_file.replace('online', 'offline'), **offline)
  assert [row['updates'] for row in rows] == [3, 6] and rows[-1]['eval_return'] >= 8


@pytest.mark.exhaustive
def test_a_log_of_images_trains_offline_with_what_the_run_printed(tmp_path, capsys):
  """Of a task whose name differs from the folder's, as 'my_module:MyGame-v0' does."""
  task, pixels = 'gymnasium:CartPole-v1', {'pixels': True, 'grey': True, 'image_size': 16}
  made = GymnasiumEnvironment(task, **pixels)
  frames = [made.reset(), *(made.step(t % 2)[0] for t in range(7))]
  steps = np.arange(8)
  episode = {
    'observation': np.stack(frames),
    'action': (steps % 2).astype(np.int32),
    'reward': np.ones(8, np.float32),
    'terminal': steps == 7,
  }
  dataset = replay_log.Dataset.of(made, environments.check(made), run=2)
  path = dataset.write(tmp_path / 'replay', [(0, episode), (1, episode)])
  data_dir, *printed = shlex.split(dataset.how_to_read(tmp_path / 'replay', path))
  assert data_dir == f'--data_dir={tmp_path / "replay"}'
  bindings = dict(line.removeprefix('--gin_bindings=').split(' = ') for line in printed)
  bindings |= {f'GymnasiumEnvironment.{name}': value for name, value in pixels.items()}
  (row,) = run(
    tmp_path / 'offline',
    'gin_configs/gymnasium/offline_images_dqn.gin',
    data_dir=tmp_path / 'replay',
    **bindings,
    **{
      'GAME': repr(task),
      'GymnasiumEnvironment.num_environments': 1,
      'NatureCNN.hidden_units': 8,
    },
  )
  assert row['updates'] == 2 and row['eval_return'] >= 1
  line = '16 transitions of gymnasium/gymnasium_CartPole-v1_run_2'
  assert line in capsys.readouterr().out


@pytest.mark.exhaustive
def test_continuous_actions_train_and_are_logged(tmp_path):
  gin_file = 'gin_configs/gymnasium/pendulum_online_sac.gin'
  online = {k: v for k, v in SHORT.items() if 'MLP' not in k} | settings('OnlineRunner')
  rows = run(tmp_path / 'online', gin_file, **online)
  assert rows[-1]['updates'] == 80 and rows[-1]['eval_return'] < 0
  folder, logged = log_of(tmp_path / 'online')
  assert logged['actions'].shape == (120, 1) and np.abs(logged['actions']).max() <= 1
  assert not logged['terminals'].any() and logged['timeouts'].sum() == 4  # Cut after 30 steps.
  angle, speed = np.arctan2(*logged['observations'][:, 1::-1].T), logged['observations'][:, 2]
  torque = 2 * logged['actions'][:, 0]
  cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
  np.testing.assert_allclose(logged['rewards'], -cost, rtol=1e-4, atol=1e-4)
  replay = vector_replay.VectorReplay(path=folder, fraction=1.0, action_shape=(1,))
  assert len(replay) == 120  # What followed the cuts was logged.

"""gymnax: episodes against its own `step`, time limits, every environment, and the gin files."""

import gin
import gymnasium
import gymnax
import jax
import numpy as np
import pytest

from implicit_rl import environments
from implicit_rl.data.replay import replay_log
from implicit_rl.data.sources import vector_replay
from implicit_rl.environments.gymnax import GymnaxEnvironment, Moment
from implicit_rl.running import experiment
from tests.command_line import ROOT, run

# MNISTBandit downloads images when it is made.
ALL = [name for name in gymnax.registered_envs if name != 'MNISTBandit-bsuite']


def flat(game, parameters, observation):
  space = game.observation_space(parameters)
  if hasattr(space, 'n'):
    return np.eye(space.n, dtype=np.float32)[observation]
  return np.asarray(observation, np.float32).ravel()


@pytest.mark.parametrize('name', ['CartPole-v1', 'Catch-bsuite', 'FrozenLake-misc', 'Pendulum-v1'])
def test_trajectories_are_gymnaxs_own(name):
  """The same keys and actions give what `step` of gymnax returns, before it resets."""
  made = GymnaxEnvironment(name)
  game, parameters = gymnax.make(name)
  key = jax.random.key(5)
  observation, state = game.reset(key)
  seen = made.rules.start(key).observation
  np.testing.assert_array_equal(seen, flat(game, parameters, observation))
  rng = np.random.default_rng(0)
  ends = 0
  for _ in range(60):
    key, step_key = jax.random.split(key)
    action = np.int32(rng.integers(made.num_actions))
    given = action
    if made.action_shape:
      action = rng.uniform(-1, 1, made.action_shape).astype(np.float32)
      given = 2 * action  # Pendulum's torque reaches from −2 to 2.
    moment = Moment(state, None)  # Rounding does not add up.
    _, state, expected_reward, terminated, truncated, info = game.step(step_key, state, given)
    own_key = jax.random.split(step_key)[0]  # With the other one `step` resets.
    moment, reward, over = made.rules.advance(moment, action, own_key)
    np.testing.assert_allclose(
      moment.observation, flat(game, parameters, info['final_observation']), rtol=1e-5, atol=1e-5
    )
    assert reward == pytest.approx(float(expected_reward), rel=1e-5) and reward.dtype == np.float32
    assert bool(over) == bool(terminated)
    ends += int(terminated)
    assert not truncated
  assert (ends > 0) == (name != 'Pendulum-v1')


def test_a_time_limit_truncates_and_a_fall_terminates():
  made = GymnaxEnvironment('CartPole-v1', parameters={'max_steps_in_episode': 5})
  assert made.max_steps_per_episode == 5
  made.reset()
  stepped = [made.step(t % 2) for t in range(5)]
  assert not any(terminal for _, _, terminal, _ in stepped)
  assert made.truncated and not made.game_over
  with pytest.raises(RuntimeError, match='reset'):
    made.step(0)
  made = GymnaxEnvironment('CartPole-v1')
  made.reset()
  steps = 0
  while not made.game_over:  # Pushed to one side only, it falls.
    assert not made.truncated
    made.step(1)
    steps += 1
  assert steps < 15 and not made.truncated
  returns, lengths = GymnaxEnvironment('CartPole-v1', num_environments=2).evaluate(
    lambda params, states, key: np.ones(len(states), np.int32), None, jax.random.key(0), 1
  )
  assert (lengths < 15).all() and (returns == lengths).all()


def test_catch_can_be_won_and_lost():
  """Following the ball earns 1, fleeing it −1, in nine steps."""

  def follow(params, states, key):
    seen = states.reshape(-1, 10, 5)
    ball, paddle = seen[:, :-1].sum(1).argmax(1), seen[:, -1].argmax(1)
    return 1 + params * jax.numpy.sign(ball - paddle)

  made = GymnaxEnvironment('Catch-bsuite', num_environments=4)
  returns, lengths = made.evaluate(follow, 1, jax.random.key(0), 36)
  assert (returns == 1).all() and (lengths == 9).all()
  returns, lengths = made.evaluate(follow, -1, jax.random.key(0), 36)
  assert returns.min() == -1 and (lengths == 9).all()


@pytest.mark.parametrize('name', ALL)
def test_every_environment_conforms(name):
  with jax.numpy_rank_promotion('allow'):  # Swimmer's own code.
    _check(GymnaxEnvironment(name), name)


def _check(made, name):
  able = environments.check(made)
  assert able.rules is not None and able.evaluate and able.state_dict and able.truncated
  assert len(made.observation_shape) == 1 and made.observation_dtype == np.float32
  assert replay_log.Dataset.of(made, able, run=1).config == f'{name}_run_1'
  key = jax.random.key(0)
  first = jax.eval_shape(made.rules.start, key)
  action = np.zeros(made.action_shape, np.float32 if made.action_shape else np.int32)
  later, reward, over = jax.eval_shape(made.rules.advance, first, action, key)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), later) == jax.tree.map(
    lambda x: (x.shape, x.dtype), first
  )  # So that a loop can carry it.
  assert (reward.shape, reward.dtype, over.shape, over.dtype) == ((), np.float32, (), bool)


def test_cart_pole_is_drawn_where_it_stands():
  made = GymnaxEnvironment('CartPole-v1', seed=1)
  assert environments.check(made).render is not None
  assert environments.check(GymnaxEnvironment('Acrobot-v1')).render is None
  observation = made.reset()
  for action in (1, 1, 1, 0, 1):
    observation = made.step(action)[0]
  there = gymnasium.make('CartPole-v1', render_mode='rgb_array').unwrapped
  there.reset(seed=5)
  there.state = tuple(observation)
  np.testing.assert_array_equal(made.render(), there.render())
  before = made.render()
  made.step(1)
  assert (made.render() != before).any()
  there.close()


def test_images_keep_their_shape():
  made = GymnaxEnvironment('Catch-bsuite', image=True, arguments={'rows': 6, 'columns': 4})
  assert made.observation_shape == (6, 4) and made.observation_dtype == np.uint8
  picture = made.reset()
  assert picture.shape == (6, 4) and picture.dtype == np.uint8 and picture.sum() == 2
  able = environments.check(made)
  assert not replay_log.Dataset.of(made, able, run=1).vectors


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'Catch'}, "Unknown gymnax game 'Catch'. Did you mean 'Catch-bsuite'"),
    ({'arguments': {'rows': [1]}}, r'must hold numbers, strings or tuples'),
    ({'arguments': {'row': 3}}, r"arguments of CartPole-v1: .*'row'"),
    ({'parameters': {'weight': 3}}, r'CartPole-v1 has no weight; it has .*gravity'),
    ({'image': True}, r'image: observations of CartPole-v1 have the shape \(4,\)'),
    ({'num_environments': 0}, r'GymnaxEnvironment.num_environments must be at least 1, got 0'),
    ({'max_steps_per_episode': 0}, 'max_steps_per_episode must be at least 1, got 0'),
  ],
)
def test_bad_settings_end_in_one_clear_line(settings, message):
  with pytest.raises(ValueError, match=message) as error:
    GymnaxEnvironment(**settings)
  assert str(error.value).count('\n') == 1  # gin says in the second whom it called.


SMALL = {
  'DeviceReplay.num_environments': 2,
  'DeviceReplay.capacity': 400,
  'Agent.min_replay_history': 16,
  'Agent.batch_size': 4,
  'MLP.hidden_units': (16, 16),
}
ONLINE = {
  'num_iterations': 2,
  'training_steps': 40,
  'evaluation_steps': 4,
  'max_steps_per_episode': 10,
  'measure_size': 16,
}
OFFLINE = ONLINE | {'training_steps': 3}
FILES = sorted(path.name for path in (ROOT / 'gin_configs' / 'gymnax').glob('*.gin'))


@pytest.mark.parametrize('name', FILES)
def test_the_gin_files_name_environments_and_offline_ones_the_log_of_online_ones(name):
  experiment.parse_gin([str(ROOT / 'gin_configs' / 'gymnax' / name)], [])
  made = GymnaxEnvironment(seed=0)
  assert name.replace('_online', '_offline') in FILES
  if 'offline' in name:
    folder = replay_log.Dataset.of(made, environments.check(made), run=1).config
    assert gin.query_parameter('VectorReplay.path').endswith(f'/replay/gymnax/{folder}')


def test_it_trains_online_and_offline_on_its_own_log(tmp_path):
  online = {f'OnlineRunner.{name}': value for name, value in ONLINE.items()}
  rows = run(tmp_path / 'a', 'gin_configs/gymnax/catch_online_dqn.gin', **SMALL | online)
  assert [row['updates'] for row in rows] == [12, 32] and rows[-1]['environment_steps'] == 80
  folder = tmp_path / 'a' / 'replay' / 'gymnax' / 'Catch-bsuite_run_1'
  (batch,) = vector_replay.VectorReplay(path=folder, fraction=1.0).in_order(100)
  assert len(batch.reward) == 78  # What followed the last step of each copy is not known.
  ended = batch.discount == 0
  assert ended.sum() == 8 and set(batch.reward[ended]) <= {1.0, -1.0}  # Nine steps an episode.
  assert (batch.reward[~ended] == 0).all()
  offline = {f'OfflineRunner.{name}': value for name, value in OFFLINE.items()}
  offline |= {'VectorReplay.path': repr(str(folder)), 'MLP.hidden_units': (16, 16)}
  rows = run(tmp_path / 'b', 'gin_configs/gymnax/catch_offline_dqn.gin', **offline)
  assert [row['updates'] for row in rows] == [3, 6] and rows[-1]['eval_episodes'] == 32

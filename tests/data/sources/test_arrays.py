"""Arrays of one's own: in memory, as .npz, HDF5 and Parquet, from Minari; errors name the array."""

import h5py
import minari
import numpy as np
import pyarrow
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from pyarrow import parquet

from implicit_rl.data.sources.arrays import ArraySource
from implicit_rl.environments.gymnasium import GymnasiumEnvironment
from tests.command_line import run


def steps(continuous=False, images=False):
  """Three episodes of 4 steps: one ends, one is cut, one is not over when the data ends."""
  rng = np.random.default_rng(0)
  shape = (12, 3, 2) if images else (12, 5)
  seen = rng.integers(0, 256, shape).astype(np.uint8) if images else rng.normal(size=shape)
  return {
    'observations': seen,
    'actions': rng.uniform(-1, 1, (12, 2)) if continuous else rng.integers(0, 3, 12),
    'rewards': rng.normal(size=12).astype(np.float32),
    'terminals': np.arange(12) == 3,
    'timeouts': np.arange(12) == 7,
  }


@pytest.mark.parametrize('continuous', [False, True])
def test_every_kind_gives_the_same_transitions(tmp_path, continuous):
  arrays = steps(continuous)
  np.savez(tmp_path / 'mine.npz', **arrays)
  with h5py.File(tmp_path / 'mine.hdf5', 'w') as file:
    for name, values in arrays.items():
      file[name] = values
  lists = {n: v.tolist() if v.ndim > 1 else v for n, v in arrays.items()}
  parquet.write_table(pyarrow.table(lists), tmp_path / 'mine.parquet')
  # Where no observation followed a cut, its last step starts no transition.
  starts = [t for t in range(12) if t not in (7, 11)]
  for data in (arrays, *(tmp_path / f'mine.{end}' for end in ('npz', 'hdf5', 'parquet'))):
    (batch,) = ArraySource(data=data).in_order(100)
    np.testing.assert_array_equal(
      batch.state[:, 0], arrays['observations'][starts].astype(np.float32)
    )
    actions = arrays['actions'][starts]
    np.testing.assert_array_equal(batch.action, actions.astype(batch.action.dtype))
    assert batch.action.dtype == (np.float32 if continuous else np.int32)
    np.testing.assert_array_equal(batch.reward, arrays['rewards'][starts])
    np.testing.assert_array_equal(batch.discount, [t != 3 for t in starts])
    goes_on = [t for t in starts if t != 3]
    np.testing.assert_array_equal(
      batch.next_state[batch.discount == 1][:, 0],
      arrays['observations'][[t + 1 for t in goes_on]].astype(np.float32),
    )


def test_what_followed_a_cut_is_used_where_it_is_known():
  arrays = steps()
  arrays['next_observations'] = np.concatenate([arrays['observations'][1:], np.ones((1, 5))])
  arrays['next_observations'][7] = 7
  (batch,) = ArraySource(data=arrays).in_order(100)
  assert len(batch.reward) == 12
  assert (batch.next_state[7] == 7).all() and (batch.next_state[11] == 1).all()
  del arrays['timeouts']  # Where the next row is another one, the episode was cut.
  (again,) = ArraySource(data=arrays).in_order(100)
  np.testing.assert_array_equal(again.next_state, batch.next_state)


def test_images_stay_bytes_and_are_stacked():
  arrays = steps(images=True)
  source = ArraySource(data=arrays, stack_size=2, observation_shape=(3, 2))
  assert source.observation_dtype == np.uint8
  (batch,) = source.in_order(100)
  np.testing.assert_array_equal(batch.state[1], arrays['observations'][:2])
  assert not batch.state[4, 0].any()  # An episode begins.


def test_gymnasiums_names_are_read_and_others_ignored():
  arrays = steps()
  renamed = {'terminals': 'terminations', 'timeouts': 'truncations'}
  other = {renamed.get(name, name): values for name, values in arrays.items()}
  other['infos'] = np.array(['a'] * 12)
  described = [ArraySource(data=data).describe() for data in (arrays, other)]
  assert described[0] == described[1] and described[0]['dataset'] == 'arrays'


def changed(name, at=None, value=None):
  """The arrays with one entry replaced, or without the array."""
  arrays = steps()
  if at is None:
    del arrays[name]
  else:
    arrays[name] = arrays[name].astype(np.float64)
    arrays[name][at] = value
  return arrays


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (changed('rewards'), 'ArraySource.data lacks rewards. It has actions, obs'),
    ({}, 'lacks observations, actions, rewards, terminals. It has nothing'),
    (changed('timeouts'), 'neither timeouts nor next_observations.*bind ArraySource.time_limit'),
    (changed('observations', (5, 2), np.nan), 'observations has a non-finite number in row 5'),
    (changed('rewards', 3, np.inf), 'rewards has a non-finite number in row 3'),
    (changed('terminals', 2, 2), r'terminals must be 0 or 1, row 2 is 2\.0'),
    (changed('actions', 4, 2), r'actions must lie within \[−1, 1\], row .*convert.*integers'),
    (steps() | {'actions': np.arange(-1, 11)}, 'actions are numbered from 0, row 0 is -1'),
    (steps() | {'actions': np.zeros((12, 2), int)}, r'actions must have the shape \(N,\).*12, 2'),
    (steps() | {'actions': np.zeros(12, bool)}, 'whole numbers or floats, got bool'),
    (steps() | {'rewards': np.zeros(11)}, 'rewards has 11 rows, observations 12'),
    (
      steps() | {'rewards': np.zeros((12, 2))},
      r'rewards must have the shape \(N,\), got \(12, 2\)',
    ),
    (steps() | {'rewards': np.float64(1)}, 'rewards has no rows, observations 12'),
    (steps() | {'observations': np.zeros((0, 5))}, 'at least one'),
    (steps() | {'observations': np.array(['a'] * 12)}, 'observations must be numbers'),
    (steps() | {'next_observations': np.zeros((12, 4))}, r'shape \(4,\), observations \(5,\)'),
  ],
)
def test_what_is_wrong_is_named_in_one_line(data, message):
  with pytest.raises(ValueError, match=message) as error:
    ArraySource(data=data)
  assert str(error.value).count('\n') == 1  # gin says in the second whom it called.


def test_files_that_cannot_be_read_are_named(tmp_path):
  def refused(name, message):
    with pytest.raises(ValueError, match=message):
      ArraySource(data=tmp_path / name)

  for name in ('mine.npz', 'mine.hdf5', 'mine.parquet'):
    (tmp_path / name).write_bytes(b'nothing of the kind')
    refused(name, rf'{name} is not an? .*')
  np.savez(tmp_path / 'pickle.npz', **steps() | {'rewards': np.array([{}] * 12)})
  refused('pickle.npz', 'pickle.npz: rewards cannot be read')
  ragged = steps() | {'observations': [[1.0]] * 11 + [[1.0, 2.0]]}
  parquet.write_table(
    pyarrow.table({n: list(v) for n, v in ragged.items()}), tmp_path / 'ragged.parquet'
  )
  refused('ragged.parquet', 'ragged.parquet: observations has lists of different lengths')
  with pytest.raises(ValueError, match='observations and actions of the shapes'):
    ArraySource(data=steps(), observation_shape=(4,))
  with pytest.raises(FileNotFoundError, match=r'No such file or folder: .*absent\.npz'):
    ArraySource(data=tmp_path / 'absent.npz')


def test_the_gin_mix_in_trains_on_a_file_and_notes_that_no_episode_ends(tmp_path, capsys):
  arrays = steps() | {'actions': np.arange(12) % 2}
  arrays |= {name: np.zeros(12) for name in ('terminals', 'timeouts')}
  arrays['observations'] = arrays['observations'][:, :4]  # CartPole's.
  np.savez(tmp_path / 'mine.npz', **arrays)
  (row,) = run(
    tmp_path / 'run',
    'gin_configs/gymnasium/offline_dqn.gin',
    'gin_configs/data/arrays.gin',
    **{'ArraySource.data': repr(str(tmp_path / 'mine.npz'))},
  )
  assert row['updates'] == 2 and row['eval_return'] >= 1
  assert 'transitions of mine, one episode without a terminal, cpu' in capsys.readouterr().out


@pytest.mark.filterwarnings('ignore:`eval_env` is set to None')
@pytest.mark.parametrize('task', ['FrozenLake-v1', 'Pendulum-v1'])
def test_minari_datasets_look_as_the_environment_shows_them(tmp_path, monkeypatch, task):
  """Numbered states and actions, and actions beyond 1: what an agent sees and does is the same."""
  import gymnasium

  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
  raw, made = gymnasium.make(task), GymnasiumEnvironment(task, seed=4)
  rng = np.random.default_rng(0)
  seen, actions, rewards = [raw.reset(seed=4)[0]], [], []
  expected, given, over = [made.reset()], [], False
  while not over and len(actions) < 20:
    if made.action_shape:
      given.append(rng.uniform(-1, 1, 1).astype(np.float32))
      actions.append(given[-1] * np.float32(2))
    else:
      given.append(int(rng.integers(4)))
      actions.append(given[-1])
    after, reward, over, _, _ = raw.step(actions[-1])
    seen.append(after)
    rewards.append(float(reward))
    expected.append(made.step(given[-1])[0])
  flags = [False] * (len(actions) - 1)
  buffer = EpisodeBuffer(
    observations=np.asarray(seen),
    actions=np.asarray(actions),
    rewards=rewards,
    terminations=[*flags, over],
    truncations=[*flags, not over],
  )
  minari.create_dataset_from_buffers(
    'mine/test-v0',
    [buffer],
    env=raw.spec,
    algorithm_name='random',
    code_permalink='none',
    author='none',
    author_email='none',
    description='noise',
  )
  assert isinstance(raw.action_space, spaces.Box) == bool(made.action_shape)
  source = ArraySource(data=tmp_path / 'mine' / 'test-v0', action_shape=made.action_shape)
  assert source.observation_shape == made.observation_shape
  (batch,) = source.in_order(100)
  np.testing.assert_array_equal(batch.state[:, 0], expected[:-1])
  np.testing.assert_allclose(batch.action, np.asarray(given), rtol=1e-6)
  np.testing.assert_array_equal(batch.reward, np.asarray(rewards, np.float32))

"""What our writer wrote, `tfds.load` reads back equal, through the registered official builder."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from implicit_rl.data.formats import tfds_writer
from implicit_rl.data.sources import tfds_replay
from tests.data import reference
from tests.data.conftest import ATARI, as_arrays

MINATAR = tfds_writer.MINATAR


def read_steps(split):
  for episode in split:
    steps = list(tfds.as_numpy(episode['steps']))
    yield episode, {name: np.array([s[name] for s in steps]) for name in steps[0]}


def test_the_official_builder_reads_it_back_equal(written_dir, episodes):
  builder = tfds.builder(f'{ATARI}/Pong_run_1', data_dir=written_dir)
  assert type(builder).__module__.startswith('tensorflow_datasets.rl_unplugged')
  loaded = tfds.load(f'{ATARI}/Pong_run_1', data_dir=written_dir)
  assert sorted(loaded) == ['checkpoint_00', 'checkpoint_01', 'checkpoint_02']
  for checkpoint, held in episodes.items():
    found = list(read_steps(loaded[f'checkpoint_{checkpoint:02d}']))
    assert len(found) == len(held)
    for number, (episode, (meta, steps)) in enumerate(zip(held, found, strict=True)):
      arrays = as_arrays(episode)
      np.testing.assert_array_equal(steps['observation'][..., 0], arrays['observation'])
      np.testing.assert_array_equal(steps['action'], arrays['action'])
      np.testing.assert_array_equal(steps['reward'], arrays['reward'].astype(np.float32))
      np.testing.assert_array_equal(steps['is_terminal'], arrays['terminal'])
      assert steps['is_last'].tolist() == [False] * (len(episode) - 1) + [True]
      assert steps['is_first'].tolist() == [True] + [False] * (len(episode) - 1)
      assert int(meta['checkpoint_id']) == checkpoint
      assert int(meta['episode_id']) == number
      assert float(meta['episode_return']) == arrays['reward'].sum()


def test_every_field_equals_the_official_conversion(written_dir, official_dir):
  ours = tfds.load(f'{ATARI}/Pong_run_1', data_dir=written_dir)
  official = tfds.load(f'{ATARI}/Pong_run_1', data_dir=official_dir)
  infos = [
    tfds.builder(f'{ATARI}/Pong_run_1', data_dir=d).info for d in (written_dir, official_dir)
  ]
  assert str(infos[0].features) == str(infos[1].features)
  assert infos[0].version == infos[1].version
  for split in official:
    pairs = zip(read_steps(ours[split]), read_steps(official[split]), strict=True)
    for (meta_a, steps_a), (meta_b, steps_b) in pairs:
      for name in steps_b:
        np.testing.assert_array_equal(steps_a[name], steps_b[name], err_msg=name)
        assert steps_a[name].dtype == steps_b[name].dtype
      for name in ('checkpoint_id', 'episode_id', 'episode_return'):
        assert meta_a[name] == meta_b[name]


@pytest.fixture(scope='module')
def minatar(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('minatar')
  rng = np.random.default_rng(0)
  episodes = reference.random_episodes(
    rng, [8, 5, 11], [True, False, True], shape=(10, 10, 4), dtype=bool
  )
  for i, episode in enumerate(episodes):  # Frames that differ, with a few pixels set.
    for t, step in enumerate(episode):
      step.observation[:] = np.random.default_rng([i, t]).random((10, 10, 4)) < 0.1
  tfds_writer.write_dataset(
    data_dir,
    MINATAR,
    'Breakout_run_1',
    ((i // 2, as_arrays(episode)) for i, episode in enumerate(episodes)),
  )
  return data_dir, episodes


def test_tfds_reads_minatar_without_our_code(minatar):
  data_dir, episodes = minatar
  script = f"""
import sys
import numpy as np
import tensorflow_datasets as tfds
loaded = tfds.load('{MINATAR}/Breakout_run_1', data_dir={str(data_dir)!r})
steps = [s for split in sorted(loaded) for e in loaded[split] for s in tfds.as_numpy(e['steps'])]
assert not any(name.startswith('implicit_rl') for name in sys.modules)
np.savez({str(data_dir / 'read.npz')!r}, **{{k: np.array([s[k] for s in steps]) for k in steps[0]}})
"""
  subprocess.run([sys.executable, '-c', script], cwd=data_dir, check=True, capture_output=True)
  observation, action, reward, terminal, end = reference.columns_of(episodes)
  with np.load(data_dir / 'read.npz') as read:
    np.testing.assert_array_equal(read['observation'], observation)
    np.testing.assert_array_equal(read['action'], action)
    np.testing.assert_array_equal(read['reward'], reward.astype(np.float32))
    np.testing.assert_array_equal(read['is_terminal'], terminal)
    np.testing.assert_array_equal(read['is_last'], end)


def test_our_loader_reads_minatar(minatar):
  data_dir, episodes = minatar
  data = tfds_replay.TFDSReplay(
    stack_size=1,
    update_horizon=2,
    gamma=0.9,
    dataset=MINATAR,
    game='Breakout',
    data_dir=data_dir,
    fraction=1.0,
  )
  assert data.observation_shape == (10, 10, 4)
  assert data.observation_dtype == np.dtype(bool)
  batch, i = data._gather(data._valid), 0
  for episode in episodes:
    for t in range(len(episode)):
      expected = reference.transition(episode, t, 1, 2, 0.9)
      if expected:
        reference.assert_transition(batch, i, expected)
        i += 1
  assert i == len(data)


def test_real_pong_frames_survive(tmp_path):
  import ale_py
  import cv2

  ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
  ale = ale_py.ALEInterface()
  ale.setInt('random_seed', 1)
  ale.loadROM(ale_py.roms.get_rom_path('pong'))
  rng, frames = np.random.default_rng(0), []
  for _ in range(60):
    for _ in range(4):
      ale.act(ale.getMinimalActionSet()[rng.integers(6)])
    frames.append(cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_AREA))
  episode = dict(
    observation=np.array(frames), action=np.arange(60) % 6, reward=np.zeros(60), terminal=False
  )
  tfds_writer.write_dataset(tmp_path, ATARI, 'Pong_run_1', [(0, episode)])
  split = tfds.load(f'{ATARI}/Pong_run_1', data_dir=tmp_path)['checkpoint_00']
  [(_, steps)] = read_steps(split)
  assert len(np.unique(steps['observation'])) > 3
  np.testing.assert_array_equal(steps['observation'][..., 0], frames)
  assert not steps['is_terminal'].any()
  assert steps['discount'].tolist() == [1.0] * 60


def episode_of(length=3, **changes):
  return (
    dict(
      observation=np.zeros((length, 84, 84), np.uint8),
      action=np.zeros(length, int),
      reward=np.zeros(length),
      terminal=True,
    )
    | changes
  )


@pytest.mark.parametrize(
  ('episode', 'said'),
  [
    (episode_of(reward=np.array([0, 0, 2.0])), r'rewards outside \[-1, 1\]'),
    (episode_of(terminal=np.array([True, False, True])), 'terminal before its last step'),
    (episode_of(action=np.zeros(4, int)), '3 observations, 4 actions'),
    (episode_of(length=0), 'at least one step'),
    (episode_of(observation=np.zeros((3, 80, 80), np.uint8)), r'expected uint8 \(84, 84\)'),
    ({'action': np.zeros(3)}, r"lacks \['observation', 'reward', 'terminal'\]"),
  ],
)
def test_episodes_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, episode, said):
  with pytest.raises(ValueError, match=said):
    tfds_writer.write_dataset(tmp_path, ATARI, 'Pong_run_1', [(0, episode)])
  assert list(tmp_path.iterdir()) == []


def test_names_are_checked(tmp_path, written_dir):
  with pytest.raises(ValueError, match='has no configuration'):
    tfds_writer.write_dataset(tmp_path, ATARI, 'Pnog_run_1', [(0, episode_of())])
  for name, config in (('My games', 'Pong_run_1'), ('../games', 'Pong_run_1'), ('games', 'Pong')):
    with pytest.raises(ValueError, match='must be lower-case letters'):
      tfds_writer.write_dataset(tmp_path, name, config, [(0, episode_of())])
  with pytest.raises(ValueError, match='numbered 0 to 99'):
    tfds_writer.write_dataset(tmp_path, ATARI, 'Pong_run_1', [(100, episode_of())])
  with pytest.raises(ValueError, match='no episodes'):
    tfds_writer.write_dataset(tmp_path, ATARI, 'Pong_run_1', [])
  with pytest.raises(ValueError, match='other than 0 and 1'):
    tfds_writer.write_dataset(
      tmp_path, MINATAR, 'Breakout_run_1', [(0, episode_of(observation=np.full((3, 2), 2)))]
    )
  with pytest.raises(FileExistsError, match='overwrite=True'):
    tfds_writer.write_dataset(written_dir, ATARI, 'Pong_run_1', [(0, episode_of())])


def test_episodes_by_checkpoint_are_written_as_pairs_are(tmp_path, episodes, written_dir):
  by_checkpoint = {c: (as_arrays(e) for e in held) for c, held in reversed(episodes.items())}
  tfds_writer.write_dataset(tmp_path, ATARI, 'Pong_run_1', by_checkpoint)
  folder = written_dir / ATARI / 'Pong_run_1' / '1.1.0'
  for file in folder.glob('*.tfrecord*'):
    assert (tmp_path / file.relative_to(written_dir)).read_bytes() == file.read_bytes()
  for wrong, said in (({}, 'no episodes'), ({100: iter([episode_of()])}, 'numbered 0 to 99')):
    with pytest.raises(ValueError, match=said):
      tfds_writer.write_dataset(tmp_path / 'new', ATARI, 'Pong_run_1', wrong)
  mixed = {0: [episode_of(), episode_of(observation=np.zeros((3, 80, 80), np.uint8))]}
  with pytest.raises(ValueError, match=r'shape \(84, 84\) in every episode'):
    tfds_writer.write_dataset(tmp_path / 'new', ATARI, 'Pong_run_1', mixed)
  assert list((tmp_path / 'new').iterdir()) == []


def test_overwriting_replaces_all_of_it(tmp_path):
  for length in (5, 3):
    tfds_writer.write_dataset(
      tmp_path, ATARI, 'Pong_run_1', [(0, episode_of(length))], overwrite=True
    )
  [(_, steps)] = read_steps(tfds.load(f'{ATARI}/Pong_run_1', data_dir=tmp_path)['checkpoint_00'])
  assert len(steps['action']) == 3
  assert [p.name for p in tmp_path.iterdir()] == [ATARI]

"""The source that trains from a store, against the definition and the loader of the same data."""

import gin
import numpy as np
import pytest
from scipy import stats

from implicit_rl.data import subsets
from implicit_rl.data.formats import tfds_files, tfds_recording
from implicit_rl.data.sources import rotation, store_replay
from implicit_rl.data.store import prepare
from implicit_rl.running import experiment
from tests.data import dopamine_reference, reference
from tests.data.conftest import ATARI
from tests.data.sources.test_dopamine_logs import flat
from tests.data.sources.test_tfds_replay import all_of, assert_same
from tests.data.sources.test_tfds_replay import load as load_tfds

SETTINGS = dict(stack_size=4, update_horizon=1, gamma=0.99, fraction=1.0)


@pytest.fixture(scope='module')
def store(official_dir, tmp_path_factory):
  """A store of the dataset that the official builder made, in chunks of three frames."""
  files = tfds_files.open_dataset(official_dir, ATARI, 'Pong_run_1')
  recording = tfds_recording.TfdsRecording(files, tfds_files.read_index(files))
  folder = tmp_path_factory.mktemp('stores') / 'store'
  prepare.prepare(recording, folder, chunk_size=3)
  return folder


def load(path, **kwargs):
  return store_replay.StoreReplay(**(SETTINGS | dict(path=path) | kwargs))


def assert_alike(a, b):
  for x, y in zip(all_of(a), all_of(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('frames', store_replay.FRAMES)
@pytest.mark.parametrize('horizon', [1, 3])
def test_a_tfds_store_holds_every_transition(store, episodes, frames, horizon):
  flat_episodes = [e for held in episodes.values() for e in held]
  assert_same(load(store, frames=frames, update_horizon=horizon), flat_episodes, horizon)


def test_a_tfds_recording_goes_on_at_any_row(official_dir):
  files = tfds_files.open_dataset(official_dir, ATARI, 'Pong_run_1')
  index = tfds_files.read_index(files)
  for keep in (None, np.arange(49) % 3 > 0):
    recording = tfds_recording.TfdsRecording(files, index, keep)
    whole = [np.concatenate(column) for column in zip(*recording.read(), strict=True)]
    assert len(whole[0]) == len(recording)
    for start in (1, 9, 20, len(recording) - 1):
      part = [np.concatenate(column) for column in zip(*recording.read(start), strict=True)]
      for a, b in zip(part, whole, strict=True):
        np.testing.assert_array_equal(a, b[start:])


@pytest.mark.parametrize('convention', ['logged_row', 'rlds'])
@pytest.mark.parametrize('subset', subsets.SUBSETS)
def test_it_is_what_the_tfds_loader_holds(store, official_dir, subset, convention):
  settings = dict(
    subset=subset, fraction=0.4, subset_seed=3, terminal_convention=convention, gamma=0.5
  )
  for extra in ({}, {'return_to_go': True}):
    ours, theirs = load(store, **settings, **extra), load_tfds(official_dir, **settings, **extra)
    for a, b in zip(all_of(ours), all_of(theirs), strict=True):
      np.testing.assert_array_equal(a, b)
  a, b = ours.describe(), theirs.describe()
  for name in ('dataset', 'game', 'selected_rows', 'dataset_rows', 'realised_fraction', 'subset'):
    assert a[name] == b[name]
  if convention == 'logged_row':
    assert a['selection_sha256'] == b['selection_sha256']
  again = load(store, **settings).describe()
  assert again['selection_sha256'] == a['selection_sha256']
  if subset.startswith('random'):
    other = load(store, **(settings | {'subset_seed': 4})).describe()
    assert other['selection_sha256'] != a['selection_sha256']


def test_part_of_a_store_is_packed_in_whole_chunks(store):
  settings = dict(subset='random_transitions', fraction=0.1, subset_seed=1)
  packed, plain = load(store, frames='packed', **settings), load(store, frames='raw', **settings)
  assert_alike(packed, plain)
  whole = load(store, frames='packed')
  assert packed.describe()['stored_bytes'] < whole.describe()['stored_bytes']
  assert packed.describe()['rows'] % 3 in (0, 1)  # 49 rows end in a chunk of one.
  assert_alike(load(store, frames='mapped', **settings), plain)


def test_it_can_be_kept_on_the_device(store):
  data, plain = load(store, on_device=True), load(store)
  (rows,) = data.draw(3, 1, 16)
  for a, b in zip(data.fetch(data.device_rows, rows), plain._gather(rows), strict=True):
    assert (a is None) == (b is None)
    if a is not None:
      np.testing.assert_array_equal(a, b)


def test_rows_per_checkpoint_count_from_each_files_beginning(tmp_path):
  """An episode that goes over a file's end belongs to both."""
  rng = np.random.default_rng(2)
  episodes = reference.random_episodes(rng, [100, 60], [True, True], (3, 2))
  dopamine_reference.write(tmp_path / 'logs', flat(episodes), 50, time_limit=False)
  recording = store_replay.dopamine_logs.DopamineLogs(tmp_path / 'logs')
  prepare.prepare(recording, tmp_path / 'store')
  data = load(tmp_path / 'store', subset=subsets.prefix_rows_per_checkpoint, fraction=0.1)
  # Rows of the run are steps plus three at each beginning; each file begins a round of fifty.
  begins = {0: 5, 50 - 3: 5, 100 - 3: 5, 150 - 6: 2}  # Of 47, 50, 47 and 16 rows.
  expected = [first + i for first, count in begins.items() for i in range(count)]
  assert np.flatnonzero(np.isin(np.arange(160), expected)).tolist() == [
    flat_index(batch_state, episodes) for batch_state in all_of(data).state[:, -1]
  ]


def flat_index(frame, episodes):
  return next(i for i, s in enumerate(flat(episodes)) if np.array_equal(s.observation, frame))


def test_rewards_can_be_clipped(tmp_path):
  episodes = reference.random_episodes(np.random.default_rng(0), [40], [True], (3, 2))
  dopamine_reference.write(tmp_path / 'logs', flat(episodes), 60)
  recording = store_replay.dopamine_logs.DopamineLogs(tmp_path / 'logs')
  prepare.prepare(recording, tmp_path / 'store')
  logged = np.array([s.reward for s in episodes[0]], np.float32)
  assert np.abs(logged).max() > 1
  np.testing.assert_array_equal(all_of(load(tmp_path / 'store')).reward, logged)
  clipped = load(tmp_path / 'store', clip_rewards=True)
  np.testing.assert_array_equal(all_of(clipped).reward, np.clip(logged, -1, 1))


class TestRotation:
  """Dopamine's five files at a time."""

  bounds = np.array([0, 10, 30, 60, 100, 150, 210])

  def places(self, first, updates, batch=32, seed=0, **settings):
    chosen = rotation.CheckpointRotation(**({'count': 2, 'period': 10} | settings))
    return chosen.draw(seed, first, updates, batch, self.bounds)

  def test_a_batch_is_of_one_checkpoint_and_a_period_of_few(self):
    drawn = np.searchsorted(self.bounds, self.places(0, 40), side='right') - 1
    assert (drawn == drawn[:, :1]).all()
    for period in range(4):
      assert len(np.unique(drawn[period * 10 : period * 10 + 10])) == 2
    assert len({tuple(np.unique(drawn[p * 10 : p * 10 + 10])) for p in range(4)}) > 1

  def test_an_update_draws_the_same_however_it_is_reached(self):
    whole = self.places(0, 40)
    for first, count in ((0, 7), (7, 13), (5, 20), (39, 1)):
      np.testing.assert_array_equal(self.places(first, count), whole[first : first + count])
    assert not np.array_equal(self.places(0, 40, seed=1), whole)

  def test_within_a_checkpoint_and_over_time_it_is_uniform(self):
    drawn = self.places(0, 6000, period=1)
    which = np.searchsorted(self.bounds, drawn[:, 0], side='right') - 1
    assert stats.chisquare(np.bincount(which, minlength=6)).pvalue > 1e-3
    for checkpoint in range(6):
      begin, end = self.bounds[checkpoint : checkpoint + 2]
      held = drawn[which == checkpoint].ravel() - begin
      assert stats.chisquare(np.bincount(held, minlength=end - begin)).pvalue > 1e-3

  def test_more_files_than_there_are_is_all_of_them(self):
    drawn = np.searchsorted(self.bounds, self.places(0, 500, count=50), side='right') - 1
    assert len(np.unique(drawn)) == 6
    with pytest.raises(ValueError, match='at least 1, got 0 and 10'):
      self.places(0, 1, count=0)

  def test_a_store_draws_by_it_and_measures_on_all_data(self, store):
    turning = rotation.CheckpointRotation(1, 5)
    data, plain = load(store, rotation=turning), load(store)
    row = {state.tobytes(): i for i, state in enumerate(all_of(plain).state)}
    checkpoint = np.repeat([0, 1, 2], [15, 19, 13])  # Its transitions: 49 rows less 2 cut ends.
    batch = data.sample(0, 20, 8)
    drawn = np.array([[checkpoint[row[s.tobytes()]] for s in states] for states in batch.state])
    assert all(len(np.unique(drawn[p * 5 : p * 5 + 5])) == 1 for p in range(4))
    assert len(np.unique(drawn)) > 1
    np.testing.assert_array_equal(data.fixed_batch(50).state, plain.fixed_batch(50).state)
    assert data.identity()['rotation'] == {'checkpoints': 1, 'updates': 5}


def test_raw_logs_become_a_store_once(tmp_path):
  episodes = dopamine_reference.random_run(np.random.default_rng(3), 20, 20)
  logs = tmp_path / 'data' / 'Pong' / '2' / 'replay_logs'
  dopamine_reference.write(logs, flat(episodes), 100, time_limit=False)
  settings = dict(data_dir=tmp_path / 'data', cache_dir=tmp_path / 'cache', run=2, **SETTINGS)
  first = store_replay.DopamineReplay(**settings)
  for file in logs.iterdir():
    file.unlink()
  assert_alike(first, store_replay.DopamineReplay(**settings))
  assert first.describe()['game'] == 'Pong'
  with pytest.raises(FileNotFoundError, match='There is no folder'):
    store_replay.DopamineReplay(**(settings | {'run': 3}))


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    (dict(fraction=5), 'fraction must lie in'),
    (dict(subset='random_episode'), "Did you mean 'random_episodes'"),
    (dict(subset=lambda *_: np.ones(3, bool)), r'must return \[49\] bool'),
    (dict(terminal_convention='rlsd'), 'choose one of logged_row, rlds'),
    (dict(frames='zip'), 'choose one of auto, raw, packed, mapped'),
    (dict(observation_shape=(10, 10, 4)), r'the environment \(10, 10, 4\)'),
    (dict(subset=lambda *_: np.arange(49) == 48), 'No complete transition is left'),
    (dict(path='/nowhere'), 'There is no store /nowhere: make it with python -m implicit_rl.data'),
  ],
)
def test_what_is_wrong_is_said_in_one_line(store, wrong, said):
  with pytest.raises((ValueError, FileNotFoundError), match=said):
    load(**(dict(path=store) | wrong))


def test_the_gin_mix_ins_bind_it(store, tmp_path):
  atari = 'gin_configs/atari/offline_dqn.gin'
  mix_ins = ['gin_configs/data/store.gin', 'gin_configs/data/rotation.gin']
  experiment.parse_gin([atari, *mix_ins], [f'StoreReplay.path = {str(store)!r}'])
  assert 'StoreReplay' in repr(gin.query_parameter('Agent.source'))
  data = store_replay.StoreReplay(stack_size=4, update_horizon=1, gamma=0.99)
  assert data.describe()['rotation'] == {'checkpoints': 5, 'updates': 62500}
  assert data.describe()['fraction'] == 1.0
  experiment.parse_gin(
    [atari, 'gin_configs/data/raw_logs.gin'],
    [f'DopamineReplay.data_dir = {str(tmp_path)!r}', "DopamineReplay.cache_dir = '/tmp'"],
  )
  assert 'DopamineReplay' in repr(gin.query_parameter('Agent.source'))
  with pytest.raises(FileNotFoundError, match=r'There is no folder .*Pong/1'):
    store_replay.DopamineReplay(stack_size=4, update_horizon=1, gamma=0.99)

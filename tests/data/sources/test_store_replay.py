"""The source that trains from a store, against the definition and the loader of the same data."""

import gzip
import json
import os
import shutil

import gin
import numpy as np
import pytest
from scipy import stats

from implicit_rl.data import subsets
from implicit_rl.data.formats import tfds_files, tfds_recording
from implicit_rl.data.sources import rotation, store_replay
from implicit_rl.data.store import export, prepare, store_files
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


class TestDopamineReplay:
  """The store of raw logs is used again only if it was made from these files in this way."""

  def write(self, data_dir, seed=3, final=True):
    """Logs of run 2 of Pong; only the last differs if they are not final."""
    episodes = dopamine_reference.random_run(np.random.default_rng(seed), 20, 20)
    logs = data_dir / 'Pong' / '2' / 'replay_logs'
    dopamine_reference.write(logs, flat(episodes), 60, final=final)
    return logs

  def load(self, tmp_path, data='data', **kwargs):
    settings = dict(data_dir=tmp_path / data, cache_dir=tmp_path / 'cache', run=2, **SETTINGS)
    return store_replay.DopamineReplay(**(settings | kwargs))

  def fresh(self, tmp_path, data='data', **kwargs):
    """The same data by way of an empty cache."""
    return self.load(tmp_path, data, cache_dir=tmp_path / 'empty' / data, **kwargs)

  def stores(self, tmp_path):
    return sorted(path.name for path in (tmp_path / 'cache').iterdir())

  def test_it_is_made_once(self, tmp_path, monkeypatch):
    self.write(tmp_path / 'data')
    first = self.load(tmp_path)
    assert first.describe()['game'] == 'Pong'

    def forbidden(*args, **kwargs):
      raise AssertionError('The logs were read again.')

    monkeypatch.setattr(store_replay.dopamine_logs.DopamineLogs, '__init__', forbidden)
    assert_alike(first, self.load(tmp_path))
    (tmp_path / 'data').rename(tmp_path / 'moved')  # The same files, wherever they lie.
    assert_alike(first, self.load(tmp_path, 'moved'))

  def test_another_folder_has_another_store(self, tmp_path):
    self.write(tmp_path / 'a', seed=1)
    self.write(tmp_path / 'b', seed=2)
    a, b = self.load(tmp_path, 'a'), self.load(tmp_path, 'b')
    assert a.describe()['fingerprint'] != b.describe()['fingerprint']
    assert_alike(b, self.fresh(tmp_path, 'b'))
    assert_alike(a, self.load(tmp_path, 'a'))
    assert len(self.stores(tmp_path)) == 2

  def test_logs_that_arrived_since_are_read(self, tmp_path, caplog):
    logs = self.write(tmp_path / 'data', final=False)
    before = self.load(tmp_path)
    self.write(tmp_path / 'data')
    with caplog.at_level('INFO'):
      after = self.load(tmp_path)
    assert len(after) > len(before)
    assert_alike(after, self.fresh(tmp_path))
    last = max(store_replay.dopamine_files.list_logs(logs))
    assert f'$store$_action_ckpt.{last}.gz is new' in caplog.text
    assert 'is out of date' in caplog.text

  @pytest.mark.parametrize('same', ['size', 'time'])
  def test_a_changed_file_is_read_again(self, tmp_path, same):
    logs = self.write(tmp_path / 'data')
    before = self.load(tmp_path)
    path = logs / '$store$_reward_ckpt.1.gz'
    old = path.stat()
    with gzip.open(path) as stream:
      rewards = np.load(stream)
    with gzip.GzipFile(path, 'wb', mtime=0) as stream:
      np.save(stream, -rewards)
    if same == 'size':  # gzip ignores zeros at the end of a file.
      with path.open('ab') as stream:
        stream.write(b'\0' * max(0, old.st_size - path.stat().st_size))
    else:
      os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
      assert path.stat().st_size != old.st_size
    after = self.load(tmp_path)
    assert after.describe()['fingerprint'] != before.describe()['fingerprint']
    assert_alike(after, self.fresh(tmp_path))

  def test_settings_that_change_the_store_have_one_each(self, tmp_path):
    logs = self.write(tmp_path / 'data')
    self.load(tmp_path)
    raw = self.load(tmp_path, codec='raw', frames='mapped')
    assert raw.describe()['frames'] == 'raw'
    packed = self.load(tmp_path, frames='mapped')
    assert packed.describe()['frames'] == 'zstd'
    (logs / 'add_count_ckpt.1.gz').unlink()
    left_out = self.load(tmp_path, skip_missing=True)
    assert [entry['checkpoint'] for entry in left_out.describe()['skipped']] == [1]
    with pytest.raises(FileNotFoundError, match=r'add_count_ckpt.1.gz is missing.*skip_missing'):
      self.load(tmp_path)
    assert len(self.stores(tmp_path)) == 3

  def test_a_store_without_a_record_of_its_files_is_not_used(self, tmp_path, caplog):
    """As an earlier version left it, under the name of game and run alone."""
    self.write(tmp_path / 'a', seed=1)
    self.write(tmp_path / 'data', seed=2)
    self.load(tmp_path, 'a')
    [made] = (tmp_path / 'cache').iterdir()
    old = made.rename(tmp_path / 'cache' / 'replay_logs-Pong-2')
    index = json.loads((old / 'store.json').read_text())
    del index['settings']['source']['files']
    (old / 'store.json').write_text(json.dumps(index))
    with caplog.at_level('INFO'):
      data = self.load(tmp_path)
    assert_alike(data, self.fresh(tmp_path))
    assert (
      f'{old} is out of date (checkpoints was 0-3, is 0-2; its files are not recorded)'
      in caplog.text
    )

  def test_a_store_of_other_data_under_its_name_is_refused(self, tmp_path):
    self.write(tmp_path / 'a', seed=1)
    self.write(tmp_path / 'data', seed=2)
    self.load(tmp_path, 'a')
    [other] = (tmp_path / 'cache').iterdir()
    other = other.rename(tmp_path / 'other')
    self.load(tmp_path)
    [made] = (tmp_path / 'cache').iterdir()
    shutil.rmtree(made)
    other.rename(made)
    with pytest.raises(
      ValueError, match=r'made from other data \(.*action_ckpt.3.gz is gone'
    ) as said:
      self.load(tmp_path)
    assert f'{made} was made' in str(said.value)

  def test_without_the_logs_it_says_how_to_use_the_store(self, tmp_path):
    logs = self.write(tmp_path / 'data')
    first = self.load(tmp_path)
    shutil.rmtree(logs)
    with pytest.raises(
      FileNotFoundError, match=r'holds no Dopamine logs.*StoreReplay.path'
    ) as said:
      self.load(tmp_path)
    [store] = (tmp_path / 'cache').iterdir()
    assert str(store) in str(said.value)
    assert_alike(first, load(store))
    with pytest.raises(FileNotFoundError, match=r'There is no folder .*Pong/3') as said:
      self.load(tmp_path, run=3)
    assert 'StoreReplay' not in str(said.value)


def test_a_store_whose_last_episode_has_no_end_is_refused(tmp_path):
  """As an earlier version left it where the last log added no row."""
  episodes = reference.random_episodes(np.random.default_rng(0), [40], [True], (3, 2))
  dopamine_reference.write(tmp_path / 'logs', flat(episodes), 60)
  store = tmp_path / 'store'
  prepare.prepare(store_replay.dopamine_logs.DopamineLogs(tmp_path / 'logs'), store)
  ends = np.load(store / 'episode_end.npy')
  ends[-1] = False
  np.save(store / 'episode_end.npy', ends)
  index = json.loads((store / 'store.json').read_text())
  index['files']['episode_end']['sha256'] = store_files.sha256(store / 'episode_end.npy')
  (store / 'store.json').write_text(json.dumps(index))
  for read in (load, prepare.verify, lambda path: export.to_dopamine(path, tmp_path / 'out')):
    with pytest.raises(ValueError, match=r'last episode in .*store has no end.*prepare it again'):
      read(store)


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

"""The loader against the definition, on data that the official TFDS builder prepared."""

import itertools
import os
import shutil

import gin
import numpy as np
import pytest
import tensorflow_datasets as tfds

from implicit_rl.data import source, subsets, transitions
from implicit_rl.data.formats import tfds_files, tfds_writer
from implicit_rl.data.sources import tfds_replay
from tests.data import reference
from tests.data.conftest import ATARI, as_arrays

SETTINGS = dict(stack_size=4, update_horizon=1, gamma=0.99, fraction=1.0)


def load(data_dir, **kwargs):
  return tfds_replay.TFDSReplay(**(SETTINGS | dict(data_dir=data_dir) | kwargs))


def flat(episodes):
  return [episode for held in episodes.values() for episode in held]


def all_of(data):
  """Every transition of a source, in row order."""
  return data._gather(data._valid)


def assert_same(data, episodes, horizon=1, chosen=None):
  """Asserts that a source holds exactly the transitions of `episodes` (at the `chosen` rows)."""
  expected, row = [], 0
  for episode in episodes:
    for t in range(len(episode)):
      found = reference.transition(episode, t, 4, horizon, 0.99)
      if found and (chosen is None or row in chosen):
        expected.append(found)
      row += 1
  assert len(data) == len(expected)
  batch = all_of(data)
  for i, transition in enumerate(expected):
    reference.assert_transition(batch, i, transition)


@pytest.mark.parametrize('horizon', [1, 3])
@pytest.mark.parametrize('codec', ['zstd', 'raw'])
def test_official_data_keeps_every_transition_and_the_last_reward(
  official_dir, episodes, horizon, codec
):
  data = load(official_dir, update_horizon=horizon, codec=codec)
  assert_same(data, flat(episodes), horizon)
  described = data.describe()
  assert described['reward_sum'] == sum(s.reward for e in flat(episodes) for s in e)
  assert (described['segments'], described['terminals']) == (6, 4)
  assert (described['splits'], described['dataset_rows']) == (3, 49)
  assert data.observation_shape == (84, 84)
  assert data.observation_dtype == np.uint8


def test_our_writer_and_the_official_builder_load_alike(official_dir, written_dir):
  for a, b in zip(all_of(load(official_dir)), all_of(load(written_dir)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_rlds_convention_ends_one_step_early_as_dopamine_reads_it(official_dir, episodes):
  # The rule of Dopamine's loader: reward[t] with is_terminal[t + 1], both as TFDS serves them.
  expected = []
  for split in tfds.load(f'{ATARI}/Pong_run_1', data_dir=official_dir).values():
    for episode in split:
      steps = list(tfds.as_numpy(episode['steps']))
      for now, then in itertools.pairwise(steps):
        expected.append((now['action'], now['reward'], 1.0 - then['is_terminal']))
  batch = all_of(load(official_dir, terminal_convention='rlds'))
  got = list(zip(batch.action, batch.reward, batch.discount, strict=True))
  np.testing.assert_array_equal(got, expected)
  assert len(expected) == 49 - 6  # One row fewer for each episode.
  total = sum(s.reward for e in flat(episodes) for s in e if not s.terminal)
  kept = load(official_dir, terminal_convention='rlds').describe()
  assert kept['reward_sum'] == total  # The last reward of every finished episode is lost.


def test_an_unordered_dataset_with_one_split_is_put_in_order(episodes, tmp_path):
  from tensorflow_datasets.rl_unplugged.rlu_atari import rlu_atari

  from implicit_rl.data.formats import tfds_writer

  examples = {
    f'{c}_{n}': tfds_writer._example(as_arrays(episode), c, n, ATARI)
    for c, held in episodes.items()
    for n, episode in enumerate(held)
  }

  class Train(rlu_atari.RluAtari, skip_registration=True):
    def _split_generators(self, dl_manager):
      return {'train': iter(examples.items())}

  Train.name = 'rlu_atari'
  Train(data_dir=tmp_path, config='Pong_run_1').download_and_prepare()
  data = load(tmp_path, dataset='rlu_atari')
  assert_same(data, flat(episodes))
  assert data.describe()['splits'] == 1


@pytest.mark.parametrize('name', subsets.SUBSETS)
@pytest.mark.parametrize('horizon', [1, 5])
def test_every_subset_keeps_its_transitions_whole(official_dir, episodes, name, horizon):
  held = flat(episodes)
  table = subsets.Episodes(
    np.array([len(e) for e in held]), np.repeat([0, 1, 2], [len(h) for h in episodes.values()])
  )
  chosen = set(np.flatnonzero(subsets.SUBSETS[name](table, 0.4, 3)).tolist())
  data = load(official_dir, subset=name, fraction=0.4, subset_seed=3, update_horizon=horizon)
  assert_same(data, held, horizon, chosen)
  described = data.describe()
  assert described['selected_rows'] == len(chosen)
  assert described['realised_fraction'] == pytest.approx(len(chosen) / 49)
  assert described['rows'] <= 49


def test_a_subset_of_ones_own(official_dir, episodes):
  def last_episode(table, fraction, seed):
    return np.repeat(np.arange(len(table.length)) == len(table.length) - 1, table.length)

  assert_same(load(official_dir, subset=last_episode), flat(episodes)[-1:])
  with pytest.raises(ValueError, match=r'must return \[49\] bool'):
    load(official_dir, subset=lambda table, fraction, seed: np.ones(3, bool))


def test_the_cache_is_used_and_gives_the_same(official_dir, tmp_path, monkeypatch):
  first = load(official_dir, cache_dir=tmp_path, fraction=0.5)
  names = sorted(p.name for p in tmp_path.iterdir())
  assert [n.split('-')[0] for n in names] == ['frames', 'index']

  def forbidden(*args):
    raise AssertionError('The dataset was read again.')

  monkeypatch.setattr(tfds_files, 'read_index', forbidden)
  monkeypatch.setattr(tfds_files, 'read_steps', forbidden)
  again = load(official_dir, cache_dir=tmp_path, fraction=0.5)
  for a, b in zip(all_of(first), all_of(again), strict=True):
    np.testing.assert_array_equal(a, b)
  assert first.describe() == again.describe()
  with pytest.raises(AssertionError, match='read again'):
    load(official_dir, cache_dir=tmp_path, fraction=0.2)


def test_the_cache_is_used_for_the_same_rows_alone(tmp_path):
  """Both conventions select 12 rows here, and the marks of what is kept fill two bytes in both."""
  rng = np.random.default_rng(0)
  made = reference.random_episodes(rng, [9, 6], [True, True], shape=(84, 84))
  for step in itertools.chain(*made):
    step.reward = 1.0
  tfds_writer.write_dataset(tmp_path, ATARI, 'Pong_run_1', [(0, as_arrays(e)) for e in made])
  for convention in ('logged_row', 'rlds'):
    settings = dict(subset=lambda table, *_: np.arange(table.length.sum()) < 12)
    settings |= dict(terminal_convention=convention)
    cached = load(tmp_path, cache_dir=tmp_path / 'cache', **settings)
    for a, b in zip(all_of(cached), all_of(load(tmp_path, **settings)), strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('kind', ['index', 'frames'])
def test_the_cache_is_not_used_for_changed_files(official_dir, tmp_path, kind):
  data_dir, cache = tmp_path / 'data', tmp_path / 'cache'
  shutil.copytree(official_dir, data_dir)
  load(data_dir, cache_dir=cache)
  [before] = cache.glob(f'{kind}-*')
  for path in data_dir.rglob('*tfrecord*'):
    os.utime(path, (1, 1))
  load(data_dir, cache_dir=cache)
  [after] = set(cache.glob(f'{kind}-*')) - {before}
  shutil.rmtree(after)
  before.rename(after)  # As if two sets of files had one name in the cache.
  with pytest.raises(ValueError, match=f'{kind}-.* was made from other data .* has changed'):
    load(data_dir, cache_dir=cache)


def test_gin_binds_the_dataset_and_the_agent_gives_the_rest(official_dir):
  with gin.unlock_config():
    gin.parse_config(
      [
        f'TFDSReplay.data_dir = {str(official_dir)!r}',
        "TFDSReplay.subset = 'first_n'",
        'first_n.n = 5',
      ]
    )
  try:
    data = tfds_replay.TFDSReplay(stack_size=2, update_horizon=1, gamma=0.9, seed=1)
    assert len(data) == 5
    assert data.sample(0, 2, 3).state.shape == (2, 3, 2, 84, 84)
  finally:
    gin.clear_config()


def test_embedded_data_is_used_whole(written_dir, monkeypatch, episodes, caplog):
  monkeypatch.setattr(tfds_replay, 'EMBEDDED', written_dir)
  with caplog.at_level('INFO'):
    data = load(None, fraction=0.05)
  assert_same(data, flat(episodes))
  assert data.describe()['subset'] == 'embedded'
  assert 'no fraction applies' in caplog.text
  with pytest.raises(FileNotFoundError, match=r'does not ship.*only .*Pong_run_1.*--data_dir'):
    load(None, game='Qbert')


def test_missing_data_says_what_is_there_and_what_to_do(official_dir, tmp_path):
  def message(data_dir, **kwargs):
    with pytest.raises(FileNotFoundError) as caught:
      load(data_dir, **kwargs)
    text, *rest = str(caught.value).splitlines()
    assert [r.strip() for r in rest if 'In call to configurable' not in r] == []  # Gin's own note.
    return text

  text = message(tmp_path / 'nowhere')
  assert f'There is no data folder {tmp_path / "nowhere"}' in text
  assert 'tfds.load' in text
  text = message(official_dir, game='Pnog')
  assert 'holds no Pnog_run_1; it holds Pong_run_1. Did you mean Pong_run_1?' in text
  assert 'holds no Pong_run_2' in message(official_dir, run=2)
  text = message(official_dir, dataset='rlu_atari_checkpoint_ordered')
  assert "Unknown dataset 'rlu_atari_checkpoint_ordered'. Did you mean rlu_atari" in text
  assert 'Give its parent folder' in message(official_dir / ATARI)
  assert 'it holds rlu_atari_checkpoints_ordered.' in message(official_dir, dataset='rlu_atari')


@pytest.fixture
def copy(official_dir, tmp_path):
  """A copy of the dataset to damage, and the folder of its version."""
  shutil.copytree(official_dir, tmp_path / 'copy')
  return tmp_path / 'copy', tmp_path / 'copy' / ATARI / 'Pong_run_1' / '1.1.0'


def test_incomplete_datasets_are_named(copy):
  data_dir, folder = copy
  (folder / f'{ATARI}-checkpoint_01.tfrecord-00000-of-00001').unlink()
  with pytest.raises(FileNotFoundError, match=r'lacks .*checkpoint_01.*Delete the folder'):
    load(data_dir)
  (folder / 'dataset_info.json').unlink()
  with pytest.raises(FileNotFoundError, match='cannot be opened by TFDS'):
    load(data_dir)
  shutil.rmtree(folder)
  with pytest.raises(FileNotFoundError, match='holds no prepared version'):
    load(data_dir)


@pytest.mark.parametrize('damage', ['flipped', 'cut', 'an episode lost'])
def test_damaged_records_are_named(copy, damage):
  data_dir, folder = copy
  file = folder / f'{ATARI}-checkpoint_01.tfrecord-00000-of-00001'
  content = file.read_bytes()
  middle = len(content) // 2
  first_record = 16 + int.from_bytes(content[:8], 'little')
  file.write_bytes(
    {
      'flipped': content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
      'cut': content[:-100],
      'an episode lost': content[:first_record],
    }[damage]
  )
  with pytest.raises(ValueError, match=r'checkpoint_01.*is damaged.*prepare it again'):
    load(data_dir)


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    (dict(fraction=5), 'fraction must lie in'),
    (dict(subset='random_episode'), "Did you mean 'random_episodes'"),
    (dict(terminal_convention='rlsd'), 'choose one of logged_row, rlds'),
    (dict(codec='zip'), 'choose one of zstd, raw'),
    (dict(stack_size=0), 'stack_size must be'),
  ],
)
def test_wrong_settings_are_refused_before_anything_is_read(official_dir, wrong, said):
  with pytest.raises(ValueError, match=said):
    load(official_dir, **wrong)


def test_an_environment_that_shows_something_else_is_refused(official_dir):
  load(official_dir, observation_shape=(84, 84), observation_dtype=np.uint8)
  with pytest.raises(ValueError, match=r'shape \(84, 84\), the environment \(10, 10, 4\)'):
    load(official_dir, observation_shape=(10, 10, 4))


def test_small_data_is_kept_plain_and_large_data_compressed(official_dir, monkeypatch):
  small = load(official_dir)
  assert small.describe()['codec'] == 'raw'
  monkeypatch.setattr(source, 'RAW_BYTES', 49 * 84 * 84 - 1)
  large = load(official_dir)
  assert large.describe()['codec'] == 'zstd'
  assert large.describe()['fingerprint'] == small.describe()['fingerprint']
  for a, b in zip(all_of(small), all_of(large), strict=True):
    np.testing.assert_array_equal(a, b)


def test_row_bookkeeping_of_sparse_subsets(official_dir):
  data = load(official_dir, subset='random_transitions', fraction=0.1, subset_seed=1)
  stored = data._columns.episode_end.sum()
  assert stored > 1  # Several pieces of episodes ...
  assert len(data._columns.action) < 49  # ... and not all rows.
  np.testing.assert_array_equal(
    data._columns.episode_start, transitions.episode_starts(data._columns.episode_end)
  )


@pytest.mark.parametrize('convention', ['logged_row', 'rlds'])
def test_returns_to_go_count_the_whole_logged_episode(official_dir, episodes, convention):
  """Of a tenth of the rows too, whose store lacks most of the rewards that they sum."""
  settings = dict(return_to_go=True, gamma=0.5, terminal_convention=convention)
  expected = {}
  for episode in flat(episodes):
    ends_for_good = episode[-1].terminal
    if convention == 'rlds' and ends_for_good:
      episode = episode[:-1]
    for t, step in enumerate(episode):
      if ends_for_good or 0.5 ** (len(episode) - t) <= 0.01:
        total = sum(0.5**i * later.reward for i, later in enumerate(episode[t:]))
        expected[step.observation.tobytes()] = total
  whole = load(official_dir, **settings)
  assert len(whole) == len(expected)
  part = load(official_dir, subset='random_transitions', fraction=0.2, **settings)
  assert 0 < len(part) < len(whole)
  for data in (whole, part):
    batch = all_of(data)
    wanted = [expected[state[-1].tobytes()] for state in batch.state]
    np.testing.assert_allclose(batch.return_to_go, wanted, rtol=1e-5, atol=1e-6)
  assert whole.describe()['return_to_go'] is True
  assert all_of(load(official_dir)).return_to_go is None

"""Stores: equal to the source whatever interrupts the writer, or refused in one line."""

import itertools
import json
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from implicit_rl.data.formats import recordings
from implicit_rl.data.store import frame_store, prepare, store_files, store_writer

ROOT = pathlib.Path(__file__).parent.parents[2]


class Noise(recordings.Recording):
  """Rows that any process can make again from their numbers; `slow` seconds for each hundred."""

  frame_shape, frame_dtype = (6, 5), np.dtype(np.uint8)

  def __init__(self, count, seed=0, slow=0.0):
    self.count, self.seed, self.slow = count, seed, slow

  def identity(self):
    return {'dataset': 'noise', 'seed': self.seed}

  def __len__(self):
    return self.count

  def sample(self):
    return next(self.read()).observation

  def read(self, start=0):
    for begin in range(start - start % 100, self.count, 100):
      rng = np.random.default_rng([self.seed, begin])
      number = np.arange(begin, begin + 100)
      rows = recordings.Rows(
        observation=rng.integers(0, 3, (100, 6, 5), np.uint8),
        action=rng.integers(0, 6, 100).astype(np.int32),
        reward=rng.normal(size=100).astype(np.float32),
        terminal=number % 70 == 69,
        episode_end=(number % 70 == 69) | (number == self.count - 1),
        is_first=number % 70 == 0,
        checkpoint=(number // 500).astype(np.int16),
      )
      time.sleep(self.slow)
      part = slice(max(0, start - begin), self.count - begin)
      yield recordings.Rows(*(column[part] for column in rows))


def all_rows(recording):
  return recordings.Rows(*map(np.concatenate, zip(*recording.read(), strict=True)))


def assert_holds(folder, recording):
  """Asserts that a store is the recording, row for row."""
  index = store_files.read_index(folder)
  arrays = store_files.read_arrays(folder, index)
  expected = all_rows(recording)
  for name in recordings.COLUMNS:
    np.testing.assert_array_equal(arrays[name], getattr(expected, name))
  frames = frame_store.from_arrays(index['settings'], arrays)
  np.testing.assert_array_equal(frames.take(np.arange(len(recording))), expected.observation)


@pytest.mark.parametrize('codec', frame_store.CODECS)
@pytest.mark.parametrize('count', [1, 99, 1050])
def test_a_store_is_the_recording(tmp_path, codec, count):
  settings = prepare.prepare(Noise(count), tmp_path / 'store', codec=codec, chunk_size=4)
  assert_holds(tmp_path / 'store', Noise(count))
  assert settings == prepare.verify(tmp_path / 'store')
  expected = all_rows(Noise(count))
  assert settings['rows'] == count
  assert settings['episodes'] == expected.episode_end.sum()
  assert settings['reward_sum'] == pytest.approx(expected.reward.sum(dtype=float))
  assert sum(n for _, n in settings['checkpoints']) == count
  assert sorted(p.name for p in tmp_path.iterdir()) == ['store']


@pytest.mark.parametrize('codec', frame_store.CODECS)
def test_an_interrupted_writer_is_continued_to_the_same_bytes(tmp_path, codec):
  whole = prepare.prepare(Noise(1000), tmp_path / 'whole', codec=codec, chunk_size=3)

  class Stops(Noise):
    def read(self, start=0):
      for rows in super().read(start):
        if rows.action.size and random.random() < 0.4:
          raise InterruptedError
        yield rows

  attempts = 0
  while not (tmp_path / 'store').exists():
    attempts += 1
    try:
      prepare.prepare(
        Stops(1000), tmp_path / 'store', codec=codec, chunk_size=3, commit_rows=attempts * 7
      )
    except InterruptedError:
      with pytest.raises(FileNotFoundError, match=r'not complete yet.*writes it to resume'):
        store_files.read_index(tmp_path / 'store')
  assert attempts > 2
  assert store_files.read_index(tmp_path / 'store')['settings'] == whole
  assert_holds(tmp_path / 'store', Noise(1000))


# 1.2 s at least: longer than three kills can take, so that none comes too late.
_KILLED = """
import sys
from implicit_rl.data.store import prepare
from tests.data.store.test_store_writer import Noise
print('begun', flush=True)
prepare.prepare(Noise(4000, slow=0.03), sys.argv[1], chunk_size=4, commit_rows=300)
"""


@pytest.mark.exhaustive
def test_a_writer_that_is_killed_is_continued_to_the_same_bytes(tmp_path):
  expected = prepare.prepare(Noise(4000), tmp_path / 'whole', chunk_size=4)
  rng, kills, rows = random.Random(0), 0, []
  progress = tmp_path / 'store.partial' / 'progress.json'
  while not (tmp_path / 'store').exists():
    process = subprocess.Popen(
      [sys.executable, '-c', _KILLED, str(tmp_path / 'store')], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b'begun\n'
    if kills < 3:
      time.sleep(rng.uniform(0.02, 0.3))
      process.send_signal(signal.SIGKILL)
    process.wait()
    kills += process.returncode == -signal.SIGKILL
    assert process.returncode in (0, -signal.SIGKILL)
    if progress.exists():
      rows.append(json.loads(progress.read_text())['rows'])
    process.stdout.close()
  assert kills == 3
  assert rows == sorted(rows)  # What was committed was never lost.
  assert store_files.read_index(tmp_path / 'store')['settings'] == expected
  assert prepare.verify(tmp_path / 'store') == expected


def begin(tmp_path):
  """Writes a part of a store and stops, with all locks gone."""

  class Half(Noise):
    def read(self, start=0):
      yield from itertools.islice(super().read(start), 5)
      raise InterruptedError

  with pytest.raises(InterruptedError):
    prepare.prepare(Half(1000), tmp_path / 'store', commit_rows=100)
  return tmp_path / 'store.partial'


def test_a_store_being_written_is_refused_by_other_processes(tmp_path):
  with store_writer.StoreWriter(tmp_path / 'store', (6, 5), np.uint8, {}) as writer:
    writer.append(next(Noise(100).read()))
    assert store_writer.is_being_written(tmp_path / 'store')
    code = f"""
from implicit_rl.data.store import store_writer
try:
  store_writer.StoreWriter({str(tmp_path / 'store')!r}, (6, 5), 'u1', {{}})
except store_writer.StoreBusyError as error:
  print(error)
"""
    said = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert 'Another process is writing' in said.stdout
    assert said.stdout.count('\n') == 1
  assert not store_writer.is_being_written(tmp_path / 'store')
  assert not store_writer.is_being_written(tmp_path / 'other')


def test_a_store_begun_from_other_data_or_settings_is_not_continued(tmp_path):
  partial = begin(tmp_path)
  with pytest.raises(ValueError, match=r'from other data .*\(seed was 0, is 1\): delete it'):
    prepare.prepare(Noise(1000, seed=1), tmp_path / 'store')
  with pytest.raises(ValueError, match=r'other settings \(codec was zstd, is raw\)'):
    prepare.prepare(Noise(1000), tmp_path / 'store', codec='raw')
  (partial / 'action.npy').write_bytes(b'')
  with pytest.raises(store_files.DamagedStoreError, match=r'action.npy is shorter.*delete'):
    prepare.prepare(Noise(1000), tmp_path / 'store')
  (partial / 'progress.json').write_text('{')
  with pytest.raises(store_files.DamagedStoreError, match=r'progress.json is damaged.*delete'):
    prepare.prepare(Noise(1000), tmp_path / 'store')


def test_what_is_complete_is_not_written_again(tmp_path):
  prepare.prepare(Noise(50), tmp_path / 'store')
  with pytest.raises(FileExistsError, match='already exists, made from the same data: delete it'):
    prepare.prepare(Noise(50), tmp_path / 'store')
  with pytest.raises(
    FileExistsError, match=r'made from other data \(seed was 0, is 1\): delete it'
  ):
    prepare.prepare(Noise(50, seed=1), tmp_path / 'store')
  assert [p.name for p in tmp_path.iterdir()] == ['store']


def test_data_that_changes_while_it_is_read_makes_no_store(tmp_path):
  class Changing(Noise):
    def read(self, start=0):
      yield from super().read(start)
      self.seed += 1

  with pytest.raises(ValueError, match=r'changed while it was read \(seed was 0, is 1\): delete'):
    prepare.prepare(Changing(50), tmp_path / 'store')
  assert not (tmp_path / 'store').exists()


def test_differences_name_files():
  before = {'a': 1, 'files': {'x': [1, 2], 'y': [1, 2], 'z': [1, 2]}}
  assert recordings.differences(before, before) == ''
  after = {'a': 1, 'files': {'w': [1, 2], 'y': [1, 3], 'z': [1, 2]}}
  assert recordings.differences(before, after) == 'x is gone; w is new; y has changed'
  after['a'] = 2
  said = 'a was 1, is 2; x is gone; w is new; and 1 more'
  assert recordings.differences(before, after) == said
  assert recordings.differences({'a': 1}, before) == 'its files are not recorded'


def test_bytes_that_the_disk_changed_are_noticed_before_the_store_is_complete(tmp_path):
  partial = begin(tmp_path)
  content = (partial / 'frames.npy').read_bytes()
  (partial / 'frames.npy').write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
  with pytest.raises(store_files.DamagedStoreError, match='does not read back correctly'):
    prepare.prepare(Noise(1000), tmp_path / 'store')
  assert not (tmp_path / 'store').exists()


@pytest.mark.parametrize('file', ['frames.npy', 'reward.npy'])
def test_a_full_disk_is_said_and_can_be_continued(tmp_path, file):
  expected = prepare.prepare(Noise(1000), tmp_path / 'whole', commit_rows=100)
  partial = tmp_path / 'store.partial'
  begin(tmp_path)
  saved = (partial / file).read_bytes()

  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(saved) + 100, limits[1]))  # No file may grow more.
  try:
    with pytest.raises(OSError, match=r'store.partial cannot be written .*GiB are free.*make room'):
      prepare.prepare(Noise(1000), tmp_path / 'store', commit_rows=100)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  settings = prepare.prepare(Noise(1000), tmp_path / 'store', commit_rows=100)
  assert settings == expected


def test_a_device_without_space_is_said(tmp_path):
  (tmp_path / 'store.partial').mkdir()
  (tmp_path / 'store.partial' / 'frames.npy').symlink_to('/dev/full')
  with pytest.raises(OSError, match=r'No space left on device.*make room, then rerun'):
    prepare.prepare(Noise(1000), tmp_path / 'store')
  assert not (tmp_path / 'store').exists()


@pytest.mark.parametrize(
  'damage', ['frames flipped', 'column flipped', 'file missing', 'counts', 'version', 'cut']
)
def test_verify_names_what_is_wrong(tmp_path, damage):
  prepare.prepare(Noise(300), tmp_path / 'store')
  folder = tmp_path / 'store'
  file = folder / ('reward.npy' if damage == 'column flipped' else 'frames.npy')
  content = file.read_bytes()
  said = 'frames.npy has been altered'
  if damage in ('frames flipped', 'column flipped'):
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    said = f'{file.name} has been altered'
  elif damage == 'cut':
    file.write_bytes(content[:-1])
  elif damage == 'file missing':
    file.unlink()
  else:
    index = json.loads((folder / 'store.json').read_text())
    if damage == 'version':
      index['format_version'], said = 99, 'store format 99, this version reads'
    else:
      index['settings']['rows'], said = 299, 'does not match its store.json'
    (folder / 'store.json').write_text(json.dumps(index))
  with pytest.raises(ValueError, match=said):
    prepare.verify(folder)


def test_memory_maps_read_the_same(tmp_path):
  prepare.prepare(Noise(300), tmp_path / 'store')
  path = tmp_path / 'store' / 'frames.npy'
  np.testing.assert_array_equal(store_files.map_randomly(path), np.load(path))

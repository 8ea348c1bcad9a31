"""Frame stores give back what was put in, from memory and from disk, and notice damage."""

import json
import pickle

import numpy as np
import pytest

from implicit_rl.data.store import frame_store, store_files


def frames_of(count, dtype=np.uint8, shape=(6, 5)):
  return np.random.default_rng(0).integers(0, 2, (count, *shape)).astype(dtype)


@pytest.mark.parametrize('codec', frame_store.CODECS)
@pytest.mark.parametrize('count', [1, 7, 8, 9, 250])
@pytest.mark.parametrize('dtype', [np.uint8, bool, np.float32])
def test_any_rows_come_back_equal(codec, count, dtype):
  frames = frames_of(count, dtype)
  store = frame_store.pack(frames, codec, chunk_size=4)
  assert store.shape == frames.shape
  assert store.dtype == frames.dtype
  rows = np.random.default_rng(1).integers(0, count, (3, 40, 2))
  taken = store.take(rows)
  np.testing.assert_array_equal(taken, frames[rows])
  assert taken.dtype == frames.dtype
  taken[:] = 0  # The caller may write into what it got.
  np.testing.assert_array_equal(store.take(rows), frames[rows])


def test_threaded_and_plain_decoding_agree():
  frames = frames_of(2000)
  store = frame_store.pack(frames, 'zstd', chunk_size=4)
  store._threads = 2
  np.testing.assert_array_equal(store.take(np.arange(2000)), frames)
  store._threads = 1
  np.testing.assert_array_equal(store.take(np.arange(2000)), frames)


@pytest.mark.parametrize('chunk_size', [1, 3, 8])
@pytest.mark.parametrize('codec', frame_store.CODECS)
def test_blocks_in_a_file_open_as_the_frames(tmp_path, codec, chunk_size):
  frames = frames_of(50)
  dictionary = frame_store.train_dictionary(frames[::2], count=8)
  encoder = frame_store.ChunkEncoder((6, 5), np.uint8, codec, chunk_size, 3, dictionary)
  parts = [encoder.append(part) for part in np.split(frames, [1, 1, 9, 30])]
  blocks = [block for part in [*parts, encoder.finish()] for block in part]
  (tmp_path / 'blocks').write_bytes(b''.join(blocks))
  settings = json.loads(json.dumps(encoder.settings))
  offsets = np.cumsum([0, *map(len, blocks)])
  mapped = np.memmap(tmp_path / 'blocks', np.uint8, 'r')
  store = frame_store.open_frames(settings, mapped, offsets, dictionary)
  np.testing.assert_array_equal(store.take(np.arange(50)), frames)
  store.settings()['shape'][0] = 0  # A copy: the store is as before.
  assert store.shape == (50, 6, 5) and store.settings()['shape'] == [50, 6, 5]
  again = pickle.loads(pickle.dumps(store))
  np.testing.assert_array_equal(again.take(np.array([[49, 0]])), frames[[[49, 0]]])
  if codec == 'zstd':
    with pytest.raises(ValueError, match='dictionary is not the one'):
      frame_store.open_frames(settings, mapped, offsets)
    with pytest.raises(ValueError, match='do not fit the number of frames'):
      frame_store.open_frames(settings, mapped, offsets[:-1], dictionary)
    with pytest.raises(ValueError, match='need their offsets'):
      frame_store.open_frames(settings, mapped, None, dictionary)


def test_a_dictionary_makes_single_frames_of_a_scene_small():
  rng = np.random.default_rng(0)
  scene = rng.integers(0, 256, (84, 84), np.uint8)  # What every frame shows.
  frames = np.repeat(scene[None], 300, axis=0)
  frames[np.arange(300), rng.integers(0, 84, 300), rng.integers(0, 84, 300)] ^= 255
  dictionary = frame_store.train_dictionary(frames[:100])
  plain, small = frame_store.pack(frames), frame_store.pack(frames, dictionary=dictionary)
  assert small.nbytes < len(dictionary) + 300 * (8 + 60) < plain.nbytes / 3
  np.testing.assert_array_equal(small.take(np.arange(300)), frames)
  with pytest.raises(ValueError, match='needs at least one frame'):
    frame_store.train_dictionary(frames[:0])


@pytest.mark.parametrize('codec', frame_store.CODECS)
def test_a_store_filled_in_uneven_parts_is_the_same(codec):
  frames = frames_of(101)
  writer = frame_store.FrameWriter(101, (6, 5), np.dtype(np.uint8), codec)
  for part in np.split(frames, [3, 3, 20, 90]):
    writer.append(part)
  np.testing.assert_array_equal(writer.finish().take(np.arange(101)), frames)


def test_the_writer_counts_and_checks():
  writer = frame_store.FrameWriter(2, (6, 5), np.dtype(np.uint8))
  writer.append(frames_of(1))
  with pytest.raises(ValueError, match='Expected 2 frames, got 1'):
    writer.finish()
  with pytest.raises(ValueError, match='More frames than'):
    writer.append(frames_of(2))
  with pytest.raises(ValueError, match='Expected uint8 frames'):
    writer.append(frames_of(1, np.float32))
  with pytest.raises(ValueError, match='chunk_size must be at least 1'):
    frame_store.FrameWriter(2, (6, 5), np.uint8, chunk_size=0)
  with pytest.raises(ValueError, match="Unknown codec 'zip'; choose one of zstd, raw"):
    frame_store.FrameWriter(2, (6, 5), np.dtype(np.uint8), 'zip')


def test_consecutive_frames_compress():
  noise = np.random.default_rng(0).integers(0, 256, (20, 84, 84)).astype(np.uint8)
  frames = np.repeat(noise, 16, axis=0)  # A frame of noise costs all its bytes, its repeats none.
  assert frame_store.pack(frames, chunk_size=8).nbytes < frames.nbytes / 7.5


@pytest.mark.parametrize('codec', frame_store.CODECS)
@pytest.mark.parametrize('memory_map', [False, True])
def test_disk_round_trip(tmp_path, codec, memory_map):
  frames = frames_of(37)
  store = frame_store.pack(frames, codec)
  store_files.save(tmp_path / 'a' / 'store', store.arrays(), store.settings())
  arrays, settings = store_files.load(tmp_path / 'a' / 'store', memory_map=memory_map)
  back = frame_store.from_arrays(settings, arrays)
  np.testing.assert_array_equal(back.take(np.arange(37)), frames)
  assert [p.name for p in (tmp_path / 'a').iterdir()] == ['store']  # Nothing left aside.


def saved(tmp_path):
  store_files.save(tmp_path / 'store', {'frames': frames_of(9)}, {'key': 1})
  return tmp_path / 'store'


def test_what_is_not_there_is_none(tmp_path):
  assert store_files.load(tmp_path / 'nothing') is None
  folder = saved(tmp_path)
  index = folder / 'store.json'
  index.write_text(index.read_text().replace('"format_version": 2', '"format_version": 0'))
  assert store_files.load(folder) is None


def test_a_second_writer_leaves_the_first_ones_folder(tmp_path):
  folder = saved(tmp_path)
  store_files.save(folder, {'frames': frames_of(3)}, {'key': 2})
  assert store_files.load(folder)[1] == {'key': 1}


def test_every_kind_of_damage_is_noticed(tmp_path):
  folder = saved(tmp_path)
  file = folder / 'frames.npy'
  content = file.read_bytes()
  file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(store_files.DamagedStoreError, match='delete that folder and run again'):
    store_files.load(folder)
  file.write_bytes(content[:-10])
  for memory_map in (False, True):
    with pytest.raises(store_files.DamagedStoreError):
      store_files.load(folder, memory_map=memory_map)
  file.unlink()
  with pytest.raises(store_files.DamagedStoreError):
    store_files.load(folder)
  file.write_bytes(content)
  (folder / 'store.json').write_text('{')
  with pytest.raises(store_files.DamagedStoreError):
    store_files.load(folder)


def test_a_write_that_fails_leaves_nothing(tmp_path):
  with pytest.raises(ValueError, match='allow_pickle'):
    store_files.save(tmp_path / 'store', {'bad': np.array([object()])}, {})
  assert list(tmp_path.iterdir()) == []

"""Ten thousand harmed files for each reader: the documented error or a sound answer, in no time."""

import gzip
import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import tempfile

import numpy as np
import pytest
from flax import serialization

from implicit_rl.data.formats import dopamine_files, gzip_arrays
from implicit_rl.data.sources.dopamine_logs import DopamineLogs
from implicit_rl.data.store import store_files
from implicit_rl.logs import checkpoints, jsonl
from implicit_rl.logs.errors import DamagedLogError
from tests.data import dopamine_reference

INPUTS = 10_000
_TELLING = (b'', b'\0', b'\xff' * 8, b'-1', b'1e999', b'NaN', b'null', b'[' * 40, b'{}', b'9' * 25)
_HANG = 20  # seconds that no small file may take
_MORE = 500  # MiB that a reader may have taken at its highest, whatever a header announces

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def folder(tmp_path):
  """In memory where the system has such a place: tens of thousands of files are written."""
  place = '/dev/shm'
  with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else tmp_path) as name:
    yield pathlib.Path(name)


def harmed(rng, content):
  """A copy with one to three of: bits flipped, bytes put in, taken out, repeated, cut off."""
  content = bytearray(content)
  for _ in range(rng.randint(1, 3)):
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 30))
    match rng.randrange(6):
      case 0 if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
      case 1:
        content[at:at] = rng.randbytes(length)
      case 2:
        del content[at : at + length]
      case 3:
        content[at:at] = content[at : at + length]
      case 4:
        del content[at:]
      case _:
        content[at : at + length] = rng.choice(_TELLING)
  return bytes(content)


def assert_sound(read, inputs, errors):
  """Reads each input; anything but an answer or one of the errors fails, a hang too."""

  def hang(number, frame):
    raise TimeoutError('hangs')

  before = signal.signal(signal.SIGALRM, hang)
  highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  refused = count = 0
  try:
    for content in inputs:
      count += 1
      signal.alarm(_HANG)
      try:
        read(content)
      except errors as error:
        refused += 1
        assert str(error)
      except Exception as error:
        raise AssertionError(f'{type(error).__name__}: {error} for {content[:2000]!r}') from error
      finally:
        signal.alarm(0)
  finally:
    signal.signal(signal.SIGALRM, before)
  assert count == INPUTS and refused > INPUTS / 10
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest < _MORE * 1024


def test_jsonl(folder):
  path = folder / 'metrics.jsonl'
  for iteration in range(4):
    jsonl.append(
      path, {'iteration': iteration, 'srank': 3.5, 'none': None, 'sigma': np.arange(3.0)}
    )
  sound, rng = path.read_bytes(), random.Random(0)

  def read(content):
    path.write_bytes(content)
    assert all(isinstance(row, dict) for row in jsonl.read(path))
    if rng.random() < 0.1:  # Writes, which takes longer.
      jsonl.keep_before(path, 2)

  assert_sound(read, (harmed(rng, sound) for _ in range(INPUTS)), DamagedLogError)


def test_checkpoints(folder):
  """Half of them carry the checksum of what was done to them: a forgery, not a fault."""
  path, rng = folder / 'checkpoint_0.msgpack', random.Random(1)
  tree = {
    'params': {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.float64(2.5)},
    'logs': {'iteration_0': {'returns': [1.0, None, 3]}},
    'name': 'x',
    'complex': 1j,
  }
  checkpoints.save(folder, 0, tree)
  sound = path.read_bytes()
  body = serialization.msgpack_serialize(tree)

  def forged():
    content = harmed(rng, body)
    digest = hashlib.sha256(content).hexdigest().encode()
    return b'implicit_rl checkpoint 2 %s %d\n' % (digest, len(content)) + content

  def read(content):
    path.write_bytes(content)
    assert isinstance(checkpoints.read(path), dict)

  inputs = (forged() if i % 2 else harmed(rng, sound) for i in range(INPUTS))
  assert_sound(read, inputs, checkpoints.CorruptCheckpointError)


def test_frame_store(folder):
  """The header as it is, and arrays whose checksum in it was made to fit."""
  rng, store = random.Random(2), folder / 'store'
  store_files.save(store, {'frames': np.arange(50, dtype=np.uint8)}, {'shape': [10, 5]})
  index_path, array_path = store / store_files.INDEX, store / 'frames.npy'
  sound_index, sound_array = index_path.read_bytes(), array_path.read_bytes()
  errors = (store_files.DamagedStoreError, store_files.OtherVersionError)

  def with_harmed_array():
    array = harmed(rng, sound_array)
    index = json.loads(sound_index)
    index['files']['frames'] = {
      'bytes': len(array),
      'sha256': hashlib.sha256(array).hexdigest(),
    }
    return json.dumps(index).encode(), array

  def read(content):
    index_path.write_bytes(content[0])
    array_path.write_bytes(content[1])
    index = store_files.read_index(store)
    for memory_map in (False, True):
      store_files.read_arrays(store, index, memory_map=memory_map)

  inputs = (
    with_harmed_array() if i % 2 else (harmed(rng, sound_index), sound_array) for i in range(INPUTS)
  )
  assert_sound(read, inputs, errors)


@pytest.mark.exhaustive
def test_raw_logs(folder):
  """Each file of a log in turn, as it lies on disk and, packed anew, within."""
  rng = random.Random(3)
  episodes = dopamine_reference.random_run(np.random.default_rng(0), 6, 8)
  dopamine_reference.write(folder, [step for episode in episodes for step in episode], 30)
  paths = [path for path in sorted(folder.iterdir()) if '_ckpt.0.gz' in path.name]
  assert len(paths) >= 6
  sound = {path: path.read_bytes() for path in paths}
  plain = {path: gzip.decompress(content) for path, content in sound.items()}

  def one():
    path = rng.choice(paths)
    if rng.random() < 0.5:
      return path, harmed(rng, sound[path])
    return path, gzip.compress(harmed(rng, plain[path]), 1)

  def read(content):
    path, harm = content
    path.write_bytes(harm)
    try:
      if rng.random() < 0.1:  # All of a log, which takes much longer.
        for _ in DopamineLogs(folder, checkpoints=[0]).read():
          pass
      elif 'episode_end' in path.name:
        gzip_arrays.read_index_set(path)
      else:
        gzip_arrays.GzipArray(path).read()
    finally:
      path.write_bytes(sound[path])

  assert dopamine_files.list_logs(folder)
  assert_sound(read, (one() for _ in range(INPUTS)), DamagedLogError)

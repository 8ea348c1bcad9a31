"""Checkpoints: what goes in comes out, damage is found, the older one serves, few are kept."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.logs import checkpoints

TREE = {
  'params': {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.float64(2.5)},
  'key': np.array([1, 2], np.uint32),
  'logs': {'iteration_0': {'returns': [1.0, None, 3]}},
  'replay': np.array([True, False]),
  'steps': 7,
  'name': 'x',
}


def test_round_trip(tmp_path):
  checkpoints.save(tmp_path, 3, TREE)
  iteration, tree = checkpoints.load_newest(tmp_path)
  assert iteration == 3
  assert tree['logs'] == TREE['logs'] and tree['steps'] == 7 and tree['name'] == 'x'
  for name in ('key', 'replay'):
    assert tree[name].dtype == TREE[name].dtype
    np.testing.assert_array_equal(tree[name], TREE[name])
  np.testing.assert_array_equal(tree['params']['w'], TREE['params']['w'])


def test_bfloat16_survives(tmp_path):
  checkpoints.save(tmp_path, 0, {'x': np.asarray(jnp.ones(3, jnp.bfloat16))})
  assert checkpoints.load(tmp_path, 0)['x'].dtype == jnp.bfloat16


def test_only_the_newest_are_kept(tmp_path):
  for iteration in (8, 9, 10, 11):
    checkpoints.save(tmp_path, iteration, TREE, keep=2)
  assert checkpoints.iterations(tmp_path) == [10, 11]
  assert sorted(os.listdir(tmp_path)) == ['checkpoint_10.msgpack', 'checkpoint_11.msgpack']


def test_nothing_there_is_none(tmp_path):
  assert checkpoints.load_newest(tmp_path / 'absent') is None
  assert checkpoints.load_newest(tmp_path) is None


@pytest.mark.parametrize('damage', ['truncate', 'flip', 'empty', 'foreign', 'version'])
def test_damage_is_found_and_the_older_one_serves(tmp_path, damage):
  checkpoints.save(tmp_path, 0, TREE)
  path = tmp_path / 'checkpoint_1.msgpack'
  checkpoints.save(tmp_path, 1, TREE)
  content = path.read_bytes()
  path.write_bytes(
    {
      'truncate': content[: len(content) // 2],
      'flip': content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
      'empty': b'',
      'foreign': b'\x80\x04N.',  # A pickle.
      'version': content.replace(b'checkpoint 2 ', b'checkpoint 9 ', 1),
    }[damage]
  )
  with pytest.raises(checkpoints.CorruptCheckpointError, match=r'checkpoint_1\.msgpack'):
    checkpoints.load(tmp_path, 1)
  assert checkpoints.load_newest(tmp_path)[0] == 0


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
  (tmp_path / 'checkpoint_0.msgpack').write_bytes(b'rubbish')
  with pytest.raises(checkpoints.CorruptCheckpointError, match='checkpoint_0'):
    checkpoints.load_newest(tmp_path)


def test_a_file_left_aside_is_never_taken(tmp_path):
  (tmp_path / 'checkpoint_5.partial').write_bytes(b'half')
  assert checkpoints.load_newest(tmp_path) is None


def test_a_failed_write_leaves_the_older_one(tmp_path):
  checkpoints.save(tmp_path, 0, TREE)
  with pytest.raises(TypeError):
    checkpoints.save(tmp_path, 1, {'x': object()})
  assert checkpoints.load_newest(tmp_path)[0] == 0

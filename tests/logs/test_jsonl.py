"""metrics.jsonl: strict JSON, whole lines, no iteration twice."""

import json

import jax.numpy as jnp
import numpy as np

from implicit_rl.logs import jsonl


def test_rows_come_back(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  jsonl.append(
    path,
    {
      'iteration': 0,
      'srank': jnp.float32(3),
      'x': np.float32(0.1),
      'spectrum': np.array([2.5, np.nan], np.float32),
      'bad': float('nan'),
      'worse': np.inf,
      'none': None,
      'count': np.int64(4),
    },
  )
  (row,) = jsonl.read(path)
  assert row == {
    'iteration': 0,
    'srank': 3.0,
    'x': 0.1,
    'spectrum': [2.5, None],
    'bad': None,
    'worse': None,
    'none': None,
    'count': 4,
  }
  assert isinstance(row['count'], int)
  assert 'NaN' not in path.read_text()


def test_a_line_cut_short_is_left_out_and_replaced_on_resume(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  for iteration in range(3):
    jsonl.append(path, {'iteration': iteration, 'x': iteration / 3})
  before = path.read_bytes().splitlines(keepends=True)
  with open(path, 'a') as file:
    file.write('{"iteration": 3, "x"')
  assert [row['iteration'] for row in jsonl.read(path)] == [0, 1, 2]
  jsonl.keep_before(path, 2)
  assert path.read_bytes() == b''.join(before[:2])
  jsonl.append(path, {'iteration': 2})
  assert [json.loads(line)['iteration'] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_nothing_to_keep(tmp_path):
  jsonl.keep_before(tmp_path / 'absent.jsonl', 0)
  assert not (tmp_path / 'absent.jsonl').exists()

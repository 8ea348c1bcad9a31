"""Dopamine's log pickles: what its own logger writes is read, whatever runs code is refused."""

import collections
import os
import pickle

import numpy as np
import pytest
from dopamine.discrete_domains import iteration_statistics, logger

from implicit_rl.analysis import log_pickles, runs


@pytest.fixture(name='dopamine_run')
def run_of_dopamines_logger(tmp_path):
  """Two iterations through Dopamine's Logger and IterationStatistics."""
  log = logger.Logger(str(tmp_path / 'logs'))
  for iteration in range(2):
    statistics = iteration_statistics.IterationStatistics()
    for episode in range(3):
      statistics.append({'train_episode_lengths': 10, 'train_episode_returns': 1.0 * episode})
    statistics.append({'eval_episode_lengths': 7, 'eval_episode_returns': np.float32(iteration)})
    statistics.append({'eval_average_return': np.float64(iteration)})
    log[f'iteration_{iteration}'] = statistics.data_lists
    log.log_to_file('log', iteration)
  return tmp_path


def test_the_newest_log_becomes_rows(dopamine_run):
  assert log_pickles.newest(dopamine_run).name == 'log_1'
  table = runs.load([dopamine_run])
  assert table['iteration'].tolist() == [0, 1]
  assert table['eval_return'].tolist() == table['eval_average_return'].tolist() == [0, 1]
  assert table['train_return'].tolist() == [1, 1]
  assert table['environment_steps'].tolist() == [30, 60]


def test_a_real_runs_log_says_what_its_metrics_say(real_runs):
  base_dir = real_runs / 'dqn' / 'seed_3'
  pickled = log_pickles.rows(log_pickles.newest(base_dir))
  for ours, logged in zip(pickled, runs.read(base_dir).rows, strict=True):
    for name in ('srank', 'updates', 'eval_return', 'td_error'):
      assert ours[name] == pytest.approx(logged[name], rel=1e-6)


VALUES = {
  'scalars': [np.float32(1.5), np.int64(-3), np.bool_(True), 2.5, 7, 'text', None],
  'arrays': [np.arange(6, dtype='>f4').reshape(2, 3), np.asfortranarray(np.eye(2))],
  'default': collections.defaultdict(list, a=[1]),
}


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_the_same_numbers(protocol, tmp_path):
  path = tmp_path / 'log_0'
  path.write_bytes(pickle.dumps(VALUES, protocol=protocol))
  read = log_pickles.load(path)
  assert read['scalars'] == VALUES['scalars']
  for ours, theirs in zip(read['arrays'], VALUES['arrays'], strict=True):
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype
  assert read['default'] == {'a': [1]}


class _Harmful:
  def __init__(self, function, *arguments):
    self._reduced = function, arguments

  def __reduce__(self):
    return self._reduced


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_code_in_a_pickle_does_not_run(protocol, tmp_path):
  mark, path = tmp_path / 'mark', tmp_path / 'log_0'
  for harm in (
    _Harmful(os.mkdir, str(mark)),
    _Harmful(eval, f'__import__("os").mkdir({str(mark)!r})'),
  ):
    path.write_bytes(pickle.dumps({'iteration_0': {'a': [harm]}}, protocol=protocol))
    with pytest.raises(ValueError, match=r'is not a log that Dopamine wrote: .* is not allowed'):
      log_pickles.load(path)
  assert not mark.exists()
  pickle.loads(path.read_bytes())  # What the restriction is for.
  assert mark.exists()


def test_arrays_of_objects_broken_and_other_pickles_are_refused(tmp_path):
  path = tmp_path / 'log_0'
  for content in (
    pickle.dumps(np.array([{}], dtype=object)),
    pickle.dumps(VALUES)[:-20],
    b'',
    pickle.dumps(collections.Counter),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match='is not a log that Dopamine wrote'):
      log_pickles.load(path)
  path.write_bytes(pickle.dumps([1]))
  with pytest.raises(ValueError, match='holds no iterations'):
    log_pickles.rows(path)

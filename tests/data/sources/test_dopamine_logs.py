"""Raw logs that Dopamine's own buffer wrote, against what went in and what its sampler returns."""

import gzip
import pickle
import shutil
import tracemalloc
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.data.formats import gzip_arrays
from implicit_rl.data.sources import dopamine_logs, store_replay
from implicit_rl.data.store import export, prepare
from implicit_rl.logs.errors import DamagedLogError
from tests.data import dopamine_reference, reference

SETTINGS = dict(stack_size=4, gamma=0.99, fraction=1.0)


def flat(episodes):
  return [step for episode in episodes for step in episode]


def read_all(recording, start=0):
  """All rows of a recording as one."""
  return dopamine_logs.recordings.Rows(
    *map(np.concatenate, zip(*recording.read(start), strict=True))
  )


def steps_of(rows, steps):
  """The number of the step that each row shows: no two frames are equal."""
  number = {step.observation.tobytes(): i for i, step in enumerate(steps)}
  return [number[frame.tobytes()] for frame in rows.observation]


@hypothesis.given(
  seed=st.integers(0, 10**6),
  capacity=st.integers(9, 60),
  time_limit=st.booleans(),
  final=st.booleans(),
)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_every_step_that_any_log_holds_comes_once_and_in_order(
  tmp_path_factory, seed, capacity, time_limit, final
):
  rng = np.random.default_rng(seed)
  episodes = dopamine_reference.random_run(rng, int(rng.integers(2, 25)), 12)
  steps = flat(episodes)
  folder = tmp_path_factory.mktemp('logs')
  logged = dopamine_reference.write(folder, steps, capacity, time_limit=time_limit, final=final)
  held = {n for ring in logged.step_of.values() for n in ring if n >= 0}
  if final and len(logged.step_of) == 1:  # Alone, the last log can't be told from a first one.
    held = set(logged.step_of[0][: len(steps) + 3 * len(episodes)].tolist()) - {-1}
    if len(steps) + 3 * len(episodes) >= capacity:
      return
  if not held:
    return
  recording = dopamine_logs.DopamineLogs(folder)
  rows = read_all(recording)
  numbers = steps_of(rows, steps)
  assert numbers == sorted(held)
  assert len(recording) == len(numbers)
  begins = {sum(map(len, episodes[:e])) for e in range(len(episodes))}
  gaps = 0
  for i, n in enumerate(numbers):
    alone = i + 1 == len(numbers) or numbers[i + 1] != n + 1
    assert rows.action[i] == steps[n].action
    assert rows.reward[i] == np.float32(steps[n].reward)
    assert rows.terminal[i] == (steps[n].terminal or (steps[n].episode_end and not time_limit))
    assert rows.episode_end[i] == (steps[n].episode_end or alone)
    assert not rows.is_first[i] or n in begins
    gaps += n in begins and not rows.is_first[i]  # Its padding fell into a gap: no one can know.
  assert gaps <= len(logged.step_of)
  for start in rng.integers(0, len(numbers) + 1, 3):
    np.testing.assert_array_equal(
      np.concatenate([rows.observation[:0], *(r.observation for r in recording.read(int(start)))]),
      rows.observation[start:],
    )
  shutil.rmtree(folder)


@pytest.fixture(scope='module')
def logs(tmp_path_factory):
  """Five logs of 120 rows, of a run with a few time limits that are marked as terminal."""
  episodes = dopamine_reference.random_run(np.random.default_rng(98), 40, 25, (6, 5))
  folder = tmp_path_factory.mktemp('logs') / 'Pong' / '1' / 'replay_logs'
  logged = dopamine_reference.write(folder, flat(episodes), 120, time_limit=False)
  assert sorted(logged.step_of) == [0, 1, 2, 3, 4]
  return episodes, logged


@pytest.fixture
def copy(logs, tmp_path):
  """The folder of a copy of these logs."""
  return shutil.copytree(logs[1].folder.parents[2], tmp_path / 'copy') / 'Pong' / '1'


@pytest.mark.parametrize('horizon', [1, 3])
def test_transitions_are_what_dopamines_sampler_returns(tmp_path, horizon):
  episodes = dopamine_reference.random_run(np.random.default_rng(6), 30, 25)
  logged = dopamine_reference.write(
    tmp_path / 'logs', flat(episodes), 150, horizon=horizon, time_limit=False
  )
  prepare.prepare(dopamine_logs.DopamineLogs(tmp_path / 'logs'), tmp_path / 'store')
  ours = store_replay.StoreReplay(path=tmp_path / 'store', update_horizon=horizon, **SETTINGS)
  held = np.unique(np.concatenate(list(logged.step_of.values())))
  held = held[held >= 0]  # A log that is lost takes its steps with it.
  compared = 0
  for checkpoint, ring in logged.step_of.items():
    buffer = logged.load(checkpoint)
    indices = [i for i in range(150) if buffer.is_valid_transition(i)]
    state, action, reward, following, *_, terminal, _ = buffer.sample_transition_batch(
      len(indices), indices
    )
    batch = ours._gather(np.searchsorted(held, ring[indices]))
    np.testing.assert_array_equal(np.moveaxis(batch.state, 1, -1), state)
    np.testing.assert_array_equal(batch.action, action)
    np.testing.assert_allclose(batch.reward, reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.discount, 1 - terminal)
    alive = terminal == 0
    np.testing.assert_array_equal(np.moveaxis(batch.next_state, 1, -1)[alive], following[alive])
    compared += len(indices)
  assert compared > 300


def test_the_stale_row_continues_the_file_before(logs):
  episodes, logged = logs
  steps = flat(episodes)
  for k in range(1, 4):
    stale, before = logged.step_of[k][119], logged.step_of[k - 1][118]
    if stale >= 0 <= before:
      assert stale == before + 1
  assert logged.step_of[0][119] == -1
  rows = read_all(dopamine_logs.DopamineLogs(logged.folder))
  numbers = steps_of(rows, steps)
  assert numbers == list(range(len(numbers)))  # Nothing is missing, doubled or out of place.
  assert not any((frame == 77).all() for frame in rows.observation)  # Nor what was never written.


def test_the_last_log_repeats_its_predecessor_beyond_add_count(logs):
  _, logged = logs
  last, before = logged.step_of[4], logged.step_of[3]
  count = int(logged.load(4).add_count)
  assert 0 < count < 118
  np.testing.assert_array_equal(last[count:118], before[count:118])
  part = read_all(dopamine_logs.DopamineLogs(logged.folder, checkpoints=range(4)))
  whole = read_all(dopamine_logs.DopamineLogs(logged.folder))
  assert len(whole.action) - len(part.action) == (last[:count] >= 0).sum() + (last[119] >= 0)


def test_time_limits_marked_as_terminal_can_be_told_apart(logs, tmp_path):
  episodes, logged = logs
  prepare.prepare(dopamine_logs.DopamineLogs(logged.folder), tmp_path / 'store')
  settings = dict(path=tmp_path / 'store', update_horizon=1, **SETTINGS)
  as_logged = store_replay.StoreReplay(**settings)
  limit = max(map(len, episodes))
  told = store_replay.StoreReplay(time_limit=limit, **settings)
  longest = sum(len(e) == limit for e in episodes[:-1])
  assert longest
  assert as_logged.describe()['terminals'] - told.describe()['terminals'] == longest
  assert len(as_logged) - len(told) == longest  # Their last rows have no next state.


def test_ends_that_newer_logs_list_are_no_terminals(tmp_path):
  rng = np.random.default_rng(1)
  episodes = reference.random_episodes(rng, [9, 30, 20, 40], [True, False, False, True], (3, 2))
  dopamine_reference.write(tmp_path, flat(episodes), 60)
  rows = read_all(dopamine_logs.DopamineLogs(tmp_path))
  assert np.flatnonzero(rows.episode_end).tolist() == [8, 38, 58, 98]
  assert np.flatnonzero(rows.terminal).tolist() == [8, 98]
  assert np.flatnonzero(rows.is_first).tolist() == [0, 9, 39, 59]


@pytest.mark.parametrize('rounds', [1, 2])
def test_the_last_row_ends_where_the_last_log_adds_none(tmp_path, rounds):
  """Training stopped right after a log was written, so the log of the end repeats it."""
  episodes = reference.random_episodes(np.random.default_rng(5), [9, 60], [False, True], (3, 2))
  steps = flat(episodes)[: 20 * rounds - 1 - 6]  # Two paddings of three rows.
  logged = dopamine_reference.write(tmp_path / 'logs', steps, 20)
  assert len(logged.step_of) == rounds + 1
  recording = dopamine_logs.DopamineLogs(tmp_path / 'logs')
  rows = read_all(recording)
  assert np.flatnonzero(rows.episode_end).tolist() == [8, len(steps) - 1]
  np.testing.assert_array_equal(read_all(recording, 10).episode_end, rows.episode_end[10:])
  prepare.prepare(recording, tmp_path / 'store')
  data = store_replay.StoreReplay(path=tmp_path / 'store', update_horizon=1, **SETTINGS)
  assert len(data) == len(steps) - 2  # Neither cut episode's last row has a next state.


@pytest.mark.parametrize(('steps', 'begins', 'cut'), [(15, [0, 9], 1), (50, [0, 9, 39], 2)])
def test_without_padding_the_first_row_of_a_run_begins_an_episode(tmp_path, steps, begins, cut):
  """An agent that stacks nothing logs no zeros; a reader that stacks may still use every row."""
  rng = np.random.default_rng(4)
  episodes = reference.random_episodes(rng, [9, 30, 20], [True, False, True], (3, 2))
  dopamine_reference.write(tmp_path / 'logs', flat(episodes)[:steps], 20, stack_size=1)
  recording = dopamine_logs.DopamineLogs(tmp_path / 'logs')
  assert np.flatnonzero(read_all(recording).is_first).tolist() == begins
  prepare.prepare(recording, tmp_path / 'store')
  data = store_replay.StoreReplay(path=tmp_path / 'store', update_horizon=1, **SETTINGS)
  assert len(data) == steps - cut  # The last row of a cut episode has no next state.


def test_without_padding_the_first_row_of_a_later_log_may_continue_an_episode(tmp_path):
  episodes = reference.random_episodes(np.random.default_rng(4), [70], [True], (3, 2))
  dopamine_reference.write(tmp_path / 'logs', flat(episodes), 20, stack_size=1)
  later = dopamine_logs.DopamineLogs(tmp_path / 'logs', checkpoints=[1, 2])
  assert not read_all(later).is_first.any()


def test_layouts_and_names(logs):
  _, logged = logs
  whole = dopamine_logs.DopamineLogs(logged.folder)
  again = dopamine_logs.DopamineLogs(logged.folder.parent)
  assert whole.identity() == again.identity()
  assert whole.identity()['dataset'] == 'replay_logs/Pong/1'
  with pytest.raises(FileNotFoundError, match=r'Name one run: .*Pong/1'):
    dopamine_logs.DopamineLogs(logged.folder.parents[2])
  with pytest.raises(FileNotFoundError, match='There is no folder'):
    dopamine_logs.DopamineLogs(logged.folder / 'nowhere')


def test_a_missing_checkpoint_is_named_or_left_out(logs, copy):
  episodes, logged = logs
  for file in (copy / 'replay_logs').glob('*_ckpt.2.gz'):
    file.unlink()
  with pytest.raises(
    FileNotFoundError, match=r'lacks checkpoint 2; it holds 0-1,3-4.*skip_missing'
  ):
    dopamine_logs.DopamineLogs(copy)
  recording = dopamine_logs.DopamineLogs(copy, skip_missing=True)
  assert [entry['checkpoint'] for entry in recording.skipped] == [2]
  rows = read_all(recording)
  numbers = steps_of(rows, flat(episodes))
  held = {n for k in (0, 1, 3, 4) for n in logged.step_of[k] if n >= 0}
  assert numbers == sorted(held)
  [cut] = np.flatnonzero(np.diff(numbers) != 1)
  assert rows.episode_end[cut]
  assert not rows.terminal[cut] or flat(episodes)[numbers[cut]].episode_end
  assert {int(c) for c in rows.checkpoint} == {0, 1, 3, 4}


def test_states_that_reach_into_a_gap_are_not_drawn(logs, copy, tmp_path):
  episodes, _ = logs
  for file in (copy / 'replay_logs').glob('*_ckpt.2.gz'):
    file.unlink()
  recording = dopamine_logs.DopamineLogs(copy, skip_missing=True)
  prepare.prepare(recording, tmp_path / 'store')
  data = store_replay.StoreReplay(path=tmp_path / 'store', update_horizon=1, **SETTINGS)
  assert data.describe()['skipped'][0]['checkpoint'] == 2
  steps = flat(episodes)
  number = {step.observation.tobytes(): i for i, step in enumerate(steps)}
  batch = data._gather(data._valid)
  within = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode))]
  for i in range(len(data)):
    e, t = within[number[batch.state[i, -1].tobytes()]]
    marked = [*episodes[e][:-1], episodes[e][-1].__class__(**{**vars(episodes[e][-1])})]
    marked[-1].terminal = True  # As these logs mark it.
    reference.assert_transition(batch, i, reference.transition(marked, t, 4, 1, 0.99))


def edit(path, change):
  """Replaces the array in a file by `change` of it."""
  with gzip.open(path) as stream:
    array = np.load(stream)
  with gzip.open(path, 'wb') as stream:
    np.save(stream, change(array))


@pytest.mark.parametrize(
  ('name', 'change', 'said'),
  [
    ('$store$_observation', lambda a: a[:, :4], r'frames \(4, 5\), the others uint8 \(6, 5\)'),
    ('$store$_observation', lambda a: a.astype(np.int16), 'int16 frames'),
    ('$store$_observation', lambda a: np.maximum(a, 1), 'must be zero padding'),
    ('$store$_action', lambda a: a[:-1], r'int32 \(119,\); expected one integer for each'),
    ('$store$_action', lambda a: a + 1, 'must be zero padding'),
    ('$store$_reward', lambda a: a.astype(int), 'expected one float'),
    ('add_count', lambda a: a * 0 - 5, 'expected a count'),
    ('add_count', lambda a: a + 1, 'are of stacks of 3, those of the log before of 4'),
    ('invalid_range', lambda a: a[:1], 'do not fit each other'),
  ],
)
def test_files_that_do_not_fit_are_named(copy, name, change, said):
  path = copy / 'replay_logs' / f'{name}_ckpt.3.gz'
  edit(path, change)
  with pytest.raises(DamagedLogError, match=said) as caught:
    read_all(dopamine_logs.DopamineLogs(copy))
  assert f'{name}_ckpt.3.gz' in str(caught.value)
  recording = dopamine_logs.DopamineLogs(copy, skip_missing=True)
  rows = read_all(recording)
  assert {int(c) for c in rows.checkpoint} == {0, 1, 2, 4}
  assert recording.skipped[0]['checkpoint'] == 3
  assert len(recording) == len(rows.action)


@pytest.mark.parametrize('name', ['$store$_observation', '$store$_reward', 'add_count'])
@pytest.mark.parametrize('damage', ['cut', 'flipped', 'empty', 'removed', 'pickled'])
def test_damaged_files_are_named_or_left_out(copy, name, damage):
  path = copy / 'replay_logs' / f'{name}_ckpt.1.gz'
  content = path.read_bytes()
  middle = len(content) // 2
  path.write_bytes(
    {
      'cut': content[: middle + 4],
      'flipped': content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
      'pickled': gzip.compress(pickle.dumps([1])),
    }.get(damage, b'')
  )
  if damage == 'removed':
    path.unlink()
  with pytest.raises((DamagedLogError, FileNotFoundError), match='skip_missing') as said:
    read_all(dopamine_logs.DopamineLogs(copy))
  assert f'{name}_ckpt.1.gz' in str(said.value)
  recording = dopamine_logs.DopamineLogs(copy, skip_missing=True)
  rows = read_all(recording)
  assert {int(c) for c in rows.checkpoint} == {0, 2, 3, 4}
  # An interrupted reading that is taken up again leaves out the same and goes on at the same row.
  again = dopamine_logs.DopamineLogs(copy, skip_missing=True)
  again.skip(recording.skipped)
  for start in (0, 60, 150, len(rows.action)):
    np.testing.assert_array_equal(
      np.concatenate([rows.action[:0], *(r.action for r in again.read(start))]), rows.action[start:]
    )


def test_frames_are_never_held_beyond_a_small_buffer(tmp_path):
  class Frames:
    shape, dtype = (0, 84, 84), np.dtype(np.uint8)

    def take(self, rows):
      return np.repeat((rows % 251).astype(np.uint8), 7056).reshape(-1, 84, 84)

  end = np.arange(16_000) % 500 == 499
  columns = dict(action=end, reward=end, terminal=end, episode_end=end)
  stored = types.SimpleNamespace(columns=columns, frames=Frames())
  assert export.write_logs(stored, tmp_path, capacity=8_000, compression=1) == 3
  recording = dopamine_logs.DopamineLogs(tmp_path)
  tracemalloc.start()
  try:
    rows = sum(len(rows.action) for rows in recording.read())
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert rows == 16_000
  assert peak < 0.5 * 8_000 * 7056  # Of one file, let alone of the two that are read at a time.


def test_nothing_is_unpickled(tmp_path):
  class Evil:
    def __reduce__(self):
      return (tmp_path.joinpath('was_run').touch, ())

  path = tmp_path / 'ends.gz'
  path.write_bytes(gzip.compress(pickle.dumps({1, np.int64(2**40), np.int32(7)})))
  np.testing.assert_array_equal(gzip_arrays.read_index_set(path), [1, 7, 2**40])
  for content in ([1, 2], {'a'}, {1.5}, Evil(), {np.float64(1)}):
    path.write_bytes(gzip.compress(pickle.dumps(content)))
    with pytest.raises(DamagedLogError, match='set of integers'):
      gzip_arrays.read_index_set(path)
  with gzip.open(tmp_path / 'objects.gz', 'wb') as stream:
    np.save(stream, np.array([Evil()], object), allow_pickle=True)
  with pytest.raises(DamagedLogError, match='pickled objects'):
    gzip_arrays.GzipArray(tmp_path / 'objects.gz')
  assert not (tmp_path / 'was_run').exists()


def test_arrays_in_parts(tmp_path):
  array = np.random.default_rng(0).integers(0, 9, (57, 3, 2)).astype('>i2')
  path = tmp_path / 'array.gz'
  with gzip.open(path, 'wb') as stream:
    np.save(stream, array)
  content = path.read_bytes()
  for plain in (1, 7, 100):
    for start in (0, 5, 56, 57):
      parts = list(gzip_arrays.GzipArray(path).parts(plain, start))
      np.testing.assert_array_equal(np.concatenate([array[:0], *parts]), array[start:])
      assert max(map(len, parts), default=0) <= plain
  with gzip.open(path) as stream:
    whole = stream.read()
  path.write_bytes(gzip.compress(whole[:90]) + gzip.compress(whole[90:]) + b'\0' * 9)
  np.testing.assert_array_equal(gzip_arrays.GzipArray(path).read(), array)
  path.write_bytes(gzip.compress(whole + b'x'))
  with pytest.raises(DamagedLogError, match='more than the 57 rows'):
    gzip_arrays.GzipArray(path).read()
  path.write_bytes(gzip.compress(whole[:-3]))
  with pytest.raises(DamagedLogError, match='less than the 57 rows'):
    gzip_arrays.GzipArray(path).read()
  path.write_bytes(content[:-4])
  with pytest.raises(DamagedLogError, match='truncated'):
    gzip_arrays.GzipArray(path).read()

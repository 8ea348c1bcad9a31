"""The offline source: what it samples, repeats and describes."""

import functools
import json

import gin
import jax
import numpy as np
import optax
import pytest
from scipy import stats

from implicit_rl import types
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data import source, transitions
from implicit_rl.data.replay.device_replay import DeviceReplay
from implicit_rl.data.replay.online_replay import OnlineReplay
from implicit_rl.data.replay.prioritized_replay import PrioritizedReplay
from implicit_rl.data.store import frame_store
from implicit_rl.learner import Learner
from implicit_rl.networks import MLP
from implicit_rl.running import experiment
from implicit_rl.running.vmapped_agents import SeedsSource
from tests.data import reference


def make(
  seed=0, selected=None, horizon=1, lengths=(7, 5, 9), terminals=(True, False, True), **settings
):
  episodes = reference.random_episodes(np.random.default_rng(0), lengths, terminals)
  observation, *rest = reference.columns_of(episodes)
  return episodes, source.StoredSource(
    transitions.make_columns(*rest),
    frame_store.RawFrames(observation),
    stack_size=4,
    update_horizon=horizon,
    gamma=0.9,
    seed=seed,
    selected=selected,
    description={'dataset': 'synthetic'},
    **settings,
  )


def test_samples_are_transitions_of_the_data_and_all_are_reached():
  episodes, data = make()
  expected = [
    found
    for episode in episodes
    for t in range(len(episode))
    if (found := reference.transition(episode, t, 4, 1, 0.9))
  ]
  assert len(data) == len(expected) == 20  # 21 rows less the tail of the truncated episode.
  by_state = {e['state'].tobytes(): i for i, e in enumerate(expected)}
  batch = data.sample(0, 10, 32)
  assert batch.state.shape == (10, 32, 4, 2, 3)
  seen = set()
  for index in np.ndindex(10, 32):
    which = by_state[batch.state[index].tobytes()]
    reference.assert_transition(batch, index, expected[which])
    seen.add(which)
  assert seen == set(range(20))


def test_grouping_of_updates_changes_nothing():
  _, data = make()
  whole = data.sample(3, 4, 5)
  for k in range(4):
    part = data.sample(3 + k, 1, 5)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
      np.testing.assert_array_equal(a[k], b[0])


@pytest.mark.parametrize('codec', frame_store.CODECS)
def test_every_valid_row_is_drawn_equally_often(codec):
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 60, 40).tolist()
  end = np.zeros(sum(lengths), bool)
  end[np.cumsum(lengths) - 1] = True
  terminal = end & (rng.random(len(end)) < 0.5)  # Other episodes' last 3 rows start nothing.
  names = np.arange(len(end)).astype('<u2').view(np.uint8).reshape(-1, 2)  # A frame is its row.
  data = source.StoredSource(
    transitions.make_columns(end, end, terminal, end),
    frame_store.pack(names, codec),
    stack_size=2,
    update_horizon=3,
    gamma=0.9,
    selected=rng.random(len(end)) < 0.7,
  )
  batch = data.sample(0, 2000, 32)
  drawn = np.ascontiguousarray(batch.state[..., -1, :]).view('<u2').ravel()
  counts = np.bincount(drawn, minlength=len(end))[data._valid]
  assert counts.sum() == 64_000 and len(counts) == len(data) < len(end)
  assert stats.chisquare(counts).pvalue > 1e-3  # One seed in a thousand fails; this one does not.


def test_a_pass_in_order_has_every_transition_once():
  _, data = make(lengths=(7, 5, 9))
  batches = list(data.in_order(8))
  assert [len(batch.action) for batch in batches] == [8, 8, 4]
  expected = data._gather(data._valid[:])
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
  jax.tree.map(np.testing.assert_array_equal, expected, joined)


def test_fixed_batch_depends_on_the_seed_alone():
  a, b, other = make()[1], make()[1], make(seed=1)[1]
  a.sample(0, 3, 8)
  first = a.fixed_batch(64)
  assert first.state.shape == (64, 4, 2, 3)
  np.testing.assert_array_equal(first.state, b.fixed_batch(64).state)
  assert not np.array_equal(first.state, other.fixed_batch(64).state)
  assert not np.array_equal(first.state, a.sample(0, 1, 64).state[0])


def test_held_out_transitions_are_whole_episodes_that_no_update_draws():
  lengths = np.random.default_rng(1).integers(3, 12, 30)
  ends = np.cumsum(lengths)
  settings = {'lengths': lengths, 'terminals': [True] * 30, 'horizon': 2}
  (_, whole), (_, data) = make(**settings), make(**settings, held_out=0.3)
  trained, kept_out = data._valid[:], data._held_out[:]
  assert sorted([*trained, *kept_out]) == list(whole._valid[:])
  assert len(kept_out) == pytest.approx(0.3 * len(whole), abs=12)
  assert not set(np.searchsorted(ends, trained, 'right')) & set(
    np.searchsorted(ends, kept_out, 'right')
  )
  states = {state.tobytes() for state in data._gather(kept_out).state}
  assert not states & {x.tobytes() for x in data.sample(0, 50, 32).state.reshape(1600, 4, 2, 3)}
  assert not states & {x.tobytes() for x in data.fixed_batch(200).state}
  batch = data.held_out_batch(1000)
  assert {x.tobytes() for x in batch.state} == states  # So many draws reach all.
  assert not np.isnan(batch.return_to_go).any()
  other = data.with_seed(3)
  np.testing.assert_array_equal(other._held_out[:], kept_out)
  assert not np.array_equal(other.held_out_batch(9).state, batch.state[:9])
  assert data.identity()['held_out'] == 0.3 and 'held_out' not in whole.identity()
  assert data.describe()['held_out_transitions'] == len(kept_out)
  assert whole.held_out_batch(8) is None
  returns = np.arange(lengths.sum(), dtype=np.float32)
  _, known = make(**settings, held_out=0.3, return_to_go=returns)
  assert known.return_range == (trained.min(), trained.max())
  for share, message in ((1.0, r'held_out = 1.0 takes all'), (-1, r'held_out must be a number')):
    with pytest.raises(ValueError, match=message):
      make(**settings, held_out=share)
  with pytest.raises(ValueError, match='of the 1 episodes'):
    make(lengths=(9,), terminals=(True,), held_out=0.1)


def test_only_selected_rows_start_transitions():
  selected = np.zeros(21, bool)
  selected[[0, 6, 11]] = True  # Row 11 is the tail of the truncated episode.
  _, data = make(selected=selected)
  assert len(data) == 2
  selected[:] = False
  with pytest.raises(ValueError, match='No complete transition is left'):
    make(selected=selected)


def test_description_is_json_with_counts():
  _, data = make()
  described = json.loads(json.dumps(data.describe()))
  assert described['dataset'] == 'synthetic'
  assert (described['rows'], described['transitions']) == (21, 20)
  assert (described['segments'], described['terminals']) == (3, 2)
  assert data.max_action == described['max_action'] <= 5
  assert data.observation_shape == (2, 3)
  assert data.observation_dtype == np.uint8


@pytest.mark.parametrize(
  'wrong', [{'stack_size': 0}, {'update_horizon': 0}, {'gamma': 1.5}, {'seed': -1}]
)
def test_settings_out_of_range_are_named(wrong):
  settings = {'stack_size': 4, 'update_horizon': 1, 'gamma': 0.9, 'seed': 0, **wrong}
  with pytest.raises(ValueError, match=next(iter(wrong))):
    source.check_settings(**settings)


def test_frames_that_are_a_plain_array_are_refused():
  """Its `take` would return single numbers instead of frames."""
  episodes = reference.random_episodes(np.random.default_rng(0), [9], [True])
  observation, *rest = reference.columns_of(episodes)
  settings = dict(stack_size=1, update_horizon=1, gamma=0.9)
  for array in (observation, jax.numpy.asarray(observation)):
    with pytest.raises(ValueError, match=r'frames is a plain array: pass .*RawFrames\(frames\)'):
      source.StoredSource(transitions.make_columns(*rest), array, **settings)


@gin.configurable
def nameless(observation_shape, observation_dtype, **settings):
  """A source of one's own whose description has no `dataset`."""
  rng = np.random.default_rng(0)
  episodes = reference.random_episodes(rng, [40], [True], observation_shape, observation_dtype)
  observation, action, *rest = reference.columns_of(episodes)
  columns, frames = transitions.make_columns(action % 3, *rest), frame_store.RawFrames(observation)
  return source.StoredSource(columns, frames, description={'origin': 'here'}, **settings)


def test_a_run_needs_no_name_of_its_data(tmp_path, capsys):
  bindings = {
    'Agent.source': '@nameless',
    'OfflineRunner.num_iterations': 1,
    'OfflineRunner.training_steps': 2,
    'OfflineRunner.evaluation_steps': 10,
  }
  experiment.parse_gin(
    ['gin_configs/minatar/offline_dqn.gin'], [f'{k} = {v}' for k, v in bindings.items()]
  )
  experiment.create_runner(str(tmp_path)).run_experiment()
  assert '40 transitions of unnamed data' in capsys.readouterr().out


def test_every_source_is_a_data_source():
  """Also the one that several seeds share; whatever has a member has it as the protocol says."""
  settings = {'stack_size': 2, 'update_horizon': 1, 'gamma': 0.9}
  shape = {'observation_shape': (2,), 'observation_dtype': np.float32}
  replays = [
    kind(**settings, **shape, capacity=80)
    for kind in (OnlineReplay, PrioritizedReplay, DeviceReplay)
  ]
  rows = 20
  stored = source.StoredSource(
    transitions.make_columns(
      np.arange(rows) % 3, np.ones(rows), np.arange(rows) == rows - 1, np.arange(rows) == rows - 1
    ),
    frame_store.RawFrames(np.zeros((rows, 2), np.float32)),
    **settings,
  )
  seeds = SeedsSource([stored, stored.with_seed(1)])
  for made in (*replays, stored, seeds):
    source.check_source(made)
    assert made.observation_shape == (2,) and made.stack_size == 2 and made.action_shape == ()
    assert source.DataSource in type(made).__mro__
  assert [made.prioritized for made in (*replays, stored, seeds)] == [False, True, *[False] * 3]
  assert [made.recorder is made for made in (*replays, stored, seeds)] == [True, True, *[False] * 3]
  assert [made.compiled_memory is made for made in replays] == [False, False, True]
  assert stored.state_dict() == {} and seeds.state_dict() == {'0': {}, '1': {}}
  seeds.load_state_dict(seeds.state_dict())
  assert len(seeds) == len(stored) and seeds.max_action == stored.max_action == 2
  for number, one in enumerate((stored, stored.with_seed(1))):
    for both, own in zip(seeds.fixed_batch(5), one.fixed_batch(5), strict=True):
      if own is not None:
        np.testing.assert_array_equal(both[number], own)
  assert not np.array_equal(*seeds.sample(0, 1, 32).action[0])


class Mine(source.DataSource):
  """As small as a source can be: one state, two actions."""

  observation_shape = (1,)
  observation_dtype = np.dtype(np.float32)
  stack_size = 1

  def __init__(self, **settings):
    self._seed = settings['seed']

  def __len__(self):
    return 2

  def sample(self, first_update, num_updates, batch_size):
    return self._batch((num_updates, batch_size), first_update)

  def fixed_batch(self, size):
    return self._batch((size,), -1)

  def describe(self):
    return {'dataset': 'mine', 'transitions': 2}

  def _batch(self, leading, first):
    rng = np.random.default_rng([self._seed, first + 1])
    action = rng.integers(0, 2, leading, np.int32)
    states = np.ones((*leading, 1, 1), np.float32)
    return types.Batch(
      state=states,
      action=action,
      reward=action.astype(np.float32),
      next_state=states,
      next_action=action,
      discount=np.zeros(leading, np.float32),
      weight=np.ones(leading, np.float32),
    )


def test_a_source_with_only_what_must_be_written_trains_an_agent():
  """Q is then the reward of each action: 0 and 1."""
  agent = DQNAgent(
    2,
    (1,),
    np.float32,
    1,
    Mine,
    network=MLP,
    learner=functools.partial(Learner, optimizer=optax.adam(0.01)),
  )
  agent.train(300)
  assert agent.bundle_and_checkpoint('', 0)['source'] == {}
  q_values = agent.apply(agent.state.params, np.ones((1, 1, 1), np.float32)).q_values
  np.testing.assert_allclose(q_values, [[0, 1]], atol=0.05)

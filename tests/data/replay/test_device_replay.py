"""The device's replay against the host's, and its draws against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from implicit_rl.data import device_store
from implicit_rl.data.replay import device_priorities, device_replay
from implicit_rl.data.replay.online_replay import OnlineReplay

SHAPE, STREAMS = (2, 3), 3


def make_steps(count, seed=0):
  """`count` steps of each stream; episodes of about 6 steps, half of them cut off."""
  rng = np.random.default_rng(seed)
  ended = rng.random((count, STREAMS)) < 1 / 6
  return {
    'observation': rng.integers(1, 255, (count, STREAMS, *SHAPE)).astype(np.uint8),
    'action': rng.integers(0, 4, (count, STREAMS)).astype(np.int32),
    'reward': rng.normal(size=(count, STREAMS)).astype(np.float32),
    'terminal': ended & (rng.random((count, STREAMS)) < 0.5),
    'episode_end': ended,
  }


ADD = jax.jit(device_replay.add)
SETTINGS = ('stack_size', 'update_horizon', 'gamma')
COMPLETE = jax.jit(device_store.complete, static_argnames=SETTINGS[:2])
GATHER = jax.jit(device_store.gather, static_argnames=SETTINGS)
DRAW = jax.jit(device_priorities.draw, static_argnums=2, static_argnames='stratified')


def fill(replay, steps):
  for t in range(len(steps['action'])):
    replay.memory = ADD(replay.memory, **{name: jnp.asarray(v[t]) for name, v in steps.items()})


def make_replay(rows, stack_size=2, update_horizon=1, **settings):
  return device_replay.DeviceReplay(
    SHAPE,
    np.uint8,
    stack_size=stack_size,
    update_horizon=update_horizon,
    gamma=0.9,
    capacity=rows * STREAMS,
    num_environments=STREAMS,
    **settings,
  )


@pytest.mark.parametrize(
  ('stack_size', 'update_horizon', 'count'), [(1, 1, 15), (4, 1, 33), (2, 3, 47)]
)
def test_holds_what_the_host_holds(stack_size, update_horizon, count):
  """Each stream against an `OnlineReplay` of its own, before and after the ring has wrapped."""
  rows = 20
  settings = {'stack_size': stack_size, 'update_horizon': update_horizon}
  replay, steps = make_replay(rows, **settings), make_steps(count)
  fill(replay, steps)
  t = np.arange(max(0, count - rows), count)
  total = 0
  for stream in range(STREAMS):
    host = OnlineReplay(SHAPE, np.uint8, **settings, gamma=0.9, capacity=rows)
    for i in range(count):
      host.add(**{name: values[i, stream] for name, values in steps.items()})
    where = (jnp.asarray(t, jnp.int32), jnp.full(len(t), stream, jnp.int32))
    complete = device_store.complete(replay.memory.rows, *where, replay.memory.added, **settings)
    np.testing.assert_array_equal(complete, host._complete(t))
    chosen = t[np.asarray(complete)]
    got = GATHER(
      replay.memory.rows,
      jnp.asarray(chosen, jnp.int32),
      jnp.full(len(chosen), stream, jnp.int32),
      **settings,
      gamma=0.9,
    )
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, host._gather(chosen)
    )
    total += len(chosen)
  assert len(replay) == total > 0


@pytest.mark.parametrize('prioritized', [False, True])
def test_draws_complete_rows_in_the_right_proportions(prioritized):
  """Chi-square of 40,000 draws, fixed seed; equal priorities are uniform sampling."""
  replay = make_replay(20, update_horizon=2, prioritized=prioritized)
  fill(replay, make_steps(33))
  expected = np.ones(20 * STREAMS)
  if prioritized:
    drawn = device_replay.Drawn(*(x.ravel() for x in np.mgrid[13:33, 0:STREAMS].astype(np.int32)))
    expected = np.random.default_rng(1).integers(1, 9, 20 * STREAMS).astype(np.float32)
    replay.memory = device_replay.set_priorities(replay.memory, drawn, jnp.asarray(expected))
  t, stream = (x.ravel().astype(np.int32) for x in np.mgrid[13:33, 0:STREAMS])
  complete = np.asarray(
    COMPLETE(
      replay.memory.rows,
      jnp.asarray(t),
      jnp.asarray(stream),
      replay.memory.added,
      stack_size=2,
      update_horizon=2,
    )
  )
  sample = jax.jit(device_replay.sample, static_argnums=(2, 3))
  counts = np.zeros(20 * STREAMS)
  for k in range(20):
    batch, drawn = sample(replay.memory, jax.random.PRNGKey(k), 2000, replay.settings)
    np.add.at(counts, (np.asarray(drawn.t) - 13) * STREAMS + np.asarray(drawn.stream), 1)
  assert not counts[~complete].any()
  share = expected[complete] / expected[complete].sum()
  if prioritized:  # Stratified over all rows, so counts vary less than independent draws.
    np.testing.assert_allclose(counts[complete] / counts.sum(), share, atol=0.004)
    places = (np.asarray(drawn.t) % 20) * STREAMS + np.asarray(drawn.stream)
    priority = np.asarray(replay.memory.priorities.value)
    weight = (priority[places] / priority.sum()) ** -0.5
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-5)
  else:
    assert stats.chisquare(counts[complete], share * counts.sum()).pvalue > 0.01
    np.testing.assert_array_equal(batch.weight, 1)


@pytest.mark.parametrize('size', [1, 7, 12, 240])
def test_places_are_where_numpy_finds_them(size):
  rng = np.random.default_rng(size)
  priorities, value = device_priorities.empty(size), np.zeros(size)
  for _ in range(5):  # Small whole numbers: float32 sums are exact.
    places = rng.choice(size, min(size, 30), replace=False)
    value[places] = rng.integers(0, 50, len(places))
    priorities = device_priorities.put(
      priorities, jnp.asarray(places), jnp.asarray(value[places], jnp.float32)
    )
  value[0] = 3
  priorities = device_priorities.put(priorities, jnp.zeros(1, jnp.int32), jnp.full(1, 3.0))
  np.testing.assert_array_equal(priorities.value, value)
  np.testing.assert_allclose(priorities.block_sums.sum(), value.sum())
  key = jax.random.PRNGKey(0)
  uniform = np.asarray(jax.random.uniform(key, (64,)), np.float64)
  for stratified, sought in ((False, uniform), (True, (np.arange(64) + uniform) / 64)):
    expected = np.searchsorted(np.cumsum(value), sought * value.sum(), side='right')
    got = DRAW(priorities, key, 64, stratified=stratified)
    assert (np.asarray(got) == expected).mean() > 0.98  # Float32 may fall beside a boundary.
    assert (value[np.asarray(got)] > 0).all()


def test_new_rows_get_the_largest_priority_there_has_been():
  replay, steps = make_replay(20, prioritized=True), make_steps(9)
  fill(replay, steps)
  np.testing.assert_array_equal(replay.memory.priorities.value[: 9 * STREAMS], 1)
  drawn = device_replay.Drawn(jnp.asarray([2, 5]), jnp.asarray([0, 2]))
  replay.memory = device_replay.set_priorities(replay.memory, drawn, jnp.asarray([7.0, 0.5]))
  fill(replay, make_steps(1))
  value = np.asarray(replay.memory.priorities.value).reshape(20, STREAMS)
  assert value[2, 0] == 7 and value[5, 2] == 0.5
  np.testing.assert_array_equal(value[9], 7)
  assert not value[10:].any()


def test_restored_draws_what_it_would_have_drawn():
  replay, steps = make_replay(20, prioritized=True), make_steps(33)
  fill(replay, steps)
  again = make_replay(20, prioritized=True)
  again.load_state_dict(replay.state_dict())
  for made in (lambda r: r.sample(5, 2, 8), lambda r: r.fixed_batch(16)):
    jax.tree.map(np.testing.assert_array_equal, made(again), made(replay))
  assert again.identity() == replay.identity()
  for other in (make_replay(20), make_replay(40, prioritized=True)):
    with pytest.raises(ValueError, match='does not fit this memory'):
      other.load_state_dict(replay.state_dict())


def test_wrong_settings_are_named():
  with pytest.raises(ValueError, match='multiple of num_environments = 3'):
    make_replay(1)
  with pytest.raises(ValueError, match='no complete transition yet'):
    make_replay(20).fixed_batch(4)

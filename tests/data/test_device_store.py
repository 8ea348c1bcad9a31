"""Device stores cut the same transitions as the host's, and train the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data import device_store, source, transitions
from implicit_rl.data.store.frame_store import RawFrames
from implicit_rl.networks import MLP


def make_store(rows=120, seed=0):
  """Episodes of 1 to 12 rows, half of them cut off rather than terminal."""
  rng = np.random.default_rng(seed)
  end = np.cumsum(rng.integers(1, 13, rows))
  episode_end = np.zeros(rows, bool)
  episode_end[end[end < rows] - 1] = True
  episode_end[-1] = True
  columns = transitions.make_columns(
    rng.integers(0, 3, rows),
    rng.normal(size=rows),
    episode_end & (rng.random(rows) < 0.5),
    episode_end,
  )
  return columns, rng.integers(1, 255, (rows, 2, 3)).astype(np.uint8)


@pytest.mark.parametrize(('stack_size', 'update_horizon'), [(1, 1), (4, 1), (4, 3), (2, 5)])
def test_gathers_what_the_host_gathers(stack_size, update_horizon):
  columns, frames = make_store()
  settings = {'stack_size': stack_size, 'update_horizon': update_horizon, 'gamma': 0.9}
  rows = np.flatnonzero(
    transitions.valid_rows(columns.terminal, columns.episode_end, update_horizon)
  )
  expected = transitions.gather(columns, RawFrames(frames), rows, **settings)
  store = device_store.from_host(columns, RawFrames(frames), np.arange(120, dtype=np.float32))
  got = jax.jit(functools.partial(device_store.gather_one_stream, **settings))(
    store, jnp.asarray(rows, jnp.int32)
  )
  for name, value in expected._asdict().items():
    if name == 'return_to_go':
      np.testing.assert_array_equal(got.return_to_go, rows.astype(np.float32))
      continue
    assert getattr(got, name).dtype == value.dtype, name
    check = np.testing.assert_allclose if name == 'reward' else np.testing.assert_array_equal
    check(
      getattr(got, name),
      value,
      err_msg=name,
      **({'rtol': 1e-5, 'atol': 1e-6} if name == 'reward' else {}),
    )


def test_an_agent_trains_from_device_memory_as_from_the_host():
  columns, frames = make_store()
  ends = []
  for on_device in (False, True):

    def make_source(observation_shape, observation_dtype, on_device=on_device, **settings):
      return source.StoredSource(columns, RawFrames(frames), on_device=on_device, **settings)

    agent = DQNAgent(3, (2, 3), np.uint8, 4, source=make_source, network=MLP, batch_size=8)
    metrics = agent.train(70)
    ends.append((agent.state.params, metrics, agent.source.fixed_batch(16), agent.measure))
  (host, host_metrics, host_batch, _), (device, device_metrics, device_batch, _) = ends
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), host, device)
  jax.tree.map(np.testing.assert_array_equal, host_batch, device_batch)
  assert host_metrics.keys() == device_metrics.keys()
  np.testing.assert_allclose(host_metrics['Losses/TD'], device_metrics['Losses/TD'], rtol=1e-4)

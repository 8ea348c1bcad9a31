"""Returns of the fixed batch, and the range of rewards, against sums written out step by step."""

import jax
import numpy as np
import pytest

from implicit_rl.data import source, transitions
from implicit_rl.data.replay import device_replay, online_replay
from implicit_rl.data.store import frame_store

GAMMA = 0.5  # What is missing 7 steps ahead counts 0.5⁷ < 0.01.
SETTINGS = {'stack_size': 1, 'update_horizon': 1, 'gamma': GAMMA}


def steps(seed, count, least=3, most=12):
  """Rewards, terminals and ends [count]; the last episode may be unfinished."""
  rng = np.random.default_rng(seed)
  reward = rng.normal(size=count).astype(np.float32)
  episode_end = np.zeros(count, bool)
  at = -1
  while (at := at + int(rng.integers(least, most))) < count:
    episode_end[at] = True
  return reward, episode_end & (rng.random(count) < 0.7), episode_end


def expected_return(reward, terminal, episode_end, row):
  """The definition: NaN if the episode's end is not known and near."""
  total, weight = 0.0, 1.0
  for at in range(row, len(reward)):
    total += weight * float(reward[at])
    weight *= GAMMA
    if terminal[at]:
      return total
    if episode_end[at]:
      break
  return np.nan if weight > 0.01 else total


def check(batch, reward, terminal, episode_end):
  """Rewards are all different, so each names its row."""
  rows = [int(np.flatnonzero(reward == one)[0]) for one in batch.reward]
  wanted = [expected_return(reward, terminal, episode_end, row) for row in rows]
  assert 0 < np.isnan(wanted).sum() < len(rows)
  np.testing.assert_allclose(batch.return_to_go, wanted, rtol=1e-5, atol=1e-6)


def test_a_finished_store():
  reward, terminal, episode_end = steps(0, 300)
  episode_end[-1] = True
  columns = transitions.make_columns(np.zeros(300, int), reward, terminal, episode_end)
  frames = frame_store.RawFrames(np.zeros((300, 2), np.float32))
  stored = source.StoredSource(columns, frames, **SETTINGS)
  check(stored.fixed_batch(200), reward, terminal, episode_end)
  assert stored.sample(0, 1, 4).return_to_go is None
  assert stored.reward_range == (reward.min(), reward.max())


@pytest.mark.parametrize('count', [60, 250])
def test_a_replay_that_has_forgotten_its_oldest_rows_or_not(count):
  capacity = 100
  replay = online_replay.OnlineReplay((2,), np.float32, capacity=capacity, **SETTINGS)
  assert replay.reward_range is None
  columns = steps(1, count)
  for reward, terminal, episode_end in zip(*columns, strict=True):
    replay.add(np.zeros(2), 0, float(reward), bool(terminal), bool(episode_end))
  before = replay.state_dict()
  check(replay.fixed_batch(150), *(column[-capacity:] for column in columns))
  jax.tree.map(np.testing.assert_array_equal, before, replay.state_dict())
  held = columns[0][-capacity:]
  assert replay.reward_range == (held.min(), held.max())


@pytest.mark.parametrize('count', [30, 125])
def test_a_replay_in_device_memory(count):
  streams, capacity = 3, 50
  replay = device_replay.DeviceReplay(
    (2,), np.float32, capacity=capacity * streams, num_environments=streams, **SETTINGS
  )
  assert replay.reward_range is None
  each = [steps(seed, count) for seed in (2, 3, 4)]
  memory = replay.memory
  add = jax.jit(device_replay.add)
  for t in range(count):
    reward, terminal, episode_end = (np.stack([one[i][t] for one in each]) for i in range(3))
    frames = np.zeros((streams, 2), np.float32)
    memory = add(memory, frames, np.zeros(streams, int), reward, terminal, episode_end)
  replay.memory = memory
  cut = [[column[-capacity:].copy() for column in one] for one in each]
  for _, _, episode_end in cut:
    episode_end[-1] = True  # Streams stand one after the other below.
  check(replay.fixed_batch(150), *(np.concatenate(columns) for columns in zip(*cut, strict=True)))
  held = np.concatenate([one[0] for one in cut])
  assert replay.reward_range == (held.min(), held.max())

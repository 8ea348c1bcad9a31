"""A slow, direct implementation of transitions, written from their definition."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Step:
  """One logged step: what was seen, done and received, and whether the episode went on."""

  observation: np.ndarray
  action: int
  reward: float
  terminal: bool
  episode_end: bool


def random_episodes(rng, lengths, terminals, shape=(2, 3), dtype=np.uint8):
  """Returns episodes as lists of steps; pixel values are never zero, so padding shows."""
  episodes = []
  for length, terminal in zip(lengths, terminals, strict=True):
    episodes.append(
      [
        Step(
          observation=rng.integers(1, 255 if dtype is np.uint8 else 2, shape).astype(dtype),
          action=int(rng.integers(6)),
          reward=float(rng.normal()),
          terminal=bool(terminal and i == length - 1),
          episode_end=i == length - 1,
        )
        for i in range(length)
      ]
    )
  return episodes


def transition(episode, t, stack_size, horizon, gamma):
  """Returns the transition at step t of one episode as a dict, or None if it is incomplete."""
  zero = np.zeros_like(episode[0].observation)

  def stack(at):
    return np.stack(
      [
        episode[i].observation if 0 <= i < len(episode) else zero
        for i in range(at - stack_size + 1, at + 1)
      ]
    )

  reward, discount = 0.0, 1.0
  for i in range(horizon):
    if t + i >= len(episode):
      return None
    reward += gamma**i * episode[t + i].reward
    if episode[t + i].terminal:
      discount = 0.0
      break
  if discount and t + horizon >= len(episode):
    return None
  return {
    'state': stack(t),
    'action': episode[t].action,
    'reward': reward,
    'next_state': stack(t + horizon),
    'next_action': episode[t + horizon].action if discount else None,
    'discount': discount,
  }


def columns_of(episodes):
  """Returns observation, action, reward, terminal, episode_end as arrays over all rows."""
  steps = [step for episode in episodes for step in episode]
  return (
    np.stack([s.observation for s in steps]),
    np.array([s.action for s in steps]),
    np.array([s.reward for s in steps]),
    np.array([s.terminal for s in steps]),
    np.array([s.episode_end for s in steps]),
  )


def assert_transition(batch, index, expected):
  """Asserts that element `index` of a batch is the expected transition."""
  np.testing.assert_array_equal(batch.state[index], expected['state'])
  assert batch.action[index] == expected['action']
  np.testing.assert_allclose(batch.reward[index], expected['reward'], rtol=1e-5, atol=1e-6)
  assert batch.discount[index] == expected['discount']
  assert batch.weight[index] == 1
  if expected['discount']:
    np.testing.assert_array_equal(batch.next_state[index], expected['next_state'])
    assert batch.next_action[index] == expected['next_action']

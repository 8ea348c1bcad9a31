"""Atari evaluations side by side: Dopamine's frames, and the episodes of a loop by hand."""

import heapq
import itertools

import ale_py
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.environments import atari, atari_evaluation

LIMIT = 250
STEPS = 700


def seeded(game, seed, **kwargs):
  """Our environment on Dopamine's preprocessing, the emulator seeded with this very number."""
  environment = atari.AtariEnvironment(game, **kwargs)
  environment._emulator.setInt('random_seed', seed)
  path = ale_py.roms.get_rom_path(gymnasium.spec(f'ALE/{game}-v5').kwargs['game'])
  environment._emulator.loadROM(path)
  return environment


@pytest.mark.parametrize(
  ('game', 'sticky', 'steps'),
  [
    ('Breakout', False, 250),
    ('Breakout', True, 400),
    ('Pong', True, 250),
    ('SpaceInvaders', True, 250),  # Shots flicker: without the maximum of two frames they are lost.
    ('MsPacman', True, 250),
  ],
)
def test_frames_rewards_and_ends_are_dopamines(game, sticky, steps):
  theirs = seeded(game, 7, sticky_actions=sticky)
  ours = atari_evaluation.Copy(game, sticky)
  ours.seed(7)
  rng = np.random.default_rng(1)
  stack, rewards, ends = begin(theirs, ours), [], 0
  for _ in range(steps):
    action = int(rng.integers(theirs.num_actions))
    observation, reward, over, info = theirs.step(action)
    ours.send(action)
    assert ours.receive() == (reward, over)
    assert ours.lives == info['lives']
    rewards.append(reward)
    if over:  # That frame no one sees; Dopamine's is the one before if the end came early.
      stack, ends = begin(theirs, ours), ends + 1
      continue
    stack = np.concatenate([stack[1:], observation[None, ..., 0]])
    np.testing.assert_array_equal(ours.states[0], stack)
  assert np.any(rewards)
  assert ends or game != 'Breakout'
  ours.close()


def begin(theirs, ours):
  """Starts an episode in both; returns the first stack, [4, 84, 84], as an agent makes it."""
  stack = np.zeros((4, 84, 84), np.uint8)
  stack[-1] = theirs.reset()[..., 0]
  ours.begin()
  np.testing.assert_array_equal(ours.states[0], stack)
  return stack


def choose(params, states, key):
  """A policy that any change in a pixel, an older frame or the key would change; in integers."""
  weights = jnp.arange(states[0].size, dtype=jnp.uint32) * params
  seen = states.reshape(len(states), -1).astype(jnp.uint32) @ weights
  return ((seen >> 3) + jax.random.bits(key, seen.shape, 'uint32') % 2).astype(jnp.int32) % 4


PARAMS = np.uint32(2654435761)
KEY = jax.random.key(5)


@pytest.mark.exhaustive
def test_evaluation_is_a_loop_over_episodes(monkeypatch):
  monkeypatch.setattr(atari_evaluation, '_STEPS_PER_COPY', 1)
  sizes = []

  def act(params, states, key):
    sizes.append(states.shape)
    return choose(params, states, key)

  environment = atari.AtariEnvironment('Breakout', num_environments=3)
  told = []
  returns, lengths = environment.evaluate(act, PARAMS, KEY, STEPS, LIMIT, told.append)
  act_key, seed_key = jax.random.split(KEY)
  seeds = jax.random.bits(seed_key, (3,), 'uint32') >> 1
  copies = [seeded('Breakout', int(seed)) for seed in seeds]
  free = [(0, copy - 3, copy) for copy in range(3)]  # When, after which episode, which.
  expected = []
  while sum(length for _, length in expected) < STEPS:
    episode = len(expected)
    time, _, copy = heapq.heappop(free)
    expected.append(play(copies[copy], jax.random.fold_in(act_key, episode)))
    heapq.heappush(free, (time + expected[-1][1], episode, copy))
  assert expected == list(zip(returns.tolist(), lengths.tolist(), strict=True))
  assert len(set(lengths.tolist())) > 1 and returns.sum() > 0
  assert sum(told) == STEPS and len(told) > max(lengths)
  stopped_and_repeated(environment, act, returns)
  assert sizes == [(1, 4, 84, 84)] * 2  # Traced for batches of 3 and of 1, in the first evaluation.


def play(environment, key):
  """One episode, a step at a time. Returns (return, length)."""
  stack = np.zeros((4, 84, 84), np.uint8)
  stack[-1] = environment.reset()[..., 0]
  total = 0.0
  for step in itertools.count():
    (action,) = jitted(PARAMS, stack[None], jax.random.fold_in(key, step))
    observation, reward, over, _ = environment.step(int(action))
    total += reward
    if over or step + 1 == LIMIT:
      return total, step + 1
    stack = np.concatenate([stack[1:], observation[None, ..., 0]])


jitted = jax.jit(choose)


class StopError(Exception):
  """What a progress may raise."""


def stopped_and_repeated(environment, act, returns):
  """After another evaluation, and one that was given up, the first is as it was."""
  calls = itertools.count()

  def stop(steps):
    if next(calls) == 5:
      raise StopError(steps)

  with pytest.raises(StopError):
    environment.evaluate(act, PARAMS, jax.random.key(6), STEPS, LIMIT, stop)
  assert next(calls) == 6
  again, _ = environment.evaluate(act, PARAMS, KEY, STEPS, LIMIT)
  np.testing.assert_array_equal(again, returns)


def test_the_episodes_that_count_are_the_first_that_suffice(monkeypatch):
  monkeypatch.setattr(atari_evaluation, '_STEPS_PER_COPY', 1)
  environment = atari.AtariEnvironment('Pong', num_environments=4, max_steps_per_episode=20)
  for steps, episodes in ((20, 1), (81, 5)):
    returns, lengths = environment.evaluate(choose, PARAMS, KEY, steps)
    assert lengths.tolist() == [20] * episodes and len(returns) == episodes
    assert (returns.dtype, lengths.dtype) == (np.float32, np.int32)
  with pytest.raises(ValueError, match='num_steps'):
    environment.evaluate(choose, PARAMS, KEY, 0)
  with pytest.raises(
    ValueError, match=r'AtariEnvironment.num_environments must be at least 1, got 0'
  ):
    atari.AtariEnvironment('Pong', num_environments=0)
  environment.close()

"""MinAtar: episodes against gymnax stepped by hand, evaluation against a plain loop."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.environments.minatar import GAMES, MinAtarEnvironment
from tests.cases import cases


def act_at_random(params, observations, key):
  """A policy that depends on all it is given: parameters, what it sees, and the key."""
  seen = observations.astype(jnp.int32).sum(axis=(1, 2, 3, 4))  # [E]
  noise = jax.random.randint(key, seen.shape, 0, 100)
  return (seen + noise + params) % 3


@functools.cache
def by_hand(game):
  """Gymnax's own functions, compiled: reset(key) and step(key, state, action)."""
  raw, parameters = gymnax.make(f'{game}-MinAtar')
  return (
    jax.jit(lambda key: raw.reset_env(key, parameters)),
    jax.jit(lambda key, state, action: raw.step_env(key, state, action, parameters)),
  )


def play_by_hand(game, environment, episode_key, act_keys, params, slot, limit):
  """One evaluation episode on gymnax's own functions. Returns (return, length)."""
  copies = environment.num_environments
  reset_env, step_env = by_hand(game)
  observation, state = reset_env(jax.random.fold_in(episode_key, 0))
  total, last_action = 0.0, 0
  for t in range(1, limit + 1):
    # `act` sees a batch; only this episode's row matters, for the policy looks at each row alone.
    batch = jnp.broadcast_to(observation.astype(jnp.uint8), (copies, 1, *observation.shape))
    action = int(act_at_random(params, batch, act_keys(t))[slot])
    sticky_key, game_key = jax.random.split(jax.random.fold_in(episode_key, t))
    if bool(jax.random.bernoulli(sticky_key, environment.rules.sticky_probability)):
      action = last_action
    last_action = action
    observation, state, reward, terminated, _ = step_env(game_key, state, action)
    total += float(reward)
    if bool(terminated):
      break
  return total, t


@pytest.mark.parametrize('game, limit', [('Breakout', 1000), ('SpaceInvaders', 20)])
def test_evaluation_equals_a_plain_loop_over_episodes(game, limit):
  environment = MinAtarEnvironment(game, num_environments=3, sticky_probability=0.3)
  key = jax.random.key(7)
  returns, lengths = environment.evaluate(act_at_random, jnp.int32(1), key, 40, limit)
  assert len(returns) % 3 == 0 and lengths.sum() >= 40
  assert lengths[:-3].sum() < 40  # no round more than needed
  expected = []
  for episode in range(len(returns)):
    r, e = divmod(episode, 3)
    round_key = jax.random.fold_in(key, r)
    expected.append(
      play_by_hand(
        game,
        environment,
        jax.random.fold_in(round_key, e),
        lambda t, k=round_key: jax.random.fold_in(k, 3 + t),
        jnp.int32(1),
        e,
        limit,
      )
    )
  np.testing.assert_array_equal(returns, np.array([r for r, _ in expected], np.float32))
  np.testing.assert_array_equal(lengths, [length for _, length in expected])


def test_evaluation_is_a_function_of_its_key_and_compiles_once():
  environment = MinAtarEnvironment(num_environments=4)
  traces = []

  def act(params, observations, key):
    traces.append(observations.shape)
    return act_at_random(params, observations, key)

  first = environment.evaluate(act, jnp.int32(0), jax.random.key(0), 200)
  count = len(traces)
  again = environment.evaluate(act, jnp.int32(0), jax.random.key(0), 200)
  np.testing.assert_array_equal(first, again)
  told = []
  longer = environment.evaluate(act, jnp.int32(0), jax.random.key(0), 400, progress=told.append)
  assert sum(told) == longer[1].sum() and len(told) == len(longer[1]) / 4
  np.testing.assert_array_equal(longer[0][: len(first[0])], first[0])
  other = environment.evaluate(act, jnp.int32(0), jax.random.key(1), 200, 50)
  assert len(other[1]) != len(first[1]) or (other[1] != first[1]).any()
  assert len(traces) == count
  assert set(traces) == {(4, 1, 10, 10, 4)}


def test_no_episode_outlives_the_cap_and_none_is_dropped():
  environment = MinAtarEnvironment('Freeway', num_environments=2)
  returns, lengths = environment.evaluate(act_at_random, jnp.int32(0), jax.random.key(0), 50, 30)
  np.testing.assert_array_equal(lengths, [30, 30])  # Freeway's game never ends by itself
  assert returns.dtype == np.float32 and lengths.dtype == np.int32
  _, lengths = environment.evaluate(act_at_random, jnp.int32(0), jax.random.key(0), 61, 30)
  assert len(lengths) == 4


@pytest.mark.parametrize(
  'game', cases(((one,) for one in GAMES), ('Breakout', 'Asterix').__contains__)
)
def test_steps_equal_gymnax_stepped_by_hand(game):
  environment = MinAtarEnvironment(game, seed=3, sticky_probability=0.0)
  raw, parameters = gymnax.make(f'{game}-MinAtar')
  assert environment.num_actions == raw.num_actions == environment.action_space.n
  assert environment.max_steps_per_episode == parameters.max_steps_in_episode
  assert environment.observation_shape == environment.observation_space.shape
  key = jax.random.key(3)
  actions = np.random.default_rng(0).integers(environment.num_actions, size=60)
  reset_env, step_env = by_hand(game)
  observation, terminated, state = environment.reset(), False, None
  for action in actions:
    if state is None:
      key, reset_key = jax.random.split(key)
      expected, state = reset_env(reset_key)
      np.testing.assert_array_equal(observation, expected)
    key, step_key = jax.random.split(key)
    game_key = jax.random.split(step_key)[1]
    expected, state, expected_reward, terminated, _ = step_env(game_key, state, action)
    observation, reward, is_terminal, info = environment.step(action)
    np.testing.assert_array_equal(observation, expected)
    assert observation.dtype == np.uint8 and observation.shape == environment.observation_shape
    assert set(np.unique(observation)) <= {0, 1}
    assert (reward, is_terminal) == (float(expected_reward), bool(terminated))
    assert environment.game_over == is_terminal and info == {'truncated': False}
    if is_terminal:
      observation, state = environment.reset(), None


def test_a_time_limit_is_not_the_games_end():
  environment = MinAtarEnvironment('Freeway', max_steps_per_episode=2)
  environment.reset()
  assert environment.step(0)[2:] == (False, {'truncated': False})
  assert environment.step(0)[2:] == (False, {'truncated': True})
  assert environment.truncated and not environment.game_over
  with pytest.raises(RuntimeError, match='reset'):
    environment.step(0)
  environment.reset()
  assert not environment.truncated


def test_seeds():
  def course(seed):
    environment = MinAtarEnvironment('Breakout', seed=seed)
    frames = [environment.reset()]
    while len(frames) < 100:
      frames.append(environment.step(len(frames) % 3)[0])
      if environment.game_over:
        frames.append(environment.reset())
    return np.stack(frames[:100])

  np.testing.assert_array_equal(course(0), course(0))
  assert (course(0) != course(1)).any()


def test_sticky_probability_is_the_rate_of_repeats():
  environment = MinAtarEnvironment('Breakout', sticky_probability=0.25)
  moment = environment.rules.start(jax.random.key(0))._replace(action=jnp.int32(2))
  advance = jax.jit(jax.vmap(environment.rules.advance, in_axes=(None, None, 0)))
  carried_out = advance(moment, jnp.int32(1), jax.random.split(jax.random.key(1), 4000))[0].action
  repeats = float((carried_out == 2).mean())
  assert set(np.unique(carried_out)) == {1, 2}
  assert abs(repeats - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5  # four standard errors


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'game': 'Brekout'}, "Unknown MinAtar game 'Brekout'. Did you mean 'Breakout'"),
    ({'game': 'Pong'}, 'python -m implicit_rl.environments'),
    ({'sticky_probability': 1.0}, 'sticky_probability'),
    ({'num_environments': 0}, 'num_environments'),
  ],
)
def test_bad_settings_end_in_one_clear_line(settings, message):
  with pytest.raises(ValueError, match=message):
    MinAtarEnvironment(**settings)


def test_evaluate_rejects_an_empty_request():
  with pytest.raises(ValueError, match='at least 1'):
    MinAtarEnvironment().evaluate(act_at_random, 0, jax.random.key(0), 0)


def test_minatar_loads_neither_tensorflow_nor_dopamine():
  code = (
    'import sys; from implicit_rl.environments import minatar; '
    'minatar.MinAtarEnvironment().reset(); '
    "sys.exit(str({'tensorflow', 'dopamine'} & {*sys.modules}))"
  )
  result = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': ''},  # XLA may speak when it loads a program.
  )
  assert result.stderr == 'set()\n'


def test_the_list_of_games():
  result = subprocess.run(
    [sys.executable, '-m', 'implicit_rl.environments'], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert 'MsPacman' in result.stdout and 'SpaceInvaders' in result.stdout

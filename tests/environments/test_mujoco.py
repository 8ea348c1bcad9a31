"""MuJoCo tasks: gymnasium's own steps, seeds, time limits, evaluation against a loop by hand."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.environments import mujoco

KEY = jax.random.PRNGKey(3)


def act(params, observations, key):
  """A policy that sways: deterministic in parameters and observations."""
  del key
  return jnp.sin(observations[:, 0, :3] @ params)


PARAMS = np.full((3, 3), 0.7, np.float32)


@pytest.mark.parametrize('task', mujoco.TASKS)
def test_steps_are_gymnasiums(task):
  ours = mujoco.MuJoCoEnvironment(task, seed=5)
  theirs = gymnasium.make(f'{task}-v{mujoco.VERSION}')
  observation, _ = theirs.reset(seed=5)
  np.testing.assert_array_equal(ours.reset(), observation.astype(np.float32))
  assert ours.observation_shape == observation.shape and ours.observation_dtype == np.float32
  rng = np.random.default_rng(0)
  for _ in range(10):
    action = rng.uniform(-1, 1, ours.num_actions).astype(np.float32)
    found, reward, is_terminal, _ = ours.step(action)
    observation, expected, terminated, _, _ = theirs.step(action)
    np.testing.assert_array_equal(found, observation.astype(np.float32))
    assert reward == expected and is_terminal == terminated == ours.game_over
  assert found.dtype == np.float32
  ours.close()


def test_the_newest_version_is_used():
  newest = max(
    spec.version for spec in gymnasium.registry.values() if spec.name == 'Hopper' and spec.version
  )
  assert newest == mujoco.VERSION


def test_a_time_limit_truncates_and_never_ends():
  environment = mujoco.MuJoCoEnvironment('HalfCheetah', max_steps_per_episode=3)
  environment.reset()
  flags = []
  for _ in range(3):
    _, _, is_terminal, _ = environment.step(np.zeros(6, np.float32))
    flags.append((is_terminal, environment.game_over, environment.truncated))
  assert flags == [(False, False, False)] * 2 + [(False, False, True)]
  environment.reset()
  assert not environment.truncated


def test_seeds_repeat_and_go_on():
  environment = mujoco.MuJoCoEnvironment('Hopper', seed=1)
  first, second = environment.reset(), environment.reset()
  assert not np.array_equal(first, second)
  environment.seed(1)
  np.testing.assert_array_equal(environment.reset(), first)
  np.testing.assert_array_equal(environment.reset(), second)


def test_evaluation_is_a_loop_over_episodes():
  environment = mujoco.MuJoCoEnvironment('Hopper', num_environments=3)
  returns, lengths = environment.evaluate(act, PARAMS, KEY, num_steps=1)
  assert returns.shape == lengths.shape == (3,) and len(set(returns.tolist())) == 3
  simulator = gymnasium.make('Hopper-v5')
  seeds = jax.random.bits(jax.random.fold_in(KEY, 0), (3,), 'uint32').tolist()
  for seed, found, length in zip(seeds, returns, lengths, strict=True):
    observation, _ = simulator.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
      seen = observation.astype(np.float32)[None, None]
      observation, reward, fallen, cut, _ = simulator.step(np.asarray(act(PARAMS, seen, None))[0])
      total, steps, over = total + float(reward), steps + 1, fallen or cut
    np.testing.assert_allclose(found, total, rtol=1e-3)
    assert length == steps
  told = []
  again, _ = environment.evaluate(act, PARAMS, KEY, num_steps=1, progress=told.append)
  assert sum(told) == lengths.sum() and len(told) == lengths.max()
  np.testing.assert_array_equal(again, returns)
  both, lengths = environment.evaluate(act, PARAMS, KEY, num_steps=4, max_steps_per_episode=1)
  assert len(both) == 6 and set(lengths.tolist()) == {1}
  assert (both[:3] < returns).all()  # One step of the same episodes earns less than all.
  with pytest.raises(ValueError, match='num_steps'):
    environment.evaluate(act, PARAMS, KEY, num_steps=0)


def test_unknown_tasks_are_refused_with_the_nearest():
  with pytest.raises(ValueError, match=r"'hoper'. Did you mean 'Hopper'"):
    mujoco.MuJoCoEnvironment('hoper')
  with pytest.raises(ValueError, match='at least 1'):
    mujoco.MuJoCoEnvironment('Hopper', num_environments=0)

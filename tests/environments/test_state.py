"""An episode that is saved and restored goes on as the one that was not."""

import numpy as np
import pytest

from implicit_rl.environments import atari, minatar, mujoco

MAKERS = {
  'Atari': lambda seed: atari.AtariEnvironment('Breakout', seed=seed),
  'MinAtar': lambda seed: minatar.MinAtarEnvironment('Seaquest', seed=seed),
  'Hopper': lambda seed: mujoco.MuJoCoEnvironment('Hopper', seed=seed),
  'Ant': lambda seed: mujoco.MuJoCoEnvironment('Ant', seed=seed),
}


def actions(environment, rng, count):
  if isinstance(environment, mujoco.MuJoCoEnvironment):
    return rng.uniform(-1, 1, (count, environment.num_actions)).astype(np.float32)
  return rng.integers(0, environment.num_actions, count)


def played(environment, todo):
  """What follows, across episodes."""
  seen = []
  for action in todo:
    observation, reward, terminal, _ = environment.step(action)
    seen.append((observation.tobytes(), reward, terminal, environment.truncated))
    if environment.game_over or environment.truncated:
      seen.append(environment.reset().tobytes())
  return seen


@pytest.mark.parametrize('name', MAKERS)
def test_it_goes_on_as_if_nothing_had_happened(name):
  one, other = MAKERS[name](3), MAKERS[name](8)
  rng = np.random.default_rng(0)
  one.reset()
  played(one, actions(one, rng, 150))
  saved = one.state_dict()
  todo = actions(one, rng, 400)
  expected = played(one, todo)
  other.reset()
  other.load_state_dict(saved)
  assert played(other, todo) == expected


@pytest.mark.parametrize('name', MAKERS)
def test_seeding_starts_the_randomness_afresh(name):
  """What follows a seed is what a new environment with that seed plays, whatever came before."""
  one, other = MAKERS[name](3), MAKERS[name](8)
  todo = actions(one, np.random.default_rng(0), 200)
  expected = [one.reset().tobytes(), played(one, todo)]
  other.reset()
  played(other, todo[:30])
  other.seed(3)
  assert [other.reset().tobytes(), played(other, todo)] == expected
  other.seed(2**32 - 1)
  other.reset()

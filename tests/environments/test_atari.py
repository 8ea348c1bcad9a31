"""The Atari environment: seeds, protocol, preprocessing, clear errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from implicit_rl.environments import atari_games
from implicit_rl.environments.atari import AtariEnvironment
from tests.cases import cases

PAPER_GAMES = (
  'Asterix Qbert Pong Seaquest Breakout DoubleDunk Jamesbond MsPacman SpaceInvaders Zaxxon '
  'WizardOfWor YarsRevenge Enduro RoadRunner BeamRider DemonAttack'
).split()


def play(seed, steps=1000, game='Breakout', **kwargs):
  """Random play with fixed actions. Returns frames [steps, 84, 84, 1] and rewards [steps]."""
  environment = AtariEnvironment(game, seed=seed, **kwargs)
  actions = np.random.default_rng(0).integers(environment.num_actions, size=steps)
  frames, rewards = [], []
  environment.reset()
  for action in actions:
    frame, reward, is_terminal, _ = environment.step(action)
    frames.append(frame)
    rewards.append(reward)
    if is_terminal:
      environment.reset()
  return np.stack(frames), np.array(rewards)


def test_same_seed_same_episodes_other_seed_others():
  frames, rewards = play(seed=1)
  again, again_rewards = play(seed=1)
  np.testing.assert_array_equal(frames, again)
  np.testing.assert_array_equal(rewards, again_rewards)
  others, _ = play(seed=2)
  assert (frames != others).any()
  assert rewards.sum() > 0  # the comparison would be empty in a game that never moved


def test_seeding_again_plays_what_a_new_environment_would():
  environment = AtariEnvironment('Breakout', seed=5)
  environment.reset()
  for action in (1, 2, 3, 0):
    environment.step(action)
  environment.seed(1)
  fresh = AtariEnvironment('Breakout', seed=1)
  np.testing.assert_array_equal(environment.reset(), fresh.reset())
  for action in np.random.default_rng(0).integers(fresh.num_actions, size=300):
    ours, theirs = environment.step(action), fresh.step(action)
    np.testing.assert_array_equal(ours[0], theirs[0])
    if fresh.game_over:
      environment.reset()
      fresh.reset()


def test_only_sticky_actions_make_seeds_differ():
  frames, _ = play(seed=1, steps=200, sticky_actions=False)
  others, _ = play(seed=2, steps=200, sticky_actions=False)
  np.testing.assert_array_equal(frames, others)


def test_protocol():
  environment = AtariEnvironment('Pong')
  ale = environment._environment.environment.unwrapped.ale
  assert ale.getFloat('repeat_action_probability') == 0.25
  assert ale.getInt('max_num_frames_per_episode') == 0
  observation = environment.reset()
  assert observation.shape == environment.observation_space.shape == (84, 84, 1)
  assert observation.dtype == environment.observation_dtype == np.uint8
  assert environment.observation_shape == (84, 84)
  assert environment.stack_size == 4
  assert environment.max_steps_per_episode == 27_000
  assert environment.num_actions == environment.action_space.n == 6
  before = ale.getEpisodeFrameNumber()
  _, reward, is_terminal, info = environment.step(0)
  assert info['episode_frame_number'] - before == 4
  assert (reward, is_terminal) == (0.0, False)


def test_observation_is_the_greyscale_maximum_of_two_frames_resized():
  environment = AtariEnvironment('Breakout', sticky_actions=False)
  ale = environment._environment.environment.unwrapped.ale
  reference = AtariEnvironment('Breakout', sticky_actions=False)
  reference_ale = reference._environment.environment.unwrapped.ale
  environment.reset()
  reference.reset()
  for action in (1, 2, 3, 2):  # fire, then move
    observation, *_ = environment.step(action)
    screens = []
    for _ in range(4):
      reference_ale.act(reference_ale.getMinimalActionSet()[action])
      screens.append(reference_ale.getScreenGrayscale())
    pooled = np.maximum(screens[2], screens[3])
    expected = cv2.resize(pooled, (84, 84), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(observation[..., 0], expected)
  np.testing.assert_array_equal(ale.getScreenGrayscale(), reference_ale.getScreenGrayscale())


def test_game_over_ends_with_the_game_not_with_a_life():
  environment = AtariEnvironment('Breakout', seed=0)
  environment.reset()
  rng = np.random.default_rng(0)
  lives, is_terminal = [], False
  while not is_terminal:
    *_, is_terminal, info = environment.step(rng.integers(4))
    lives.append(info['lives'])
  assert sorted(set(lives)) == [0, 1, 2, 3, 4, 5]
  assert environment.game_over and not environment.truncated
  environment.reset()
  assert not environment.game_over


def test_step_limit_truncates_and_is_not_game_over():
  environment = AtariEnvironment('Pong', max_steps_per_episode=3)
  environment.reset()
  ends = [(environment.step(0)[2], environment.truncated) for _ in range(3)]
  assert ends == [(False, False), (False, False), (False, True)]
  environment.reset()
  assert not environment.truncated


@pytest.mark.parametrize(
  'game', cases(((one,) for one in PAPER_GAMES), ('Pong', 'Breakout', 'Seaquest').__contains__)
)
def test_the_papers_games_run(game):
  environment = AtariEnvironment(game)
  first = environment.reset()
  observation, *_ = environment.step(environment.num_actions - 1)
  assert environment.name == game
  assert first.any() and observation.shape == (84, 84, 1)


def test_unknown_game_says_what_to_do():
  with pytest.raises(ValueError) as error:
    AtariEnvironment('Pongg')
  first_line = str(error.value).splitlines()[0]
  assert "Unknown Atari game 'Pongg'. Did you mean 'Pong'" in first_line
  assert 'python -m implicit_rl.environments' in first_line
  with pytest.raises(ValueError, match="'MsPacman'"):
    AtariEnvironment('ms_pacman')
  assert set(PAPER_GAMES) <= set(atari_games.games())

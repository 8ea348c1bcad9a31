"""MinAtar games in turn: each is the game itself with blank channels, and gives way on time."""

import jax
import numpy as np
import pytest

from implicit_rl import environments
from implicit_rl.environments.minatar import MinAtarEnvironment
from implicit_rl.environments.minatar_sequence import MinAtarSequence

GAMES = ('Breakout', 'Asterix')


def play(environment, steps, seed=0):
  """Observations, rewards and ends of `steps` random steps; starts episodes as they end."""
  rng = np.random.default_rng(seed)
  seen, over = [], True
  for _ in range(steps):
    if over:
      environment.reset()
    observation, reward, _, _ = environment.step(int(rng.integers(3)))
    over = environment.game_over or environment.truncated
    seen.append((observation, reward, over))
  return seen


def test_the_first_game_is_the_game_itself_with_blank_channels():
  sequence, alone = MinAtarSequence((*GAMES, 'SpaceInvaders'), seed=3), MinAtarEnvironment(seed=3)
  able = environments.check(sequence)
  assert able.evaluate and able.seed and able.state_dict and able.truncated
  assert sequence.observation_shape == (10, 10, 6) and sequence.num_actions == 5
  for ours, theirs in zip(play(sequence, 60), play(alone, 60), strict=True):
    np.testing.assert_array_equal(ours[0][..., :4], theirs[0])
    assert not ours[0][..., 4:].any() and ours[1:] == theirs[1:]


def test_a_surplus_action_is_no_operation():
  one, other = (MinAtarSequence(GAMES, seed=1) for _ in range(2))
  np.testing.assert_array_equal(one.reset(), other.reset())
  np.testing.assert_array_equal(one.step(4)[0], other.step(0)[0])  # Breakout has three actions.


def test_games_follow_each_other_where_an_episode_ends():
  environment = MinAtarSequence(GAMES, steps_per_game=30)
  names, steps, over = [], [], True
  for count in range(120):
    if over:
      environment.reset()
      if not names or names[-1] != environment.game.name:
        names.append(environment.game.name)
        steps.append(0)
    over = environment.step(count % 3)[2]
    steps[-1] += 1
  assert names[:3] == ['Breakout', 'Asterix', 'Breakout'] and min(steps[:2]) >= 30


def test_it_resumes_within_an_episode():
  environment = MinAtarSequence(GAMES, seed=2, steps_per_game=10)
  play(environment, 25)
  environment.reset()
  other = MinAtarSequence(GAMES, steps_per_game=10)
  other.load_state_dict(environment.state_dict())
  assert other.game.name == environment.game.name
  for action in (0, 1, 2):
    jax.tree.map(np.testing.assert_array_equal, environment.step(action), other.step(action))
    if environment.game_over:
      break


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'games': ()}, 'MinAtarSequence.games must name at least one game'),
    ({'games': ('Pong',)}, "Unknown MinAtar game 'Pong'"),
    ({'steps_per_game': 0}, 'MinAtarSequence.steps_per_game must be a whole number'),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    MinAtarSequence(**settings)

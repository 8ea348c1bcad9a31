"""The gridworld's layout, dynamics, rewards and observations."""

import numpy as np
import pytest

from implicit_rl.gridworld import mdp


@pytest.mark.parametrize('seed', range(4))
def test_layout_is_the_papers(seed):
  world = mdp.make_gridworld(seed)
  assert world.walls.sum() == int(0.2 * 256)
  assert not world.walls[world.start] and not world.walls[world.goal]
  assert world.start != world.goal
  assert mdp.reachable(world.successors, world.start)[world.goal]
  assert len(world.free_cells) == 256 - 51


def test_transitions_are_distributions_and_never_enter_a_wall():
  world = mdp.make_gridworld(1)
  np.testing.assert_allclose(world.transitions.sum(axis=2), 1.0, atol=1e-12)
  assert (world.transitions >= 0).all()
  free = world.free_cells
  assert world.transitions[free][:, :, world.walls].sum() == 0


def test_transitions_against_counting_by_hand():
  world = mdp.make_gridworld(2, wall_ratio=0.0, action_noise=0.05)
  cell = 5 * 16 + 7  # row 5, column 7, nothing in the way
  expected = {0: cell, 1: cell - 1, 2: cell + 1, 3: cell - 16, 4: cell + 16}
  for action, target in expected.items():
    row = world.transitions[cell, action]
    assert row[target] == pytest.approx(0.95 + 0.05 / 5)
    for other, place in expected.items():
      if other != action:
        assert row[place] == pytest.approx(0.05 / 5)
  corner = world.transitions[0, 1]  # left from the top left corner: stays
  assert corner[0] == pytest.approx(0.95 + 3 * 0.05 / 5)


def test_rewards():
  distance = mdp.make_gridworld(3, reward='distance')
  cost = mdp.make_gridworld(3, reward='distance_cost')
  sparse = mdp.make_gridworld(3, reward='sparse')
  assert distance.goal == cost.goal == sparse.goal
  assert (distance.rewards[distance.goal] == 1).all()
  assert (distance.rewards[distance.start] == 0).all()
  assert ((distance.rewards >= 0) & (distance.rewards <= 1)).all()
  assert (cost.rewards[cost.goal] == 0).all() and (cost.rewards[cost.start] == -1).all()
  assert (cost.rewards <= 0).all()
  np.testing.assert_allclose(
    distance.rewards, np.maximum(0, 1 + cost.rewards) * ~cost.walls[:, None]
  )
  assert sparse.rewards.sum() == 5 and (sparse.rewards[sparse.goal] == 1).all()


@pytest.mark.parametrize(
  ('kind', 'width'), [('smooth', 16), ('random', 16), ('one_hot', 256), ('xy_one_hot', 32)]
)
def test_observations(kind, width):
  world = mdp.make_gridworld(4, observation=kind)
  assert world.observations.shape == (256, width)
  assert world.observations.dtype == np.float64
  assert (world.observations[world.walls] == 0).all()
  assert len(np.unique(world.observations[world.free_cells], axis=0)) == 205
  np.testing.assert_array_equal(world.walls, mdp.make_gridworld(4).walls)


def test_smoothing_brings_neighbours_closer_than_strangers():
  world = mdp.make_gridworld(5)
  free = world.free_cells
  x = world.observations
  neighbour = world.successors[free, 2]
  moved = neighbour != free
  near = np.square(x[free[moved]] - x[neighbour[moved]]).sum(1).mean()
  far = np.square(x[free][:, None] - x[free][None]).sum(-1).mean()
  assert near < 0.3 * far


def test_one_seed_decides_everything():
  first, again, other = mdp.make_gridworld(6), mdp.make_gridworld(6), mdp.make_gridworld(7)
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
  assert (first.walls != other.walls).any()
  assert (first.observations != other.observations).any()


@pytest.mark.parametrize(
  'bad',
  [
    {'size': 2},
    {'wall_ratio': 0.9},
    {'discount': 1.0},
    {'action_noise': -0.1},
    {'horizon': 0},
    {'reward': 'gold'},
    {'observation': 'pixels'},
  ],
)
def test_bad_arguments_are_named(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    mdp.make_gridworld(0, **bad)

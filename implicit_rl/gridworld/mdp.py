"""The gridworld: layout, dynamics, rewards and observation features, all in NumPy float64.

The environment of the paper's Sections 3 and B.2, after Fu et al. (2019), "Diagnosing Bottlenecks
in Deep Q-learning Algorithms": 16×16 cells, 20% walls, five actions, reward by distance to a goal,
and random observation vectors smoothed over neighbouring cells. Other settings follow Fu et al.:
the agent starts at the centre, the goal is the farthest of a random quarter of the cells, an action
is replaced by a random one with probability 0.05, an episode lasts 50 steps.

Shapes: S cells (walls included), A = 5 actions, D observation features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MOVES = np.array([(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)])  # stay, left, right, up, down
NUM_ACTIONS = len(MOVES)
REWARDS = ('distance', 'distance_cost', 'sparse')
OBSERVATIONS = ('smooth', 'random', 'one_hot', 'xy_one_hot')


class Gridworld(NamedTuple):
  """A finite MDP on a square grid. Cell (row, column) has index row · size + column.

  Walls are cells that cannot be entered: they lead to themselves, have no reward and observe zeros.
  Measures exclude them; use `free_cells`.

  Attributes:
    size: cells along one side.
    walls: [S] bool.
    start: index of the cell where episodes begin.
    goal: index of the rewarded cell.
    successors: [S, A] int64, the cell that each executed action leads to.
    transitions: [S, A, S] float64, probabilities of the next cell, with action noise.
    rewards: [S, A] float64, for being in the cell.
    observations: [S, D] float64, what the agent sees.
    discount: γ.
    action_noise: probability that a uniformly random action replaces the chosen one.
    horizon: environment steps in an episode. Reaching it truncates the episode without a terminal.
  """

  size: int
  walls: np.ndarray
  start: int
  goal: int
  successors: np.ndarray
  transitions: np.ndarray
  rewards: np.ndarray
  observations: np.ndarray
  discount: float
  action_noise: float
  horizon: int

  @property
  def free_cells(self) -> np.ndarray:
    """[F] int64, indices of the cells that are not walls."""
    return np.flatnonzero(~self.walls)


def make_gridworld(
  seed: int = 0,
  *,
  size: int = 16,
  wall_ratio: float = 0.2,
  reward: str = 'distance',
  observation: str = 'smooth',
  observation_dim: int = 16,
  smoothing_passes: int = 10,
  action_noise: float = 0.05,
  discount: float = 0.95,
  horizon: int = 50,
) -> Gridworld:
  """Draws a gridworld from one seed.

  Layout and observations come from separate streams of the seed, so that another kind of
  observation does not change walls and goal.

  Args:
    seed: determines walls, goal and observation vectors.
    size: cells along one side.
    wall_ratio: fraction of all cells that are walls (their number is exact, rounded down).
    reward: 'distance': max(0, 1 - d(s)/d(start)) with d the L1 distance to the goal (Fu et al.);
      'distance_cost': -d(s)/d(start), the paper's wording; 'sparse': 1 in the goal, otherwise 0.
    observation: 'smooth': Gaussian vectors averaged over neighbours; 'random': uniform in [-1, 1];
      'one_hot': one feature per cell; 'xy_one_hot': one feature per row and one per column.
    observation_dim: D for 'smooth' and 'random'; the others have their own.
    smoothing_passes: sweeps of averaging for 'smooth'.
    action_noise: probability that a uniformly random action replaces the chosen one.
    discount: γ in [0, 1).
    horizon: environment steps in an episode.

  Returns:
    The gridworld, with a goal that can be reached from the start.

  Raises:
    ValueError: if an argument is out of range or names an unknown kind.
  """
  if size < 3:
    raise ValueError(f'size is {size}; a gridworld needs at least 3 cells a side.')
  if not 0 <= wall_ratio <= 0.5:
    raise ValueError(f'wall_ratio is {wall_ratio}; choose one in [0, 0.5].')
  if not 0 <= discount < 1:
    raise ValueError(f'discount is {discount}; choose one in [0, 1).')
  if not 0 <= action_noise <= 1:
    raise ValueError(f'action_noise is {action_noise}; choose one in [0, 1].')
  if horizon < 1 or observation_dim < 1 or smoothing_passes < 0:
    raise ValueError('horizon and observation_dim must be at least 1, smoothing_passes at least 0.')
  if reward not in REWARDS:
    raise ValueError(f'Unknown reward {reward!r}; choose one of {", ".join(REWARDS)}.')
  if observation not in OBSERVATIONS:
    raise ValueError(
      f'Unknown observation {observation!r}; choose one of {", ".join(OBSERVATIONS)}.'
    )
  start = (size // 2) * size + size // 2
  walls, goal, successors = _layout(
    np.random.default_rng([seed, 0]), size=size, wall_ratio=wall_ratio, start=start
  )
  transitions = _transitions(successors, action_noise)
  observations = _observations(
    np.random.default_rng([seed, 1]),
    kind=observation,
    size=size,
    dim=observation_dim,
    passes=smoothing_passes,
    mixing=transitions.mean(axis=1),
  )
  observations[walls] = 0.0
  return Gridworld(
    size=size,
    walls=walls,
    start=start,
    goal=goal,
    successors=successors,
    transitions=transitions,
    rewards=_rewards(reward, size=size, walls=walls, start=start, goal=goal),
    observations=observations,
    discount=discount,
    action_noise=action_noise,
    horizon=horizon,
  )


def _layout(
  rng: np.random.Generator, *, size: int, wall_ratio: float, start: int
) -> tuple[np.ndarray, int, np.ndarray]:
  """Draws walls [S] and goal until some goal candidate can be reached; returns successors too."""
  num_cells = size * size
  others = np.delete(np.arange(num_cells), start)
  while True:
    walls = np.zeros(num_cells, bool)
    walls[rng.choice(others, int(num_cells * wall_ratio), replace=False)] = True
    successors = _successors(walls, size)
    places = others[~walls[others]]
    candidates = rng.choice(places, min(num_cells // 4, len(places)), replace=False)
    candidates = candidates[reachable(successors, start)[candidates]]
    if len(candidates):
      gap = (candidates // size - start // size) ** 2 + (candidates % size - start % size) ** 2
      return walls, int(candidates[np.argmax(gap)]), successors


def _successors(walls: np.ndarray, size: int) -> np.ndarray:
  """Returns [S, A] int64: the cell that each action leads to; walls and the border block it."""
  cells = np.arange(size * size)
  row, column = np.divmod(cells, size)
  next_row = row[:, None] + MOVES[:, 0]  # [S, A]
  next_column = column[:, None] + MOVES[:, 1]  # [S, A]
  inside = (next_row >= 0) & (next_row < size) & (next_column >= 0) & (next_column < size)
  target = np.where(inside, next_row * size + next_column, cells[:, None])
  return np.where(walls[target] | walls[:, None], cells[:, None], target)


def reachable(successors: np.ndarray, start: int) -> np.ndarray:
  """Returns [S] bool: which cells can be reached from `start`."""
  seen = np.zeros(len(successors), bool)
  frontier = np.array([start])
  while len(frontier):
    seen[frontier] = True
    targets = np.unique(successors[frontier])
    frontier = targets[~seen[targets]]
  return seen


def _transitions(successors: np.ndarray, action_noise: float) -> np.ndarray:
  """Returns [S, A, S] float64: the chosen action with probability 1 - noise, else a uniform one."""
  carried_out = np.eye(len(successors))[successors]  # [S, A, S]
  return (1 - action_noise) * carried_out + action_noise * carried_out.mean(1, keepdims=True)


def _rewards(kind: str, *, size: int, walls: np.ndarray, start: int, goal: int) -> np.ndarray:
  """Returns [S, A] float64: depends only on the cell; distance is L1 and ignores walls."""
  row, column = np.divmod(np.arange(size * size), size)
  distance = np.abs(row - goal // size) + np.abs(column - goal % size)  # [S] cells
  relative = distance / distance[start]
  if kind == 'distance':
    values = np.maximum(0.0, 1.0 - relative)
  elif kind == 'distance_cost':
    values = -relative
  else:
    values = (distance == 0).astype(np.float64)
  return np.repeat(np.where(walls, 0.0, values)[:, None], NUM_ACTIONS, axis=1)


def _observations(
  rng: np.random.Generator, *, kind: str, size: int, dim: int, passes: int, mixing: np.ndarray
) -> np.ndarray:
  """[S, D] float64; `mixing` [S, S] holds each cell's next-cell probabilities, actions averaged."""
  num_cells = size * size
  if kind == 'one_hot':
    return np.eye(num_cells)
  if kind == 'xy_one_hot':
    row, column = np.divmod(np.arange(num_cells), size)
    return np.concatenate([np.eye(size)[column], np.eye(size)[row]], axis=1)
  if kind == 'random':
    return rng.uniform(-1.0, 1.0, (num_cells, dim))
  observations = rng.standard_normal((num_cells, dim))
  for _ in range(passes):
    for cell in range(num_cells):  # In place, as in Fu et al.: later cells use smoothed ones.
      observations[cell] = mixing[cell] @ observations
  return observations

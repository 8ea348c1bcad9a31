"""Environments in Dopamine's shape: what the agents act in and are evaluated in.

`atari` builds on Dopamine and so on TensorFlow; `minatar` is JAX alone, `mujoco` gymnasium alone.
None is imported here, so importing one does not load the others. `python -m
implicit_rl.environments` lists the games.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from implicit_rl.types import Array, PRNGKey

Progress = Callable[[int], Any]


class Environment(Protocol):
  """What the runners and agents ask of an environment: Dopamine's interface and a few facts.

  With `state_dict()` and `load_state_dict(state)`, nested dicts of arrays and numbers, a run can be
  stopped within an episode; without, it stops where an episode ends, and the games' randomness
  starts afresh from there.

  With `evaluate(policy, params, key, num_steps, max_steps_per_episode, progress) -> (returns [n],
  lengths [n])` it plays evaluations itself, several episodes side by side; without, the runner
  plays one after the other.

  Attributes:
    name: the game, as the user named it.
    observation_shape: shape of one observation as agents stack it: (84, 84), (10, 10, C) or (D,).
    observation_dtype: NumPy dtype of observations.
    stack_size: observations in an agent's state.
    dataset: name of the dataset that its logged replays are written as.
    num_actions: size of the discrete action set, or length of a continuous action.
    max_steps_per_episode: agent steps after which an episode is cut off.
    game_over: True after a step that ended the game.
    truncated: True after a step that reached `max_steps_per_episode` with the game still on.
    action_space: has `n`, for Dopamine, where actions are discrete.
    observation_space: has `shape` and `dtype` of what `step` returns.
  """

  name: str
  observation_shape: tuple[int, ...]
  observation_dtype: Any
  stack_size: int
  dataset: str
  num_actions: int
  max_steps_per_episode: int
  game_over: bool
  truncated: bool

  @property
  def action_space(self) -> Any:
    """The action space."""
    ...

  @property
  def observation_space(self) -> Any:
    """The space of what `step` returns."""
    ...

  def reset(self) -> np.ndarray:
    """Starts an episode and returns its first observation."""
    ...

  def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one agent step: (observation, reward, is_terminal, info)."""
    ...


def no_progress(steps: int) -> None:
  """What an evaluation tells its progress where nobody asks."""
  del steps


def check_evaluation(num_steps: int, limit: int) -> None:
  """Raises ValueError unless an evaluation and its episodes last at least a step."""
  if num_steps < 1 or limit < 1:
    raise ValueError(f'num_steps ({num_steps}) and the step limit ({limit}) must be at least 1')


def play_rounds(
  play_round: Callable[[PRNGKey], tuple[Array, Array]],
  key: PRNGKey,
  num_steps: int,
  progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray]:
  """Plays rounds of whole episodes until at least `num_steps` environment steps were played.

  Args:
    play_round: key -> (returns [E], lengths [E]) of one episode in each of E copies.
    key: round r gets `fold_in(key, r)`.
    num_steps: environment steps to play at the least.
    progress: called after each round with the steps in it. It may raise.

  Returns:
    returns [n] and lengths [n] of all episodes that were begun, n a multiple of E.
  """
  rounds: list[tuple[np.ndarray, np.ndarray]] = []
  played = 0
  while played < num_steps:
    returns, lengths = play_round(jax.random.fold_in(key, len(rounds)))
    rounds.append((np.asarray(returns), np.asarray(lengths)))
    steps = int(rounds[-1][1].sum())
    played += steps
    progress(steps)
  returns, lengths = (np.concatenate(parts) for parts in zip(*rounds, strict=True))
  return returns, lengths


def check_game(game: str, games: Sequence[str], family: str) -> None:
  """Raises ValueError in one line, with the nearest names, if `game` is none of `games`."""
  if game in games:
    return
  by_lower = {name.lower(): name for name in games}
  near = difflib.get_close_matches(str(game).lower(), by_lower, n=3, cutoff=0.65)
  hint = f' Did you mean {" or ".join(repr(by_lower[name]) for name in near)}?' if near else ''
  raise ValueError(
    f'Unknown {family} game {game!r}.{hint} List them: python -m implicit_rl.environments'
  )

"""Environments with Dopamine's interface, for acting and evaluation.

`atari` builds on Dopamine and so on TensorFlow. `gymnax` and `minatar` need only JAX, `mujoco` only
gymnasium. None is imported here, so importing one does not load the others. `python -m
implicit_rl.environments` lists the games.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from implicit_rl.types import Array, Params, PRNGKey

Progress = Callable[[int], Any]


class Environment(Protocol):
  """The interface of every environment: Dopamine's, and a few facts.

  `check` verifies it once, when a run starts. Optional abilities are in `Capabilities`. The class
  or function that creates one is called with `seed`, an int.

  Attributes:
    name: the game, as the user named it; datasets of the game carry the same name.
    num_actions: size of the discrete action set, or length of a continuous action.
    observation_shape: shape of one observation as agents stack it: (84, 84), (10, 10, C) or (D,).
    observation_dtype: NumPy dtype of observations.
    stack_size: observations in an agent's state.
    max_steps_per_episode: agent steps after which the runner truncates an episode.
    game_over: True after a step that ended the game, False from `reset` on.
  """

  name: str
  num_actions: int
  observation_shape: tuple[int, ...]
  observation_dtype: Any
  stack_size: int
  max_steps_per_episode: int
  game_over: bool

  def reset(self) -> np.ndarray:
    """Starts an episode and returns its first observation."""
    ...

  def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
    """Takes one agent step: (observation, reward, is_terminal, info).

    `is_terminal` means that no reward follows, which ends the agent's episode. If only a life was
    lost, `game_over` stays False and the game continues.
    """
    ...


class Rules(Protocol):
  """A game as pure functions, for acting and learning in one compiled loop."""

  def start(self, key: PRNGKey) -> Any:
    """Returns the first moment of an episode, a pytree with the attribute `observation`."""
    ...

  def advance(
    self, moment: Any, action: jax.Array, key: PRNGKey
  ) -> tuple[Any, jax.Array, jax.Array]:
    """Returns the next moment, the reward [] float32, and whether the game is over [] bool."""
    ...


class Evaluate(Protocol):
  """The signature of an environment's evaluation."""

  def __call__(
    self,
    policy: Callable[[Any, Any, PRNGKey], jax.Array],
    params: Params,
    key: PRNGKey,
    num_steps: int,
    max_steps_per_episode: int,
    progress: Progress,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Plays whole episodes until at least `num_steps` steps were played.

    Args:
      policy: (params, states [E, S, *observation_shape], key) -> actions [E]. Pure, and the same
        object every time: compile it once.
      params: passed to `policy`.
      key: determines everything random.
      num_steps: minimum number of environment steps.
      max_steps_per_episode: truncates episodes after this number of steps.
      progress: call it often with the number of steps since the last call. It may raise an error to
        stop.

    Returns:
      returns [n] and lengths [n] of the episodes.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Capabilities:
  """Optional abilities of an environment; it declares each by having the member.

  Attributes:
    truncated: the member is a bool, True after a step that truncated the episode, such as at a time
      limit. Without it, only `max_steps_per_episode` truncates episodes.
    seed: `seed(n)`, 0 ≤ n < 2³², reseeds the randomness: the same episodes follow as in a new
      environment. Without it, a resumed run plays other episodes than an uninterrupted one.
    evaluate: plays evaluations itself, with several parallel episodes; see `Evaluate`. Without it,
      episodes are played in sequence.
    evaluate_all: `evaluate` of parameters with leading axes [N] and keys [N] as one program: N
      pairs. Without it, seeds that train as one program are evaluated in sequence.
    state_dict: `state_dict()` returns the state of the episode, as nested dicts of arrays and
      numbers, so that a run can stop within it. Without it, a run stops at an episode's end.
    load_state_dict: `load_state_dict(state)` continues from there. An environment has both or
      neither.
    rules: pure functions, see `Rules`. Without them, there is no compiled loop (`DeviceReplay`).
    dataset: name of the dataset that logged replays are written as, such as 'my_games'. Without it,
      `OnlineRunner.log_replay` is refused.
    action_shape: (A,) if actions are continuous, within [−1, 1]. Without it, they are discrete.
    about: facts, as JSON values, that a logged replay records besides the game's name.
    render: `render()` returns a picture of the current moment, [H, W, 3] uint8. Without it, a
      recording shows the observations, which must be images.
  """

  truncated: bool = False
  seed: Callable[[int], None] | None = None
  evaluate: Evaluate | None = None
  evaluate_all: Callable[..., list[tuple[np.ndarray, np.ndarray]]] | None = None
  state_dict: Callable[[], dict[str, Any]] | None = None
  load_state_dict: Callable[[Mapping[str, Any]], None] | None = None
  rules: Rules | None = None
  dataset: str | None = None
  action_shape: tuple[int, ...] = ()
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  render: Callable[[], np.ndarray] | None = None

  def over(self, environment: Any) -> bool:
    """Whether the environment's last step ended the game or truncated the episode."""
    return bool(environment.game_over or (self.truncated and environment.truncated))


def make(environment: Callable[..., Any], seed: int) -> Any:
  """Creates an environment for one run.

  Raises:
    ValueError: if it has no parameter `seed`.
  """
  parameters = inspect.signature(environment).parameters.values()
  if not any(p.name == 'seed' or p.kind is p.VAR_KEYWORD for p in parameters):
    raise ValueError(
      f'Experiment.environment: {_name(environment)} takes no seed. Add a parameter seed, an int.'
    )
  return environment(seed=seed)


# The methods and their numbers of arguments.
_METHODS = {
  'reset': 0,
  'step': 1,
  'seed': 1,
  'state_dict': 0,
  'load_state_dict': 1,
  'evaluate': 6,
  'evaluate_all': 6,
  'render': 0,
}


def check(environment: Any) -> Capabilities:
  """Checks an environment when a run starts, and returns its capabilities.

  Unless the environment plays evaluations itself, this calls `reset` and `step` once, to compare
  their results with the environment's attributes.

  Raises:
    ValueError: if members are missing or contradict each other; the error names all missing ones.
  """
  who = f'Experiment.environment: {type(environment).__name__}'
  missing = [name for name in members(Environment) if not hasattr(environment, name)]
  if missing:
    raise ValueError(f'{who} lacks {", ".join(missing)}; docs/extending.md says what each is.')
  for name, count in _METHODS.items():
    _check_method(f'{who}.{name}', getattr(environment, name, None), count)
  for name in ('num_actions', 'stack_size', 'max_steps_per_episode'):
    value = getattr(environment, name)
    if not isinstance(value, int | np.integer) or value < 1:
      raise ValueError(f'{who}.{name} must be an int of at least 1, got {value!r}.')
  found = {
    field.name: getattr(environment, field.name)
    for field in dataclasses.fields(Capabilities)
    if getattr(environment, field.name, None) is not None
  }
  able = Capabilities(**found | {'truncated': 'truncated' in found})
  if (able.state_dict is None) != (able.load_state_dict is None):
    raise ValueError(f'{who} has one of state_dict and load_state_dict; it needs both or neither.')
  if able.rules is not None and not (
    hasattr(able.rules, 'start') and hasattr(able.rules, 'advance')
  ):
    raise ValueError(f'{who}.rules must have start and advance, got {able.rules!r}.')
  if tuple(able.action_shape) not in ((), (environment.num_actions,)):
    raise ValueError(
      f'{who}.action_shape must be () or (num_actions,) = ({environment.num_actions},), got '
      f'{able.action_shape!r}.'
    )
  if able.evaluate is None:
    _check_play(environment, who, able)
  return able


def _check_method(name: str, method: Any, count: int) -> None:
  """Raises ValueError unless `method` is None or can be called with `count` arguments."""
  if method is None:
    return
  if not callable(method):
    raise ValueError(f'{name} must be a method, got {method!r}.')
  try:
    signature = inspect.signature(method)
  except ValueError:  # Some built-in functions have none.
    return
  try:
    signature.bind(*[None] * count)
  except TypeError as error:
    raise ValueError(f'{name} is called with {count} arguments: {error}.') from error


def _check_play(environment: Environment, who: str, able: Capabilities) -> None:
  """Raises ValueError if `reset` or `step` returns an invalid result."""
  _check_observation(environment, f'{who}.reset()', environment.reset())
  action = np.zeros(able.action_shape, np.float32) if able.action_shape else 0
  stepped: Any = environment.step(action)
  if not isinstance(stepped, tuple) or len(stepped) != 4:
    found = f'{len(stepped)} values' if isinstance(stepped, tuple) else repr(type(stepped))
    raise ValueError(
      f'{who}.step() must return (observation, reward, is_terminal, info), got {found}. Set '
      'game_over and truncated instead of returning them.'
    )
  _check_observation(environment, f'{who}.step()', stepped[0])


def _check_observation(environment: Environment, where: str, observation: Any) -> None:
  shape, dtype = tuple(environment.observation_shape), np.dtype(environment.observation_dtype)
  if isinstance(observation, tuple):
    raise ValueError(f'{where} must return an observation, got a tuple.')
  seen = np.asarray(observation)
  if not shape or seen.size != np.prod(shape) or not np.can_cast(seen.dtype, dtype, 'same_kind'):
    raise ValueError(
      f'{where} returned {seen.dtype} of shape {seen.shape}, but observation_dtype and '
      f'observation_shape say {dtype} of shape {shape}.'
    )


def members(protocol: type) -> list[str]:
  """The names that a protocol or dataclass declares: attributes first, then methods."""
  methods = [name for name, value in vars(protocol).items() if inspect.isfunction(value)]
  return [*protocol.__annotations__, *(name for name in methods if not name.startswith('_'))]


def _name(what: Any) -> str:
  return getattr(what, '__name__', repr(what))


def no_progress(steps: int) -> None:
  """Ignores the progress of an evaluation."""
  del steps


def check_evaluation(num_steps: int, limit: int) -> None:
  """Raises ValueError unless an evaluation and its episodes have at least one step."""
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
    num_steps: minimum number of environment steps.
    progress: called after each round with its number of steps. It may raise an error to stop.

  Returns:
    returns [n] and lengths [n] of all episodes that started, n a multiple of E.
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
  given = str(game).lower()
  near = [name for name in by_lower if given and name.startswith(given)][:3]
  near = near or difflib.get_close_matches(given, by_lower, n=3, cutoff=0.65)
  hint = f' Did you mean {" or ".join(repr(by_lower[name]) for name in near)}?' if near else ''
  raise ValueError(
    f'Unknown {family} game {game!r}.{hint} List them: python -m implicit_rl.environments'
  )

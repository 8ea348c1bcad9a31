"""Loads a trained run from its directory: agent, parameters, data and environment."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any

import gin
import jax
import jax.numpy as jnp

from implicit_rl import environments, metrics
from implicit_rl.agents import checks
from implicit_rl.compat import config_files, gin_names, gin_state
from implicit_rl.diagnosis.result import Diagnosis
from implicit_rl.diagnostics import Measurements
from implicit_rl.logs import checkpoints
from implicit_rl.running import configurables, experiment
from implicit_rl.running.policy import Policy
from implicit_rl.types import Batch, Params

Which = int | str  # An iteration, 'newest' or 'best'.


@dataclasses.dataclass
class LoadedRun:
  """A trained run.

  Attributes:
    base_dir: the run's directory, from which this run only reads.
    seed: the run's seed.
    iteration: of the parameters, from 0.
    config: the gin lines that the agent was built with.
    agent: an `Agent` with the trained state.
    make_environment: creates a new environment like the run's; call it with a seed, by default the
      run's.
    measure_size: number of transitions that the run measures on.
    measurements: the diagnostics of `diagnose`, with their own remembered values.
  """

  base_dir: pathlib.Path
  seed: int
  iteration: int
  config: str
  agent: Any
  make_environment: Callable[..., Any]
  measure_size: int
  measurements: Measurements

  @property
  def params(self) -> Params:
    """The online network's parameters."""
    return self.agent.state.params

  @property
  def source(self) -> Any:
    """The data source that the agent trains from, a `DataSource`.

    For an online run it is the replay in the checkpoint; the best checkpoint has none.
    """
    return self.agent.source

  @functools.cached_property
  def policy(self) -> Policy:
    """The greedy policy: `run.policy(observation)` returns an action.

    Call `run.policy.reset()` before each episode except the first. `Policy(run.agent, epsilon)`
    explores.
    """
    return Policy(self.agent, None if self.agent.action_shape else 0.0, self.seed)

  @property
  def iterations(self) -> list[int]:
    """The iterations that have a checkpoint, oldest first."""
    return checkpoints.iterations(self.base_dir / 'checkpoints')

  def fixed_batch(self) -> Batch:
    """Returns the transitions that the run measures its network on, [measure_size, ...].

    Raises:
      ValueError: if the checkpoint of an online run has no replay.
    """
    if not len(self.source):
      raise ValueError(
        f'{self.base_dir} is an online run, whose best checkpoint has no replay to measure on: '
        f'load one of the iterations {self.iterations}.'
      )
    return self.source.fixed_batch(self.measure_size)

  def diagnose(self) -> Diagnosis:
    """Measures the network as the run does, with every diagnostic, even if it is not due.

    Diagnostics that compare with the last measurement compare with the last call.

    Raises:
      ValueError: see `fixed_batch`.
    """
    agent, batch = self.agent, self.fixed_batch()
    context, key = agent.learner.context, agent.state.key
    features = jax.jit(lambda params: context.loss(params, params, batch, key)[1].outputs.features)
    fresh = features(context.init(jax.random.fold_in(key, 1)))
    return Diagnosis.of(
      agent.measure(batch, measurements=self.measurements),
      about={
        'iteration': self.iteration,
        'updates': agent.updates,
        'states': len(batch.reward),
        'layers': context.layers,
      },
      bounds=agent.value_bounds(),
      gamma=agent.gamma,
      estimates_values=agent.estimates_values,
    ).compared(metrics.of_features(fresh, agent.srank_delta))

  def restore(self, iteration: Which) -> None:
    """Gives the agent the state of another checkpoint; see `load_run`."""
    self.iteration, tree = _read(self.base_dir, iteration)
    _restore(self.agent, self.base_dir, self.iteration, tree)


def load_run(
  base_dir: str | PathLike,
  iteration: Which = 'newest',
  *,
  gin_files: Sequence[str] = (),
  gin_bindings: Sequence[str] = (),
) -> LoadedRun:
  """Loads a trained run from its own record.

  The run is built as recorded, with the defaults of that time. Nothing is written, and a run that
  still trains is not disturbed. The caller's gin configuration does not change, except that names
  of the modules imported here are registered.

  Args:
    base_dir: the run's `--base_dir`, or `BASE_DIR/seed_S` of one of several seeds.
    iteration: 'newest', 'best' (the highest evaluation so far) or the number of an iteration whose
      checkpoint was kept.
    gin_files: files that are added to the record, such as a diagnostics mix-in.
    gin_bindings: lines that are added to it, such as `TFDSReplay.data_dir = '/data'`. Then the data
      may differ from the run's.

  Returns:
    The run.

  Raises:
    FileNotFoundError: if there is no such directory or checkpoint.
    ValueError: if the record cannot be built, or the data is not the run's.
    CorruptCheckpointError: if the checkpoint is damaged.
  """
  path = pathlib.Path(base_dir).expanduser()
  iteration, tree = _read(path, iteration)
  seed = _seed(path, tree)
  config = _config(path, tree)
  parse = functools.partial(_parse, config, tuple(gin_files), tuple(gin_bindings))
  try:
    with parse():
      found = gin.get_bindings('Experiment')
      runner = found.get('runner', experiment.OfflineRunner)
      environment = environments.make(found['environment'], seed)
      agent = experiment.make_agent(found['agent'], environment, seed)
      agent.updates_per_step = gin_names.bound(runner, 'updates_per_step', agent.updates_per_step)
      measure_size = gin_names.bound(runner, 'measure_size')
      config = gin.config_str()
  except Exception as error:  # The code that the record names may raise anything.
    raise ValueError(f'{path} cannot be loaded: {_explained(error)}') from error
  if not (gin_files or gin_bindings):
    _check_data(path, tree['dataset'], agent.source.identity())
  _restore(agent, path, iteration, tree)

  def make_environment(seed: int = seed) -> Any:
    """Creates a new environment like the run's."""
    with parse():
      return environments.make(gin.get_bindings('Experiment')['environment'], seed)

  measurements = Measurements(agent.diagnostics, agent.learner.context)
  return LoadedRun(
    path, seed, iteration, config, agent, make_environment, measure_size, measurements
  )


@contextlib.contextmanager
def _parse(config: str, gin_files: Sequence[str], gin_bindings: Sequence[str]) -> Iterator[None]:
  """Inside the block gin has the run's configuration."""
  with gin_state.set_aside():
    # A record imports the modules that it names; settings in a checkpoint do not.
    configurables.load(everything=not config.startswith('import '))
    gin.parse_config(config)
    config_files.parse(gin_files)
    gin.parse_config(list(gin_bindings))
    yield


def _explained(error: Exception) -> str:
  """Returns one line that states a record's problem and what to do."""
  line = gin_names.one_line(error)
  if isinstance(error, ImportError):
    return f'{line}. Put the directory of the module on PYTHONPATH.'
  if isinstance(error, OSError):
    return f"{line} If the data has moved, add gin_bindings such as TFDSReplay.data_dir = '/data'."
  return line


def _read(path: pathlib.Path, which: Which) -> tuple[int, dict[str, Any]]:
  """Returns a checkpoint's iteration and content.

  Raises:
    FileNotFoundError, ValueError, CorruptCheckpointError: see `load_run`.
  """
  directory = path / 'checkpoints'
  if not path.is_dir():
    raise FileNotFoundError(f'{path}: no such directory; give the --base_dir of a run.')
  kept = checkpoints.iterations(directory)
  best = directory / checkpoints.BEST
  if not kept and checkpoints.newest(directory) is None:
    seeds = sorted(one.parent.name for one in path.glob('seed_*/checkpoints'))
    hint = f' It holds {", ".join(seeds)}: give one of them.' if seeds else ''
    raise FileNotFoundError(f'{path} holds no checkpoint of a run.{hint}')
  if which == 'newest':
    found = checkpoints.load_newest(directory)
    assert found is not None
    return found
  if which == 'best':
    if not best.exists():
      raise FileNotFoundError(f'{path} holds no best checkpoint: the run was never evaluated.')
    tree = checkpoints.read(best)
    return int(tree['iteration']), tree
  if isinstance(which, bool) or not isinstance(which, int):
    raise ValueError(f"iteration must be 'newest', 'best' or a number, got {which!r}.")
  if which not in kept:
    raise FileNotFoundError(
      f'{path} holds no checkpoint of iteration {which}: it holds {_listed(kept)}'
      f'{" and the best" if best.exists() else ""} (OfflineRunner.keep_checkpoints, '
      'OnlineRunner.keep_checkpoints).'
    )
  return which, checkpoints.load(directory, which)


def _listed(kept: Sequence[int]) -> str:
  return ', '.join(map(str, kept)) or 'none of an iteration that has ended'


def _seed(path: pathlib.Path, tree: dict[str, Any]) -> int:
  """Returns the run's seed, from run.json or else from the checkpoint.

  Raises:
    ValueError: if neither has it.
  """
  try:
    return int(json.loads((path / 'run.json').read_text())['starts'][-1]['seed'])
  except (OSError, ValueError, KeyError, IndexError, TypeError):
    if 'seed' in tree['dataset']:
      return int(tree['dataset']['seed'])
  raise ValueError(f'{path} does not record its seed: run.json is missing or damaged.')


def _config(path: pathlib.Path, tree: dict[str, Any]) -> str:
  """Returns the gin lines of the run, from its record or else from the checkpoint."""
  record = path / 'operative_config.gin'
  if record.exists():
    return record.read_text(encoding='utf-8')
  return '\n'.join(f'{name} = {value}' for name, value in tree['settings'].items())


def _check_data(path: pathlib.Path, there: dict[str, Any], here: dict[str, Any]) -> None:
  """Raises ValueError if the data is not the run's training data."""
  for name in there:
    if there[name] != here.get(name):
      raise ValueError(
        f'{path} was trained on other data: {name} was {there[name]!r} and is {here.get(name)!r}. '
        'Name that data with gin_bindings; then any data is accepted.'
      )


def _restore(agent: Any, path: pathlib.Path, iteration: int, tree: dict[str, Any]) -> None:
  """Gives an agent the state in a checkpoint.

  Raises:
    ValueError: if the state belongs to another agent or network.
  """
  bundle = tree['agent']
  try:
    if 'acted' in bundle:
      agent.unbundle(str(path / 'checkpoints'), iteration, bundle)
    else:  # The best checkpoint holds only the learner's state.
      state = checks.restore(agent.state, bundle['learner'], iteration)
      agent.state = jax.tree.map(jnp.asarray, state)
  except ValueError as error:
    raise ValueError(f'{path} cannot be loaded: {error}') from error

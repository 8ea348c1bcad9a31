"""Builds a runner from gin files and flags, and records what was run."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gin
import jax
from absl import logging

from implicit_rl import environments, sharding
from implicit_rl.agents.base import Agent
from implicit_rl.compat import config_files, gin_names, unread_bindings
from implicit_rl.compat.settings import check_number
from implicit_rl.data.replay.device_replay import DeviceReplay
from implicit_rl.logs import collectors, wandb_collector
from implicit_rl.running import (
  configurables,
  process_seeds,
  resume_checks,
  run_directory,
  seeds,
  vmapped_runs,
)
from implicit_rl.running.offline_runner import OfflineRunner
from implicit_rl.running.online_runner import OnlineRunner

# isort: split
from dopamine.metrics import collector_dispatcher

collectors.register()
wandb_collector.register()

# Defaults that a gin file can override. Dopamine's other two collectors rewrite their whole history
# in every iteration and lose it on a resume; logs/ and metrics.jsonl have the same data.
_DEFAULTS = """
collector_dispatcher.CollectorDispatcher.collectors = ('tensorboard',)
"""

_LEARNER_NUMBERS = (
  'penalty_weight',
  'target_update_period',
  'target_update_rate',
  'max_gradient_norm',
)

# These are read, but our runners override them. A record of them would mislead, and could not be
# rerun.
_OVERRIDDEN = re.compile(
  r'^(Agent\.updates_per_step|(run_experiment\.)?Runner\.\w+) = .*\n', re.MULTILINE
)

_MATMUL_PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')

_RECORDED_PACKAGES = (
  'implicit_rl jax jaxlib flax optax numpy dopamine-rl gin-config tensorflow tensorflow-datasets '
  'ale-py gymnax'
).split()


def parse_gin(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  data_dir: str | None = None,
) -> None:
  """Parses gin files and bindings; later ones override earlier ones, and flags override all.

  Args:
    gin_files: paths, found as `config_files.find` does; at least one.
    gin_bindings: lines such as `Learner.penalty_weight = 0.001`.
    data_dir: directory of TFDS data; None keeps gin's setting (by default the embedded sample).

  Raises:
    ValueError: if there is no file, for an unknown name, or for a line that is not gin.
    OSError: if a file can't be read.
  """
  if not gin_files:
    raise ValueError('Give at least one --gin_files, such as gin_configs/minatar/offline_dqn.gin.')
  configurables.load()
  gin.clear_config()
  gin.parse_config(_DEFAULTS)
  config_files.parse(gin_files)
  bindings = [line for binding in gin_bindings for line in binding.splitlines() if line.strip()]
  _check_macros(bindings)
  if data_dir is not None:
    bindings.append(f'TFDSReplay.data_dir = {str(data_dir)!r}')
  for binding in bindings:
    try:
      gin.parse_config(binding)
    except SyntaxError as error:
      raise ValueError(f'--gin_bindings: {binding!r} is not gin: {error.msg}') from error
  _check_collectors()
  gin.finalize()


def _check_collectors() -> None:
  """Raises ValueError for an unknown collector, since Dopamine would only log it."""
  known = collector_dispatcher.AVAILABLE_COLLECTORS
  for name in gin.query_parameter('collector_dispatcher.CollectorDispatcher.collectors'):
    if name not in known:
      hint = gin_names.did_you_mean(gin_names.nearest(str(name), known))
      raise ValueError(f'CollectorDispatcher.collectors: there is no {name!r}.{hint}')


def _check_macros(bindings: Sequence[str]) -> None:
  """Raises ValueError for a bare name that no file defines, since gin would bind it silently."""
  known = gin_names.macros()
  for binding in bindings:
    bare = re.match(r'\s*([A-Za-z_]\w*)\s*=', binding)
    if bare and bare[1] not in known:
      hint = gin_names.did_you_mean(gin_names.nearest(bare[1], known, 0.5))
      raise ValueError(f'--gin_bindings: no gin file defines {bare[1]}.{hint}')


def join_hosts(base_dir: str, seed: int) -> str:
  """Checks that all hosts have the same settings; returns the directory that this host writes to.

  Raises:
    ValueError: on all hosts, if their settings or seeds differ.
  """
  sharding.agree({'settings': gin_names.settings(), 'seed': seed, 'base_dir': base_dir})
  return sharding.directory_of_this_host(base_dir)


@gin.configurable('Experiment', denylist=['base_dir', 'seed', 'source'])
def create_runner(
  base_dir: str,
  seed: int = 0,
  *,
  source: Callable[..., Any] | None = None,
  environment: Callable[..., Any] = gin.REQUIRED,
  agent: Callable[..., Any] = gin.REQUIRED,
  runner: Callable[..., Any] = OfflineRunner,
  matmul_precision: str | None = None,
) -> Any:
  """Builds the run that gin describes and records it in `base_dir`.

  Args:
    base_dir: directory of the run; created if absent.
    seed: everything random in the run derives from it.
    source: creates the agent's data source; None uses the one that gin names.
    environment: called with `seed`.
    agent: called with the environment's properties and `seed`. It chooses its own `source`.
    runner: called with the directory and the two constructors, as Dopamine's is.
    matmul_precision: of products of float32 matrices in this process: 'float32', 'tensorfloat32' or
      'bfloat16', as JAX's `jax_default_matmul_precision`. None keeps JAX's own default. A CPU
      computes in float32 in any case. The penalty and the ranks are always precise.

  Returns:
    The runner, or an object that runs those of several seeds; `run_experiment()` starts it.

  Raises:
    ValueError: for settings that contradict each other.
    OSError: if the directory can't be written, or another process runs in it.
  """
  _set_matmul_precision(matmul_precision)
  make = functools.partial(_create_one, environment=environment, agent=agent, runner=runner)
  count = gin_names.bound(runner, 'num_seeds', 1)
  name = runner.__name__
  check_number(f'{name}.num_seeds', count, least=1, whole=True)
  if count == 1:
    return make(base_dir, seed, source=source)
  if os.path.exists(os.path.join(base_dir, 'metrics.jsonl')):
    raise ValueError(f'{base_dir} holds one run; {name}.num_seeds needs a --base_dir of its own.')
  chosen = range(seed, seed + count)
  way = seeds.choose(gin_names.bound(runner, 'seeds_as'), one_program=_is_one_program(runner))
  if way == 'processes' and jax.process_count() > 1:
    raise ValueError(f"{name}.seeds_as can't be 'processes' on several hosts; take 'vmap'.")
  if way == 'vmap':
    directories = [seeds.directory(base_dir, one) for one in chosen]
    with run_directory.nothing_left_if_refused(base_dir):
      return vmapped_runs.VmappedRuns(
        [
          vmapped_runs.Run(path, one, functools.partial(make, path, one))
          for path, one in zip(directories, chosen, strict=True)
        ]
      )
  iterations = gin_names.bound(runner, 'num_iterations')
  return process_seeds.ProcessSeeds(base_dir, chosen, iterations, create_runner)


def _is_one_program(runner: Callable[..., Any]) -> bool:
  """Whether training is one compiled program: offline, or with a replay for a compiled loop."""
  if runner.__name__ != OnlineRunner.__name__:
    return True
  return gin_names.named(gin_names.bound(Agent, 'source')) is DeviceReplay


class Described(NamedTuple):
  """A run by its flags; see `parse_gin` and `create_runner`."""

  base_dir: str
  seed: int
  gin_files: Sequence[str]
  gin_bindings: Sequence[str]


def create_side_by_side(runs: Sequence[Described]) -> vmapped_runs.VmappedRuns:
  """Builds runs that train as one vmapped program; numbers in their updates may differ.

  Args:
    runs: they may differ in their seeds and in settings of `Learner`, of optimisers and of
      remedies that are numbers.

  Raises:
    ValueError: if runs differ in anything else; the error names it.
    OSError: if a directory can't be written, or another process runs in it.
  """
  found = []
  for run in runs:
    parse_gin(run.gin_files, run.gin_bindings)
    found.append(resume_checks.fixed_settings())
    for setting, value in gin_names.settings().items():
      if setting.endswith('Runner.num_seeds') and value != '1':
        raise ValueError(
          f'{setting} must be 1 where runs train as one program, got {value} in {run.base_dir}.'
        )
  for run, settings in zip(runs, found, strict=True):
    for setting in sorted(settings.keys() | found[0].keys()):
      if settings.get(setting) != found[0].get(setting) and not _is_of_an_update(setting):
        raise ValueError(
          f'{setting} is {found[0].get(setting, "not set")} in {runs[0].base_dir} and '
          f'{settings.get(setting, "not set")} in {run.base_dir}: runs that train as one program '
          'may differ in numbers of Learner, optimisers and remedies only.'
        )

  def make(run: Described, source: Callable[..., Any] | None) -> Any:
    parse_gin(run.gin_files, run.gin_bindings)
    return create_runner(run.base_dir, run.seed, source=source)

  with contextlib.ExitStack() as refused:
    for run in runs:
      refused.enter_context(run_directory.nothing_left_if_refused(run.base_dir))
    return vmapped_runs.VmappedRuns(
      [vmapped_runs.Run(one.base_dir, one.seed, functools.partial(make, one)) for one in runs],
      differ=any(settings != found[0] for settings in found),
    )


def _is_of_an_update(setting: str) -> bool:
  """Whether only a gradient update reads a setting."""
  name, _, parameter = setting.rpartition('/')[2].rpartition('.')
  if name == 'Learner':
    return parameter in _LEARNER_NUMBERS
  selector = gin_names.selector(name) if name else ''  # A macro has none.
  return selector.startswith(('optax.', 'implicit_rl.optimizers.', 'implicit_rl.remedies.'))


def _set_matmul_precision(precision: str | None) -> None:
  """Sets JAX's own default, in this process; see `create_runner`."""
  if precision is None:
    return
  if precision not in _MATMUL_PRECISIONS:
    known = ', '.join(_MATMUL_PRECISIONS)
    raise ValueError(f'Experiment.matmul_precision must be one of {known}, got {precision!r}.')
  jax.config.update('jax_default_matmul_precision', precision)


def _create_one(
  base_dir: str,
  seed: int,
  source: Callable[..., Any] | None = None,
  *,
  environment: Callable[..., Any],
  agent: Callable[..., Any],
  runner: Callable[..., Any],
) -> Any:
  """Returns the runner of one seed; a given `source` replaces the one that gin names."""
  with run_directory.nothing_left_if_refused(base_dir):
    run_directory.acquire(base_dir)
    made = environments.make(environment, seed)

    def create_agent(sess, environment, summary_writer=None):
      del sess, summary_writer
      return make_agent(agent, environment, seed, **({} if source is None else {'source': source}))

    created = runner(base_dir, create_agent, lambda: made)
    unread_bindings.refuse_dopamines()
    if source is None:
      unread_bindings.name_others()
    record(base_dir, seed, created.describe())
  return created


def make_agent(agent: Callable[..., Any], environment: Any, seed: int, **settings: Any) -> Any:
  """Calls an agent's constructor with the environment's properties."""
  return agent(
    num_actions=environment.num_actions,
    observation_shape=environment.observation_shape,
    observation_dtype=environment.observation_dtype,
    stack_size=environment.stack_size,
    seed=seed,
    **settings,
  )


def record(base_dir: str, seed: int, description: dict[str, Any]) -> None:
  """Writes operative_config.gin, and adds this start to run.json: data, versions, git, machine."""
  directory = pathlib.Path(base_dir)
  config = _OVERRIDDEN.sub('', gin.operative_config_str())
  (directory / 'operative_config.gin').write_text(config)
  path = directory / 'run.json'
  starts = _earlier_starts(path)
  start = {
    'command': sys.argv,
    'seed': seed,
    **description,
    'versions': {name: _version(name) for name in _RECORDED_PACKAGES},
    'python': platform.python_version(),
    'devices': [str(device) for device in jax.devices()],
    'git_revision': _git_revision(),
  }
  aside = path.with_suffix('.partial')
  aside.write_text(json.dumps({'starts': [*starts, start]}, indent=2) + '\n')
  os.replace(aside, path)


def _earlier_starts(path: pathlib.Path) -> list[Any]:
  """Returns the entries of run.json; renames an unreadable file, which a run does not need."""
  if not path.exists():
    return []
  try:
    return list(json.loads(path.read_text())['starts'])
  except (ValueError, KeyError, TypeError):
    aside = path.with_suffix('.damaged')
    os.replace(path, aside)
    logging.warning('%s is damaged. It is kept as %s, and a new file is started.', path, aside)
    return []


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git_revision() -> str | None:
  """Returns the checkout's commit, with '+' if files have changed; None outside a checkout."""
  here = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', '-C', str(here), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)  # Else not ours.
    return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain') else '')
  except (OSError, subprocess.CalledProcessError):
    return None

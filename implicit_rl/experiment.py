"""From gin files and flags to a runner, and the record of what was run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax

from implicit_rl.runners import OfflineRunner

# What holds unless a gin file says otherwise. Dopamine's other two collectors rewrite their whole
# history in every iteration and lose it on a resume; logs/ and metrics.jsonl keep both.
_DEFAULTS = """
collector_dispatcher.CollectorDispatcher.collectors = ('tensorboard',)
"""

_RECORDED_PACKAGES = (
  'implicit_rl jax jaxlib flax optax numpy dopamine-rl gin-config tensorflow tensorflow-datasets '
  'ale-py gymnax'
).split()


def parse_gin(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  data_dir: str | None = None,
) -> None:
  """Parses gin files and bindings; later ones win, flags win over all.

  Args:
    gin_files: paths; at least one.
    gin_bindings: lines such as `Learner.penalty_weight = 0.001`.
    data_dir: where TFDS data lies; None leaves what gin says (by default the embedded sample).

  Raises:
    ValueError: for no file, an unknown name or a line that is not gin.
    OSError: if a file can't be read.
  """
  if not gin_files:
    raise ValueError('Give at least one --gin_files, such as gin_configs/minatar/offline_dqn.gin.')
  bindings = list(gin_bindings)
  if data_dir is not None:
    bindings.append(f'TFDSReplay.data_dir = {str(data_dir)!r}')
  gin.parse_config(_DEFAULTS)
  gin.parse_config_files_and_bindings(list(gin_files), bindings)


@gin.configurable('Experiment')
def create_runner(
  base_dir: str,
  seed: int = 0,
  *,
  environment: Callable[..., Any] = gin.REQUIRED,
  agent: Callable[..., Any] = gin.REQUIRED,
  runner: Callable[..., Any] = OfflineRunner,
) -> Any:
  """Builds the run that gin describes and records it in `base_dir`.

  Args:
    base_dir: directory of the run; made if absent.
    seed: everything random in the run derives from it.
    environment: called with `seed`.
    agent: called with what the environment says of itself, and `seed`. Its `source` is its own.
    runner: called with the directory and the two constructors, as Dopamine's is.

  Returns:
    The runner; `run_experiment()` starts it.

  Raises:
    ValueError: for settings that don't fit each other.
    OSError: if the directory can't be written.
  """
  made = environment(seed=seed)

  def create_agent(sess, environment, summary_writer=None):
    del sess, summary_writer
    return agent(
      num_actions=environment.num_actions,
      observation_shape=environment.observation_shape,
      observation_dtype=environment.observation_dtype,
      stack_size=environment.stack_size,
      seed=seed,
    )

  os.makedirs(base_dir, exist_ok=True)
  created = runner(base_dir, create_agent, lambda: made)
  record(base_dir, seed, created.describe())
  return created


def record(base_dir: str, seed: int, description: dict[str, Any]) -> None:
  """Writes operative_config.gin and run.json: settings, data, versions, git revision, machine."""
  directory = pathlib.Path(base_dir)
  (directory / 'operative_config.gin').write_text(gin.operative_config_str())
  run = {
    'command': sys.argv,
    'seed': seed,
    **description,
    'versions': {name: _version(name) for name in _RECORDED_PACKAGES},
    'python': platform.python_version(),
    'devices': [str(device) for device in jax.devices()],
    'git_revision': _git_revision(),
  }
  (directory / 'run.json').write_text(json.dumps(run, indent=2) + '\n')


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git_revision() -> str | None:
  """The checkout's commit, with '+' if it was changed since; None outside a checkout."""

  def git(*arguments: str) -> str:
    here = pathlib.Path(__file__).parent
    return subprocess.run(
      ['git', '-C', str(here), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain') else '')
  except (OSError, subprocess.CalledProcessError):
    return None

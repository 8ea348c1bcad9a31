"""Makes dopamine-rl 4.1.2 import with current libraries; import this module before Dopamine.

    from implicit_rl.compat import dopamine_compat  # noqa: F401

    # isort: split
    from dopamine.discrete_domains import run_experiment

Each function below works around one fault and says when it can be removed:
`tests/compat/test_dopamine_compat.py` fails with the name of the function to delete once an
upstream release makes it unnecessary. Importing the module applies them all once. Nothing is
replaced if the real package is there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator

import gin
import jax
import jax.interpreters.xla
import numpy as np
from absl import logging

from implicit_rl.compat import lazy_imports


def stub_baselines() -> None:
  """Replaces OpenAI's `baselines`, which Dopamine imports without declaring it.

  `atari_lib` uses it only when `use_ppo_preprocessing=True`. The package on PyPI needs MPI and a
  C compiler, so an empty module replaces it unless the real one is installed.

  Goes when: dopamine-rl's `atari_lib` imports without `baselines`.
  """
  if 'baselines' in sys.modules or importlib.util.find_spec('baselines') is not None:
    return
  wrappers = types.ModuleType('baselines.common.atari_wrappers')
  common = types.ModuleType('baselines.common')
  package = types.ModuleType('baselines')
  common.atari_wrappers = wrappers  # type: ignore[attr-defined]
  package.common = common  # type: ignore[attr-defined]
  for module in (package, common, wrappers):
    sys.modules[module.__name__] = module


def restore_aval_mappings() -> None:
  """Gives TensorFlow Probability 0.25 two names that new versions of JAX removed.

  Dopamine's `networks` imports TensorFlow Probability, whose 0.25.0 registers a class of its own in
  `jax.interpreters.xla.pytype_aval_mappings` and `jax.core.pytype_aval_mappings` while it is
  imported. Nothing else reads these tables, so separate tables are enough, and no private name of
  JAX is changed. (tensorflow-probability comes with dopamine-rl; distrax, and so rlax, install
  tfp-nightly, which writes the same folder and does not need this. Either may have been installed
  last; both work.)

  Goes when: a released tensorflow-probability above 0.25 imports with current JAX.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)  # jax.core's name warns until it is gone
    for module in (jax.interpreters.xla, jax.core):
      if not hasattr(module, 'pytype_aval_mappings'):
        setattr(module, 'pytype_aval_mappings', {np.ndarray: None})  # noqa: B010


def silence_gym() -> None:
  """Suppresses the side effects of the old `gym`, which Dopamine's Atari library still imports.

  On import it prints that it is unmaintained and makes Python show every library's
  DeprecationWarnings to the user. Whenever it is imported, its notice is removed and the filters
  are restored.

  Goes when: dopamine-rl no longer imports `gym`.
  """
  lazy_imports.around('gym', _without_notices)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
  from gym_notices import notices

  notices.notices.clear()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    yield


def tame_tensorflow() -> None:
  """Imports TensorFlow without its start-up messages, and hides every GPU from it.

  TensorFlow only reads files here; JAX computes. By default TensorFlow takes nearly all memory of
  every GPU it sees. Its native code prints to file descriptor 2 before any log level is read. The
  descriptor is therefore redirected during the import, whenever that happens; the output is shown
  if the import fails.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # warnings and worse that come later
  if 'tensorflow' in sys.modules:
    _hide_gpus()
  lazy_imports.around('tensorflow', _quiet_and_without_gpus)


@contextlib.contextmanager
def _quiet_and_without_gpus() -> Iterator[None]:
  with _stderr_kept_for_failure():
    yield
    _hide_gpus()


def _hide_gpus() -> None:
  try:
    sys.modules['tensorflow'].config.set_visible_devices([], 'GPU')
  except RuntimeError:
    logging.warning(
      'TensorFlow was in use before implicit_rl.compat.dopamine_compat was imported, so GPUs could '
      'not be hidden from it; import that module first if JAX runs out of GPU memory.'
    )


@contextlib.contextmanager
def _stderr_kept_for_failure() -> Iterator[None]:
  """Collects the output to file descriptor 2 and shows it only if the block raises."""
  sys.stderr.flush()
  saved = os.dup(2)
  with tempfile.TemporaryFile() as sink:
    os.dup2(sink.fileno(), 2)
    try:
      yield
    except BaseException:
      sink.seek(0)
      os.write(saved, sink.read())
      raise
    finally:
      os.dup2(saved, 2)
      os.close(saved)


def import_the_runner_alone() -> None:
  """Imports Dopamine's runner without the imports of its agents.

  `run_experiment` imports nine agents to choose one of them by name. They import the Atari library,
  TensorFlow and TensorFlow Probability, which takes most of a run's start and which our runs don't
  use. Here they are imported when the runner's code first uses one, or when other code imports
  them. Gin knows the names of a Dopamine agent after its module is imported, as in the gin files of
  Dopamine's repository.

  Goes when: dopamine-rl imports an agent only when it creates one.
  """
  in_jax = ('dqn', 'full_rainbow', 'implicit_quantile', 'ppo', 'quantile', 'rainbow')
  in_tensorflow = ('dqn', 'implicit_quantile', 'rainbow')
  with lazy_imports.put_off(
    'tensorflow',
    'dopamine.discrete_domains.atari_lib:create_atari_environment',  # A default of the runner's.
    *(f'dopamine.jax.agents.{name}.{name}_agent' for name in in_jax),
    *(f'dopamine.tf.agents.{name}.{name}_agent' for name in in_tensorflow),
    within=gin.unlock_config,  # They register configurables, also in a run.
  ):
    importlib.import_module('dopamine.discrete_domains.run_experiment')


stub_baselines()
restore_aval_mappings()
silence_gym()
tame_tensorflow()
import_the_runner_alone()

"""What every test runs under: the CPU, strict shapes, no gin bindings left over, fixed seeds."""

from __future__ import annotations

import functools
import gc
import os
import pathlib
import random

# Before JAX is imported, so that tests give the same numbers on every machine. Set JAX_PLATFORMS to
# run them on an accelerator instead.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of the tests' time is XLA compiling. So the same program is compiled once for all of them and
# for the processes that they start, without XLA's costly passes, and not by way of MLIR. Measured
# on a loop over MinAtar's Breakout: a third of the time.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(
  pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla_programs'
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
os.environ['XLA_FLAGS'] = ' '.join(
  dict.fromkeys(  # Once, though xdist's processes have them from the first one.
    [
      *os.environ.get('XLA_FLAGS', '').split(),
      '--xla_cpu_use_fusion_emitters=false',
      '--xla_cpu_parallel_codegen_split_count=1',
    ]
  )
)

import gin
import gymnasium
import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

from implicit_rl import cpu

# Also mends tensorflow-probability for rlax, which the tests compare losses with.
from implicit_rl.compat import dopamine_compat  # noqa: F401
from implicit_rl.data.formats import vector_files
from implicit_rl.running import run_directory

# A [B] array against a [B, 1] one is a silent bug, never a wish. Code of others that is laxer runs
# under `with jax.numpy_rank_promotion('allow')`.
jax.config.update('jax_numpy_rank_promotion', 'raise')
# JAX makes a context for each program that it lowers: 5 of the 7 ms that a small one takes, and the
# tests lower some 50,000. Here the programs of a file share one.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)
# A full collection takes a fifth of a second, and comes often while programs are traced: a tenth of
# the tests' time. Young garbage is collected as ever.
gc.freeze()
gc.set_threshold(5000, 20, 1000)


def pytest_collection_modifyitems(items):
  """Where processes share the tests, each begins with slow ones, so that none is left to one alone.

  xdist's worksteal first cuts the list into as many parts as there are processes. Slow tests of one
  file stay together: they share fixtures and compiled programs.
  """
  parts = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
  if parts == 1:
    return
  quick = [item for item in items if not item.get_closest_marker('slow')]
  files = {item.path: [] for item in items if item.get_closest_marker('slow')}
  for item in items:
    if item.get_closest_marker('slow'):
      files[item.path].append(item)
  length = -(-len(items) // parts)
  ordered = []
  for part in range(parts):
    slow = [item for path in list(files)[part::parts] for item in files[path]]
    taken = max(length - len(slow), 0) if part < parts - 1 else len(quick)
    ordered += slow + quick[:taken]
    quick = quick[taken:]
  items[:] = ordered


@pytest.fixture(scope='module', autouse=True)
def _context():
  """Ends with the context that lowered the file's programs, which holds their constants."""
  yield
  mlir.make_ir_context.cache_clear()


@pytest.fixture(autouse=True)
def _isolated():
  """Starts each test from the same seeds; leaves no gin state, no variable of JAX's."""
  random.seed(0)
  np.random.seed(0)  # noqa: NPY002 - libraries draw from it
  before = _variables()
  yield
  gin.clear_config()
  cpu.use_kernels(False)  # What starts a run in this process turns them on.
  for path in list(run_directory._held):  # The gridworld's runs hold theirs until the process ends.
    run_directory.release(path)
  for name in _variables():
    del os.environ[name]
  os.environ.update(before)


def _variables():
  """What the environment says to JAX and XLA; the keys of compiled programs depend on it."""
  return {name: os.environ[name] for name in os.environ if name.startswith(('JAX_', 'XLA_'))}


@pytest.fixture(scope='session')
def hopper_episodes():
  """Three episodes of Hopper by random actions: two falls, and one that is cut after ten steps."""
  simulator = gymnasium.make('Hopper-v5').unwrapped
  rng = np.random.default_rng(0)
  episodes = []
  for number, limit in enumerate((1000, 10, 1000)):
    seen = [simulator.reset(seed=number)[0]]
    actions, rewards, fallen = [], [], False
    while not fallen and len(actions) < limit:
      actions.append(rng.uniform(-1, 1, 3).astype(np.float32))
      observation, reward, fallen, _, _ = simulator.step(actions[-1])
      seen.append(observation)
      rewards.append(reward)
    episodes.append(
      vector_files.VectorEpisode(
        np.asarray(seen, np.float32), np.asarray(actions), np.asarray(rewards, np.float32), fallen
      )
    )
  assert [episode.terminal for episode in episodes] == [True, False, True]
  return episodes


@pytest.fixture(scope='session')
def hopper_replay(tmp_path_factory, hopper_episodes):
  """The same as a folder that an online run would have written."""
  folder = tmp_path_factory.mktemp('replay') / 'Hopper_run_1'
  about = {'environment': 'Hopper-v5', 'game': 'Hopper', 'run': 1}
  vector_files.write_flat(folder / vector_files.FILE, hopper_episodes, about)
  return folder


@pytest.fixture
def cpu_kernels():
  """As in a run: networks use the kernels for XLA's CPU backend."""
  cpu.use_kernels()


@pytest.fixture
def compiled_fully():
  """For tests of what XLA makes of a program, and those that compute much: with all its passes."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)

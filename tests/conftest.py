"""What every test runs under: the CPU, strict shapes, no gin bindings left over, fixed seeds."""

from __future__ import annotations

import os
import pathlib
import random

# Before JAX is imported, so that tests give the same numbers on every machine. Set JAX_PLATFORMS to
# run them on an accelerator instead.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import gin
import gymnasium
import jax
import numpy as np
import pytest

# Also mends tensorflow-probability for rlax, which the tests compare losses with.
from implicit_rl import dopamine_compat  # noqa: F401
from implicit_rl.data import vector_files

# A [B] array against a [B, 1] one is a silent bug, never a wish. Code of others that is laxer runs
# under `with jax.numpy_rank_promotion('allow')`.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Most of the tests' time is XLA compiling; the same program is compiled once for all of them.
_PROGRAMS = pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla_programs'
jax.config.update('jax_compilation_cache_dir', str(_PROGRAMS))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


@pytest.fixture(autouse=True)
def _isolated():
  """Starts each test from the same seeds and leaves no gin state behind."""
  random.seed(0)
  np.random.seed(0)  # noqa: NPY002 - libraries draw from it
  yield
  gin.clear_config()


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
def compiled_quickly():
  """For tests that run what they compile once or twice: without XLA's costly passes.

  Measured on the test of every gin file: saves four tenths of its time.
  """
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)

"""Dopamine imports and runs with our mends, and each mend is still needed."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from implicit_rl.compat import lazy_imports


def run_python(code: str) -> subprocess.CompletedProcess[str]:
  """Runs code in a fresh interpreter, which has imported nothing yet."""
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    capture_output=True,
    text=True,
    timeout=600,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': ''},  # XLA may speak when it loads a program.
  )


def requirements(distribution: str) -> set[str]:
  """Names of what a distribution asks for without extras."""
  found = [Requirement(line) for line in importlib.metadata.requires(distribution) or ()]
  return {r.name for r in found if r.marker is None or r.marker.evaluate({'extra': ''})}


def test_runner_dqn_and_rainbow_import_and_compute_quietly():
  result = run_python("""
    from implicit_rl.compat import dopamine_compat
    import jax
    import jax.numpy as jnp
    import ale_py
    import gin
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gin.finalize()  # As a run does: what is imported later registers its names all the same.
    from dopamine.discrete_domains import run_experiment
    assert issubclass(run_experiment.dqn_agent.DQNAgent, object)
    assert run_experiment.ppo_agent.PPOAgent and run_experiment.full_rainbow_agent.losses
    environment = run_experiment.atari_lib.create_atari_environment('Pong')
    assert environment.reset().shape == (84, 84, 1)

    from dopamine.jax import continuous_networks, networks
    from dopamine.jax.agents.dqn import dqn_agent
    from dopamine.jax.agents.full_rainbow import full_rainbow_agent
    from dopamine.jax.agents.rainbow import rainbow_agent

    state = jnp.ones((84, 84, 4))
    support = jnp.linspace(-10., 10., 51)
    dqn = networks.NatureDQNNetwork(num_actions=6)
    q_values = dqn.apply(dqn.init(jax.random.key(0), state), state).q_values
    assert q_values.shape == (6,) and jnp.all(jnp.isfinite(q_values)), q_values
    c51 = networks.RainbowNetwork(num_actions=6, num_atoms=51)
    outputs = c51.apply(c51.init(jax.random.key(0), state, support), state, support)
    assert jnp.allclose(outputs.probabilities.sum(-1), 1, atol=1e-5)
    key = jax.random.key(0)
    ppo = networks.PPODiscreteActorCriticNetwork(action_shape=(6,))
    actor = jax.eval_shape(ppo.init_with_output, key, state, key)[0].actor
    assert actor.sampled_action.shape == actor.entropy.shape == (), actor
    sac = continuous_networks.ActorCriticNetwork(action_shape=(3,))
    actor = jax.eval_shape(sac.init_with_output, key, jnp.ones(5), key)[0].actor
    assert actor.sampled_action.shape == (3,) and actor.log_probability.shape == (), actor
    print(run_experiment.Runner.__name__)
  """)
  assert result.returncode == 0, result.stderr
  assert result.stdout == 'Runner\n'
  assert result.stderr == '', 'importing Dopamine should print nothing'


@pytest.mark.exhaustive
def test_tensorflow_sees_no_gpu_and_a_failed_import_still_speaks():
  result = run_python("""
    import os
    import sys
    from implicit_rl.compat import dopamine_compat
    assert 'tensorflow' not in sys.modules
    import tensorflow as tf
    assert tf.config.get_visible_devices('GPU') == []
    with dopamine_compat._stderr_kept_for_failure():
      os.write(2, b'dropped')
    with dopamine_compat._stderr_kept_for_failure():
      os.write(2, b'kept')
      raise SystemExit(3)
  """)
  assert result.returncode == 3
  assert result.stderr == 'kept'


def test_baselines_is_still_needed():
  result = run_python('import dopamine.discrete_domains.atari_lib')
  missing = "No module named 'baselines'" in result.stderr
  installed = 'baselines' in {d.name for d in importlib.metadata.distributions()}
  assert missing or installed, (
    f'dopamine-rl {importlib.metadata.version("dopamine-rl")} imports without baselines: delete '
    'stub_baselines from implicit_rl/compat/dopamine_compat.py '
    f'(import said: {result.stderr[-300:]!r})'
  )


def test_aval_mappings_are_still_needed():
  version = Version(importlib.metadata.version('tensorflow-probability'))
  assert version <= Version('0.25'), (
    f'tensorflow-probability {version} is out: if a fresh environment imports '
    'tensorflow_probability.substrates.jax on its own, delete restore_aval_mappings from '
    'implicit_rl/compat/dopamine_compat.py; else raise the version in this test'
  )


def test_the_old_gym_is_still_imported():
  assert 'gym' in requirements('dopamine-rl'), (
    'dopamine-rl no longer asks for gym: delete silence_gym from '
    'implicit_rl/compat/dopamine_compat.py'
  )


def test_the_runner_still_imports_every_agent():
  from dopamine.discrete_domains import run_experiment

  held = {name for name, value in vars(run_experiment).items() if lazy_imports.is_put_off(value)}
  agents = {name for name in held if name.endswith('_agent')}
  assert len(agents) == 9 and held == {*agents, 'atari_lib', 'tf'}, (
    'of what import_the_runner_alone in implicit_rl/compat/dopamine_compat.py puts off, '
    f'dopamine-rl imports {sorted(held)}: shorten its list, or delete it'
  )


def test_gymnax_still_imports_what_it_draws_with():
  result = run_python("""
    from implicit_rl.compat import lazy_imports
    from implicit_rl.environments import minatar
    from gymnax.environments.misc import pong
    print(*sorted(name for name in vars(pong) if lazy_imports.is_put_off(vars(pong)[name])))
    assert pong.colors.to_rgb('r') == (1, 0, 0)
  """)
  assert result.returncode == 0, result.stderr
  assert result.stdout == 'colors plt sns\n', (
    f'gymnax imports {result.stdout!r} for pictures: shorten the list in environments/gymnax.py'
  )


def test_tensorboard_is_still_undeclared():
  declared = requirements('dopamine-rl') | requirements('tensorflow')
  assert 'tensorboard' not in declared, (
    'tensorboard comes with dopamine-rl or tensorflow again: take it out of setup.py'
  )


def test_an_installed_baselines_is_left_alone(tmp_path):
  (tmp_path / 'baselines').mkdir()
  (tmp_path / 'baselines' / '__init__.py').write_text('real = True\n')
  result = run_python(f"""
    import sys
    sys.path.insert(0, {str(tmp_path)!r})
    from implicit_rl.compat import dopamine_compat
    import baselines
    assert baselines.real
  """)
  assert result.returncode == 0, result.stderr


@pytest.mark.exhaustive
def test_our_gin_names_are_unambiguous_beside_dopamine():
  result = run_python("""
    from implicit_rl.environments import atari, minatar
    from dopamine.discrete_domains import run_experiment
    import gin
    gin.parse_config(['AtariEnvironment.game = "Breakout"', 'MinAtarEnvironment.game = "Freeway"'])
    assert atari.AtariEnvironment().name == 'Breakout'
    assert minatar.MinAtarEnvironment().name == 'Freeway'
  """)
  assert result.returncode == 0, result.stderr

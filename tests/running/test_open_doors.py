"""Remedies and diagnostics of a file outside the repository, through the command line."""

import itertools
import os
import re
import sys
import textwrap

import jax
import numpy as np
import pytest

from implicit_rl.logs import checkpoints, jsonl
from tests import forks
from tests.cases import cases
from tests.command_line import (
  MINATAR_REPLAY,
  MUJOCO,
  MUJOCO_REPLAY,
  OFFLINE,
  ONLINE,
  ROOT,
  assert_close,
  launch,
  run,
)
from tests.faults import processes

FILE = '''
"""A reader's own file."""
import dataclasses
import functools
import gin
import jax
import jax.numpy as jnp
import optax
from implicit_rl.diagnostics import Diagnostic
from implicit_rl.remedies import LossTerm, PeriodicRemedy


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Anchor(LossTerm):
  """Pulls parameters to an anchor that follows them."""
  weight: float = 0.01

  def init(self, context, params, key):
    return params

  def term(self, context, params, target_params, batch, aux, key, extra):
    apart = jax.tree.map(lambda p, q: jnp.sum(jnp.square(p - q)), params, extra)
    return sum(jax.tree.leaves(apart))

  def after_update(self, context, state, batch, key):
    return state._replace(extra=optax.incremental_update(state.params, state.extra, 0.1)), {}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Shrinking(PeriodicRemedy):
  """Mixes the parameters with a fresh network's."""
  period: int | None = 2
  keep: float = 0.8

  def operate(self, context, state, batch, key):
    params = optax.incremental_update(state.params, context.init(key), self.keep)
    return state._replace(params=params), {'Shrinking/Done': jnp.ones(())}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Norms(Diagnostic):
  """The norm of the parameters, and of each of their arrays."""
  period: int = 2

  def measure(self, context, state, batch, key):
    norms = jnp.stack([jnp.linalg.norm(x) for x in jax.tree.leaves(state.params)])
    return {'parameter_norm': jnp.linalg.norm(norms), 'parameter_norms': norms}
'''
ONE = """
import readers_own
Remedies.anchor = @readers_own.Anchor()
Diagnostics.own_norms = @readers_own.Norms()
"""
TWO = """
import readers_own
Remedies.shrink = @readers_own.Shrinking()
readers_own.Shrinking.keep = 0.9
"""
NONE = """
Remedies.anchor = None
Remedies.shrink = None
Diagnostics.own_norms = None
"""
OFF = """
readers_own.Anchor.weight = 0.0
readers_own.Shrinking.period = None
Diagnostics.own_norms = None
"""
PATHS = {
  'offline': (
    'gin_configs/minatar/offline_dqn.gin',
    OFFLINE | {'OfflineRunner.training_steps': 5, 'MinAtarCNN.hidden_units': 16},
  ),
  'device store': (
    'gin_configs/minatar/offline_dqn.gin',
    OFFLINE
    | {
      'OfflineRunner.training_steps': 5,
      'MinAtarCNN.hidden_units': 16,
      'TFDSReplay.on_device': True,
    },
  ),
  'compiled online': (
    'gin_configs/minatar/online_dqn.gin',
    ONLINE | MINATAR_REPLAY | {'MinAtarCNN.hidden_units': 16, 'OnlineRunner.training_steps': 24},
  ),
  'twin critics': (
    'gin_configs/mujoco/online_sac.gin',
    ONLINE | MUJOCO | MUJOCO_REPLAY | {'Agent.min_replay_history': 8},
  ),
}


@pytest.fixture(scope='module')
def outside(tmp_path_factory):
  """Outside the repository: a module on the path, and mix-in files."""
  folder = tmp_path_factory.mktemp('outside')
  (folder / 'readers_own.py').write_text(FILE)
  for name, text in (('one', ONE), ('two', TWO), ('none', NONE), ('off', OFF)):
    (folder / f'{name}.gin').write_text(text)
  sys.path.insert(0, str(folder))
  yield folder
  sys.path.remove(str(folder))


def runner_of(gin_file):
  return 'OnlineRunner' if 'online' in gin_file else 'OfflineRunner'


def learner_of(base_dir):
  return checkpoints.load_newest(base_dir / 'checkpoints')[1]['agent']['learner']


@pytest.mark.slow
@pytest.mark.parametrize('path', cases(((path,) for path in PATHS), lambda path: path == 'offline'))
def test_mix_ins_add_up_act_and_are_taken_out_again(path, outside, tmp_path):
  gin_file, bindings = PATHS[path]
  bindings = bindings | {f'{runner_of(gin_file)}.num_iterations': 3}
  mix_ins = [outside / 'one.gin', outside / 'two.gin']
  plain = run(tmp_path / 'plain', gin_file, **bindings)
  rows = run(tmp_path / 'acting', gin_file, *mix_ins, **bindings)
  assert all(0 < row['Shrinking/Done'] < 1 for row in rows if 'Losses/Total' in row)
  assert rows[-1]['Losses/Anchor'] > 0
  assert rows[-1]['q_mean'] != plain[-1]['q_mean']
  # Every other iteration; the array is beside the spectrum.
  assert ['parameter_norm' in row for row in rows] == [True, False, True]
  spectra = jsonl.read(tmp_path / 'acting' / 'spectra.jsonl')
  assert ['parameter_norms' in row for row in spectra] == [True, False, True]
  np.testing.assert_allclose(
    np.linalg.norm(spectra[2]['parameter_norms']), rows[2]['parameter_norm'], rtol=1e-5
  )
  extra = learner_of(tmp_path / 'acting')['extra']
  assert list(extra) == ['anchor']
  for taken_out in ('none', 'off'):
    base_dir = tmp_path / taken_out
    last = outside / f'{taken_out}.gin'
    assert processes.strip_speed(run(base_dir, gin_file, *mix_ins, last, **bindings)) == (
      processes.strip_speed(plain)
    )
    assert processes._comparable(learner_of(base_dir)) == processes._comparable(
      learner_of(tmp_path / 'plain')
    )


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
  'path', ['offline', pytest.param('compiled online', marks=pytest.mark.exhaustive)]
)
def test_a_run_with_remedies_that_is_killed_ends_as_one_that_never_was(path, outside, tmp_path):
  gin_file, bindings = PATHS[path]
  own = tmp_path / 'experiment.gin'
  text = (outside / 'one.gin').read_text() + (outside / 'two.gin').read_text()
  own.write_text(f"include '{ROOT / gin_file}'\n{text}")
  count = f'{runner_of(gin_file)}.num_iterations'
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  process = start(outside, killed, own, bindings | {count: 100_000})
  newest = lambda: checkpoints.load_newest(killed / 'checkpoints') is not None
  assert processes.wait_for(newest, process), processes.output(killed)
  process.kill()
  process.join()
  ended = bindings | {count: len(processes.rows(killed)) + 2}
  for base_dir in (killed, whole):
    process = start(outside, base_dir, own, ended)
    process.join(300)
    assert process.exitcode == 0, processes.output(base_dir)
  processes.assert_same_run(killed, whole)
  assert 'anchor' in learner_of(killed)['extra']


@pytest.mark.slow
@pytest.mark.exhaustive
def test_seeds_as_one_program_are_separate_runs(outside, tmp_path):
  gin_file, bindings = PATHS['offline']
  files = [gin_file, outside / 'one.gin', outside / 'two.gin']
  for seed in (3, 4):
    run(tmp_path / 'separate' / f'seed_{seed}', *files, seed=seed, **bindings)
  both = {'OfflineRunner.num_seeds': 2, 'OfflineRunner.seeds_as': "'vmap'"}
  launch(tmp_path / 'together', *files, seed=3, **bindings, **both)
  for seed in (3, 4):
    pair = [
      jsonl.read(tmp_path / kind / f'seed_{seed}' / 'metrics.jsonl')[-1]
      for kind in ('separate', 'together')
    ]
    one, other = processes.strip_speed(pair)
    one.pop('condition_number'), other.pop('condition_number')  # Of a σ_min that is rounding.
    assert_close(other, one, rel=1e-4, abs=1e-5, nan_ok=True)
    assert one['Losses/Anchor'] > 0


def test_the_remedy_and_the_diagnostic_of_the_docs_run(tmp_path, monkeypatch):
  page = (ROOT / 'docs/extending.md').read_text()
  blocks = re.findall(r'(?:^    .*\n|^\n(?=    |\n    ))+', page, re.M)
  files, lines = {}, []
  for file, binding in itertools.pairwise(map(textwrap.dedent, blocks)):
    if named := re.match(r'\n*import (my_remedies|my_shrink|my_measures)\n', binding):
      files[named[1]] = file
      lines.append(binding)
  assert set(files) == {'my_remedies', 'my_shrink', 'my_measures'}
  monkeypatch.syspath_prepend(tmp_path)
  for name, text in files.items():
    (tmp_path / f'{name}.py').write_text(text)
    assert len(text.strip().splitlines()) < 30
  lines.append('my_shrink.ShrinkHead.period = 2')
  (tmp_path / 'mine.gin').write_text('\n'.join(lines))
  gin_file, bindings = PATHS['offline']
  (row,) = run(tmp_path / 'run', gin_file, tmp_path / 'mine.gin', **bindings)
  assert row['Losses/PullToStart'] > 0
  assert 0 < row['ShrinkHead/By'] <= 0.01
  assert row['parameter_norm'] > 1
  params = jax.tree.leaves(learner_of(tmp_path / 'run')['params'])
  norm = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in params))
  np.testing.assert_allclose(row['parameter_norm'], norm, rtol=1e-5)


def start(folder, base_dir, gin_file, bindings):
  """As `processes.start`, with the folder on the path."""
  process = forks.context.Process(
    target=_main, args=(os.fspath(folder), os.fspath(base_dir), gin_file, bindings), daemon=True
  )
  process.start()
  return process


def _main(folder, base_dir, gin_file, bindings):
  sys.path.insert(0, folder)
  processes._main(base_dir, gin_file, dict(bindings), seed=0)

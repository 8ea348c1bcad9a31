"""Settings that a sweep vmaps are one process, and the separate runs of those settings."""

import os
import re

import jax
import numpy as np
import pytest
import yaml

from implicit_rl.logs import checkpoints, jsonl
from implicit_rl.sweep import __main__ as command
from tests import forks
from tests.command_line import ROOT, assert_close, small, strip_speed
from tests.faults import processes
from tests.running.test_vmapped_online_seeds import GRIDWORLD, SETTINGS

CHOICES = {
  'low': {'bindings': ['optax.adam.learning_rate = 0.0001', 'Learner.penalty_weight = 0.01']},
  'high': {'bindings': ['optax.adam.learning_rate = 0.002', 'Learner.penalty_weight = 0.001']},
}


def write(path, choices=CHOICES, **said):
  # Drawn in proportion to priorities, a rounding would soon decide what is learnt from.
  bindings = small(GRIDWORLD) | SETTINGS | {'DeviceReplay.prioritized': False}
  said = {
    'gin_files': [GRIDWORLD],
    'bindings': [f'{name} = {value}' for name, value in bindings.items()],
    'seeds': [3],
    'overlays': {'setting': {**choices, **said}},
  }
  path.write_text(yaml.safe_dump(said, sort_keys=False))
  return path


def work(log, *commands):
  """Does a sweep's command lines one after the other."""
  forks.print_into(log, log)
  os.chdir(ROOT)
  for arguments in commands:
    command.main(arguments)


def start(folder, spec, *indices):
  """Starts a process that does the elements of a sweep's array."""
  commands = [
    [f'--spec={spec}', f'--output={folder}', f'--index={index}', '--resume'] for index in indices
  ]
  process = forks.context.Process(target=work, args=(f'{folder}.log', *commands), daemon=True)
  process.start()
  return process


def directories(folder):
  return [folder / name / 'seed_3' for name in CHOICES]


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """Both settings in one program, never interrupted."""
  folder = tmp_path_factory.mktemp('sweep') / 'together'
  process = start(folder, write(folder.with_suffix('.yaml'), vmap=True), 0)
  process.join(600)
  log = (folder / 'low' / 'seed_3' / 'run.log').read_text()
  assert '2 runs as one program' in log
  return folder


@pytest.mark.slow
@pytest.mark.exhaustive
def test_vmapped_learning_rates_are_separate_runs(together, tmp_path):
  folder = tmp_path / 'apart'
  start(folder, write(tmp_path / 'apart.yaml'), 0, 1).join(600)
  ends = []
  for one, other in zip(directories(together), directories(folder), strict=True):
    rows = [strip_speed(jsonl.read(path / 'metrics.jsonl')) for path in (one, other)]
    assert len(rows[0]) == len(rows[1]) == 3
    for row, expected in zip(*rows, strict=True):
      for numbers in (row, expected):
        del numbers['condition_number']  # Of a singular matrix, it is rounding.
      assert_close(row, expected, rel=1e-3, abs=1e-5, nan_ok=True)
    trees = [checkpoints.load_newest(path / 'checkpoints')[1] for path in (one, other)]
    assert trees[0]['settings'] == trees[1]['settings']
    learners = [tree['agent']['learner'] for tree in trees]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *learners)
    ends.append(learners[0])
    configs = [(path / 'operative_config.gin').read_text() for path in (one, other)]
    assert configs[0] == configs[1]
  assert ends[0]['updates'] == ends[1]['updates'] > 100
  different = jax.tree.map(lambda a, b: (a != b).any(), ends[0]['params'], ends[1]['params'])
  assert all(jax.tree.leaves(different))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_it_ends_as_if_it_had_not_been(together, tmp_path):
  folder = tmp_path / 'killed'
  spec = write(tmp_path / 'killed.yaml', vmap=True)
  process = start(folder, spec, 0)
  written = directories(folder)[-1] / 'checkpoints' / 'checkpoint_0.msgpack'
  assert processes.wait_for(written.exists, process), processes.output(folder)
  process.kill()
  process.join()
  written.unlink()  # As if the kill had come before.
  start(folder, spec, 0).join(600)
  for one, other in zip(directories(folder), directories(together), strict=True):
    processes.assert_same_run(one, other)


@pytest.mark.parametrize(
  ('binding', 'expected'),
  [
    ('Agent.gamma = 0.5', r'Agent\.gamma is 0\.95 in .* and 0\.5 in .*numbers of Learner'),
    ('Learner.penalty_weight = 0.0', 'cannot train as one program: they differ in'),
  ],
)
def test_other_differences_are_refused(binding, expected, tmp_path):
  choices = {**CHOICES, 'high': {'bindings': [binding]}}
  folder = tmp_path / 'refused'
  start(folder, write(tmp_path / 'refused.yaml', choices, vmap=True), 0).join(600)
  said = processes.output(folder)
  assert re.search(expected, said), said
  assert not [path for path in folder.rglob('*') if path.name == 'run.json']

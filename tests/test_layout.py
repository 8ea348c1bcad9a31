"""The floors: what the pure rooms may import, and that every file is one a person can read."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
  'modules',
  [
    'implicit_rl.losses, implicit_rl.networks, implicit_rl.learner, implicit_rl.metrics',
    'implicit_rl.agents.dqn, implicit_rl.agents.fqe, implicit_rl.agents.rainbow',
    'implicit_rl.data.replay.online_replay, implicit_rl.environments.minatar',
    'implicit_rl.analysis.runs, implicit_rl.logs.checkpoints',
  ],
)
def test_the_pure_rooms_load_neither_tensorflow_nor_dopamine(modules):
  code = f'import sys, {modules}; print(*sorted({{n.split(".")[0] for n in sys.modules}}))'
  loaded = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
  ).stdout.split()
  assert 'implicit_rl' in loaded
  assert not {'tensorflow', 'dopamine'} & set(loaded)


def test_a_minatar_run_loads_nothing_slow_that_it_does_not_use():
  code = """
import sys
from implicit_rl.compat import gin_names
from implicit_rl.running import experiment
from implicit_rl.data.formats import tfds_files
from implicit_rl.data.replay import device_replay
from implicit_rl.data.sources import tfds_replay
from implicit_rl.environments import minatar
gin_names.load()
dataset = tfds_files.open_dataset(
  tfds_replay.EMBEDDED, 'minatar_checkpoints_ordered', 'Breakout_run_1'
)
tfds_files.read_index(dataset)
slow = 'tensorflow tensorflow_probability matplotlib pandas seaborn orbax.checkpoint gym ale_py'
print(*(name for name in slow.split() if name in sys.modules))
"""
  loaded = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
  ).stdout.split()
  assert loaded == []


def test_every_module_says_what_it_is_and_is_short():
  for path in (ROOT / 'implicit_rl').rglob('*.py'):
    lines = path.read_text().splitlines()
    assert lines and lines[0].startswith(('"""', 'r"""')), f'{path} has no first line'
    assert len(lines) <= 400, f'{path} has {len(lines)} lines: two rooms?'

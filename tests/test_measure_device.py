"""The device report: every table at a tiny size, the checks, the time's shares, the roofline."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl import eigensolvers
from implicit_rl.measure_device import __main__ as program
from implicit_rl.measure_device import correctness, peers, report, roofline, speed, workloads
from tests.command_line import ROOT


def test_every_table_has_a_row_and_says_what_was_left_out(tmp_path, capsys):
  assert program.main(['--tiny', f'--output={tmp_path / "new"}']) == 0
  content = json.loads((tmp_path / 'new/device.json').read_text())
  text = (tmp_path / 'new/device.md').read_text()
  assert text.strip() in capsys.readouterr().out
  assert content['machine']['platform'] == jax.default_backend()
  sections = {one['name']: one for one in content['sections']}
  assert len(sections) == 9
  for name, one in sections.items():
    assert f'## {name}' in text
    (row,) = one['rows']
    assert 'error' not in row or row['passed'], row
    assert all(other in text for other in one['left_out'])
  updates = sections['Updates by K, seeds and batch']['rows'][0]
  assert updates['updates/s'] > 0 and updates['share of products'].endswith('%')
  assert sections['Compiled online loops']['rows'][0]['steps/s'] > 0
  assert 'ReDo' in ' '.join(sections['Penalty and remedies']['left_out'])


@pytest.mark.exhaustive
def test_an_update_of_minatar_is_the_same_in_every_way():
  checks = dict(correctness.cases(['MinAtar'], 64, 16))
  for name in ('srank by SVD', 'MinAtar: scan = dispatch', 'MinAtar: vmapped = separate'):
    found = checks[name]()
    assert found['passed'], (name, found)
  assert 'Atari: scan = dispatch' in dict(correctness.cases(['Atari', 'MinAtar'], 64, 16))


def test_a_wrong_solver_is_seen(monkeypatch):
  def wrong(symmetric):
    values, vectors = eigensolvers.by_eigh(symmetric)
    return values * 1.001, vectors

  monkeypatch.setitem(eigensolvers.SOLVERS, 'wrong', wrong)
  assert not correctness._penalty('wrong')['passed']
  assert correctness._penalty('eigh')['passed']


def test_a_section_without_time_is_left_out_and_a_failing_case_is_named():
  def fail():
    raise MemoryError('too large\nand more')

  one = report.Section('One', 1, [('a', dict), ('b', fail), ('c', dict)])
  (found,) = report.measure([one], 100)
  assert found.rows == [
    {'case': 'a'},
    {'case': 'b', 'error': 'MemoryError: too large'},
    {'case': 'c'},
  ]
  (found,) = report.measure([one], 100, most=1)
  assert [row['case'] for row in found.rows] == ['a'] and found.left_out == ['b', 'c']
  found = report.measure([one, one], 0)
  assert [each.left_out for each in found] == [['a', 'b', 'c']] * 2
  assert 'Left out, unmeasured: a; b; c.' in report.markdown({'device': 'x'}, found)


def test_the_base_case_comes_first_and_each_combination_once():
  scale = speed.Scale(networks=('Atari',))
  names = [name for name, _ in speed.throughput(scale)]
  assert names[0] == 'Atari, updates 64, seeds 1, batch 32'
  assert len(names) == len(set(names)) == 4 * 4 * 2


def test_a_cpu_leaves_out_what_takes_its_time_from_other_tables():
  on_cpu = dataclasses.replace(speed.Scale(), atari_rows=32)
  atari = [name for name, _ in speed.throughput(on_cpu) if name.startswith('Atari')]
  assert atari and all(name.endswith('seeds 1, batch 32') for name in atari)
  assert 'MinAtar, updates 64, seeds 64, batch 256' in dict(speed.throughput(on_cpu))


def test_a_bound_is_the_longest_of_three_times():
  device = roofline.Device('d', {'float32': 100.0}, bandwidth=10.0, memory=0, kernel=2.0)
  work = roofline.Work(operations=500.0, bytes=40.0, kernels=3)
  assert roofline.bound(device, work, 1, 'float32') == (6.0, 'kernels')  # 5, 4 and 6 seconds.
  assert roofline.bound(device, work, 2, 'float32') == (10.0, 'operations')
  assert roofline.bound(device._replace(bandwidth=4.0), work, 2, 'float32') == (20.0, 'memory')


def test_an_output_that_is_a_file_is_named(tmp_path, capsys):
  (tmp_path / 'file').touch()
  with pytest.raises(SystemExit):
    program.main([f'--output={tmp_path / "file"}'])
  assert f'--output={tmp_path / "file"}' in capsys.readouterr().err


def test_a_call_is_timed_at_least_three_times_after_the_first():
  calls = []
  taken = report.timed(lambda: calls.append(0) or jnp.zeros(()), 0.0)
  assert len(calls) == 4 and taken['seconds'] >= 0 and taken['compile_s'] >= 0


def test_pytorch_that_is_missing_has_rows_that_say_so(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  cases = dict(peers.cases(program._TINY))
  for name in ('MinAtar, PyTorch', 'MinAtar, PyTorch, torch.compile'):
    assert cases[name]() == {'updates/s': 'not installed'}
    row = {'case': name, **cases[name]()}
    assert f'| {name} | not installed |' in report.markdown(
      {'device': 'x'}, [report.Measured('Peers', '', 0.0, [row], [])]
    )
  assert not any('compile' in name for name, _ in peers.cases(program._QUICK))


def test_the_kit_says_in_one_line_what_must_be_there(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import device_kit

  bare = tmp_path / 'python'  # Without site-packages, and so without JAX.
  bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
  bare.chmod(0o755)
  here = f'{sys.version_info.major}.{sys.version_info.minor}'
  for version, expected in ((here, 'cannot import JAX'), ('3.99', 'the wheels are for 3.99.')):
    script = tmp_path / 'run.sh'
    script.write_text(device_kit.run_script(version))
    done = subprocess.run(
      ['sh', script],
      env={'PYTHON': str(bare), 'PATH': '/usr/bin:/bin'},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 1 and done.stdout == ''
    (line,) = done.stderr.splitlines()
    assert expected in line and 'PYTHON' in line
  assert not (tmp_path / 'site').exists()


def test_the_kit_has_all_that_the_report_imports(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  import device_kit

  code = """
import importlib.metadata, sys
from implicit_rl.measure_device import __main__
known = importlib.metadata.packages_distributions()
loaded = {name.split('.')[0] for name in sys.modules}
print(*sorted({known[name][0].lower().replace('_', '-') for name in loaded & known.keys()}))
"""
  found = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  with_jax = {'jax', 'jaxlib', 'numpy', 'scipy', 'ml-dtypes', 'opt-einsum', 'implicit-rl'}
  packed = {name.lower().replace('_', '-') for name in device_kit.PACKAGES}
  assert {'flax', 'gymnax'} <= set(found)
  optional = {'flatbuffers', 'filelock', 'setuptools'}  # imported where they happen to be
  assert set(found) - with_jax - packed - optional == set()


@pytest.mark.parametrize('seeds', [1, 3])
def test_first_states_can_be_made_again_after_an_update_took_them(seeds):
  learner = workloads.learner('MinAtar', 4)
  first = workloads.states('MinAtar', learner, seeds).params
  values = [np.array(leaf) for leaf in jax.tree.leaves(first)]
  for leaf in jax.tree.leaves(first):
    leaf.delete()
  again = jax.tree.leaves(workloads.states('MinAtar', learner, seeds).params)
  assert all(np.array_equal(one, other) for one, other in zip(values, again, strict=True))

"""The command as a newcomer runs it: every file appears, within its size; bad input is named."""

import csv
import os
import subprocess
import sys

import pytest

FIGURES = {
  'kernel_psd',
  'kernel_normal',
  'kernel_counterexample',
  'kernel_subsequence',
  'kernel_nonnormal',
  'linear_balancedness',
  'linear_velocity',
  'linear_singular_values',
  'linear_rounds',
  'linear_fixed_point',
  'linear_neighbourhood',
}


def _run(*arguments):
  command = [sys.executable, '-m', 'implicit_rl.theory', *arguments]
  computes_much = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '0'}
  return subprocess.run(command, capture_output=True, text=True, timeout=900, env=computes_much)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_command_writes_every_figure_and_number(tmp_path):
  done = _run(f'--output={tmp_path}', '--seeds=1')
  assert done.returncode == 0, done.stderr
  assert {path.stem for path in tmp_path.glob('*.png')} == FIGURES
  assert {path.stem for path in tmp_path.glob('*.svg')} == FIGURES
  tables = {path.stem for path in tmp_path.glob('*.csv')}
  assert tables == FIGURES | {'kernel_closed_form', 'summary'}
  for path in tmp_path.iterdir():
    assert 50 < path.stat().st_size < 300_000, path
  with (tmp_path / 'summary.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len({row['experiment'] for row in rows}) == 12
  assert all(float(row['min']) <= float(row['mean']) + 1e-9 for row in rows)


def test_command_rejects_no_seeds(tmp_path):
  done = _run(f'--output={tmp_path}', '--seeds=0')
  assert done.returncode == 2 and '--seeds must be at least 1' in done.stderr


def test_theory_imports_neither_dopamine_nor_tensorflow_nor_matplotlib():
  code = (
    'import sys, implicit_rl.theory.__main__; '
    "print([m for m in ('dopamine', 'tensorflow', 'matplotlib', 'gin') if m in sys.modules])"
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
  assert done.stdout.strip() == '[]', done.stdout + done.stderr

"""Where compiled programs are kept: the user's cache, another directory, or nowhere."""

import pathlib
import subprocess
import sys

from implicit_rl.cpu import xla_flags
from implicit_rl.running import launch

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def test_the_users_cache_unless_something_else_is_said(tmp_path, monkeypatch):
  monkeypatch.delenv(VARIABLE, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  kept = pathlib.Path(xla_flags.variables()[VARIABLE])
  assert kept.parent == tmp_path / 'implicit_rl' / 'programs'
  assert pathlib.Path(xla_flags.variables(tmp_path)[VARIABLE]) == tmp_path / kept.name
  assert launch.environment(tmp_path)[VARIABLE] == str(tmp_path / kept.name)
  assert xla_flags.variables('') == {VARIABLE: ''}
  monkeypatch.setenv(VARIABLE, '/elsewhere')
  assert xla_flags.variables() == {}  # JAX reads its own.
  assert xla_flags.variables('') == {VARIABLE: ''}


def test_wide_vectors_where_the_processor_has_them_and_the_user_says_nothing(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
  monkeypatch.setattr(xla_flags, '_abilities', lambda: 'flags : fpu avx2 avx512f')
  assert xla_flags.wide_vectors() == {}
  monkeypatch.setattr(xla_flags, '_abilities', lambda: 'flags : fpu avx512_vbmi2 sse')
  flags = xla_flags.wide_vectors()['XLA_FLAGS']
  assert flags == '--xla_cpu_prefer_vector_width=512 --xla_cpu_enable_fast_math=false'
  for one_thread in (True, False):
    assert launch.environment(one_thread=one_thread)['XLA_FLAGS'].startswith(flags)
  for chosen in ('--xla_cpu_prefer_vector_width=128', '/a/file/of/flags'):
    monkeypatch.setenv('XLA_FLAGS', chosen)
    assert xla_flags.wide_vectors() == {}


def test_xla_knows_the_flag_and_reads_it_after_jax_is_imported():
  """An unknown flag ends the process."""
  code = "import jax, os; os.environ['XLA_FLAGS'] = {!r}; print(jax.jit(lambda x: x + 1)(1))"
  run = lambda flags: subprocess.run(
    [sys.executable, '-c', code.format(flags)], capture_output=True, text=True
  )
  known = run('--xla_cpu_prefer_vector_width=512')
  assert known.stdout == '2\n', known.stderr
  assert run('--xla_cpu_no_such_flag=512').returncode

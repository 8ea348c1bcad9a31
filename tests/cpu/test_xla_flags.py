"""Where compiled programs are kept: the user's cache, another directory, or nowhere."""

import pathlib
import subprocess
import sys

from implicit_rl.cpu import allocator, xla_flags
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


WIDTH = '--xla_cpu_prefer_vector_width'
BLOCKS = '--xla_multiheap_size_constraint_per_heap'


def added(flags=''):
  """The flags that training adds to the user's, by name; the user's stand last."""
  ours = xla_flags.for_training().get('XLA_FLAGS', flags)
  assert ours.endswith(flags)
  return dict(flag.split('=') for flag in ours.removesuffix(flags).split())


def test_flags_are_added_where_the_machine_wants_them_and_the_user_says_nothing(monkeypatch):
  theirs = '--xla_cpu_enable_fast_math=false'
  monkeypatch.setenv('XLA_FLAGS', theirs)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setattr(xla_flags, '_abilities', lambda: 'flags : fpu avx2 avx512f')
  blocks = {BLOCKS: str(allocator.BLOCK)}
  assert added(theirs) == blocks
  monkeypatch.setattr(xla_flags, '_abilities', lambda: 'flags : fpu avx512_vbmi2 sse')
  assert added(theirs) == {WIDTH: '512', **blocks}
  for one_thread in (True, False):
    flags = launch.environment(one_thread=one_thread)['XLA_FLAGS']
    assert flags.startswith(xla_flags.for_training()['XLA_FLAGS'])
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')  # A GPU's memory needs no blocks.
  assert added(theirs) == {WIDTH: '512'}
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  for chosen, left in ((f'{WIDTH}=128', blocks), (f'{BLOCKS}=1', {WIDTH: '512'})):
    monkeypatch.setenv('XLA_FLAGS', chosen)
    assert added(chosen) == left
  monkeypatch.setenv('XLA_FLAGS', '/a/file/of/flags')
  assert xla_flags.for_training() == {}


def test_xlas_warnings_of_large_arrays_are_silent_unless_the_user_says_otherwise(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL', raising=False)
  assert xla_flags.for_training()['TF_CPP_MIN_LOG_LEVEL'] == '2'
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '0')
  assert 'TF_CPP_MIN_LOG_LEVEL' not in xla_flags.for_training()


def test_a_second_start_adds_nothing(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setenv('XLA_FLAGS', xla_flags.for_training().get('XLA_FLAGS', ''))
  assert xla_flags.for_training() == {}


def test_without_a_word_of_the_user_an_accelerators_plugin_decides(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.delenv('JAX_PLATFORMS')
  monkeypatch.setattr(xla_flags.importlib.metadata, 'entry_points', lambda group: [])
  assert BLOCKS in added()
  monkeypatch.setattr(xla_flags.importlib.metadata, 'entry_points', lambda group: [group])
  assert BLOCKS not in added()


def test_xla_knows_the_flags_and_reads_them_after_jax_is_imported():
  """An unknown flag ends the process."""
  code = "import jax, os; os.environ['XLA_FLAGS'] = {!r}; print(jax.jit(lambda x: x + 1)(1))"
  run = lambda flags: subprocess.run(
    [sys.executable, '-c', code.format(flags)], capture_output=True, text=True
  )
  known = run(f'{WIDTH}=512 {BLOCKS}={allocator.BLOCK}')
  assert known.stdout == '2\n', known.stderr
  assert run('--xla_cpu_no_such_flag=512').returncode

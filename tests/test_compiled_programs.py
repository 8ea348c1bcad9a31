"""Where compiled programs are kept: the user's cache, another directory, or nowhere."""

import pathlib

from implicit_rl import compiled_programs, local_runs

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def test_the_users_cache_unless_something_else_is_said(tmp_path, monkeypatch):
  monkeypatch.delenv(VARIABLE, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  kept = pathlib.Path(compiled_programs.variables()[VARIABLE])
  assert kept.parent == tmp_path / 'implicit_rl' / 'programs'
  assert pathlib.Path(compiled_programs.variables(tmp_path)[VARIABLE]) == tmp_path / kept.name
  assert local_runs.environment(tmp_path)[VARIABLE] == str(tmp_path / kept.name)
  assert compiled_programs.variables('') == {VARIABLE: ''}
  monkeypatch.setenv(VARIABLE, '/elsewhere')
  assert compiled_programs.variables() == {}  # JAX reads its own.
  assert compiled_programs.variables('') == {VARIABLE: ''}

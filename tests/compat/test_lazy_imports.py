"""Imports put off: nothing is imported before its use, and nothing is left in sys.modules."""

from __future__ import annotations

import contextlib
import sys

import pytest

from implicit_rl.compat import lazy_imports


@pytest.fixture
def modules(tmp_path, monkeypatch):
  """A package with a part, each of which says when it is executed, and one that imports them."""
  said = []
  monkeypatch.setattr(sys, 'said', said, raising=False)
  say = 'import sys; sys.said.append(__name__)\n'
  (tmp_path / 'slow').mkdir()
  (tmp_path / 'slow/__init__.py').write_text(f'{say}value = 1\ndef call(x): return x + value\n')
  (tmp_path / 'slow/part.py').write_text(f'{say}class Thing: pass\n')
  (tmp_path / 'slow/other.py').write_text(say)
  user = 'import slow\nimport slow.part as by_name\nfrom slow import part\nhanded_on = slow.call\n'
  (tmp_path / 'user.py').write_text(user)
  monkeypatch.syspath_prepend(str(tmp_path))
  before = set(sys.modules)
  yield said
  for name in {'slow', 'slow.part', 'slow.other', 'user'} - before:
    sys.modules.pop(name, None)


def test_a_module_is_imported_when_it_is_used(modules):
  with lazy_imports.put_off('slow:call', 'slow.part'):
    import user
  assert modules == [] and 'slow' not in sys.modules and 'slow.part' not in sys.modules
  assert user.by_name is user.part
  assert user.part.Thing.__name__ == 'Thing' and modules == ['slow', 'slow.part']
  assert user.handed_on(2) == 3 and user.slow.value == 1
  import slow.part

  slow.value = 5
  assert user.slow.value == 5 and user.part.Thing is slow.part.Thing
  with pytest.raises(AttributeError, match='nothing'):
    _ = user.slow.nothing


def test_use_within_the_block_imports_at_once(modules):
  with lazy_imports.put_off('slow', 'slow.part'):
    import slow

    assert slow.value == 1
    import slow.other

    assert modules == ['slow', 'slow.other']
  assert type(sys.modules['slow']) is type(sys)


def test_what_is_there_or_missing_is_left_alone(modules):
  import slow

  with lazy_imports.put_off('slow', 'not_installed'):
    import not_installed
    import slow as again
  assert again is slow and sys.modules['slow'] is slow
  with pytest.raises(ModuleNotFoundError, match='not_installed'):
    _ = not_installed.value


def test_a_stand_in_imports_in_the_context_it_is_given(modules):
  @contextlib.contextmanager
  def said():
    modules.append('before')
    yield
    modules.append('after')

  with lazy_imports.put_off('slow', within=said):
    import slow
  assert slow.value == 1 and slow.call(1) == 2
  assert modules == ['before', 'slow', 'after']


def test_around_holds_for_the_import_whenever_it_is(modules):
  finders = list(sys.meta_path)

  @contextlib.contextmanager
  def noted():
    modules.append('before')
    yield
    modules.append(sys.modules['slow'].value)

  try:
    lazy_imports.around('slow', noted)
    assert modules == []
    import slow.part  # noqa: F401

    assert modules == ['before', 'slow', 1, 'slow.part']
    lazy_imports.around('slow', noted)
    assert len(sys.meta_path) == len(finders) + 1
  finally:
    sys.meta_path[:] = finders

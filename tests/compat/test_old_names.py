"""Gin files and programs of the release before name modules where they were."""

import importlib
import importlib.util
import sys

import gin
import pytest

import implicit_rl
from implicit_rl.compat import old_names
from implicit_rl.running import experiment
from tests.command_line import ROOT


@pytest.fixture
def nothing_imported(monkeypatch):
  for old in old_names.MOVED:
    monkeypatch.delitem(sys.modules, f'implicit_rl.{old}', raising=False)


@pytest.mark.parametrize('old', sorted(old_names.MOVED))
def test_an_old_name_gives_the_module_with_one_warning(old, nothing_imported, caplog):
  new = f'implicit_rl.{old_names.MOVED[old]}'
  module = importlib.import_module(f'implicit_rl.{old}')
  assert module is importlib.import_module(new)
  assert module.__name__ == module.__spec__.name == new
  importlib.import_module(f'implicit_rl.{old}')
  (line,) = (record.getMessage() for record in caplog.records if record.name == 'implicit_rl')
  assert f'implicit_rl.{old} is now {new};' in line and '\n' not in line


def test_old_gin_lines_still_bind(tmp_path, nothing_imported, caplog):
  file = tmp_path / 'old.gin'
  file.write_text(
    f"include '{ROOT}/gin_configs/minatar/online_dqn.gin'\n"
    'import implicit_rl.online_runner\nimport implicit_rl.data.vector_replay\n'
    'online_runner.OnlineRunner.num_iterations = 7\nVectorReplay.path = "x"\n'
  )
  experiment.parse_gin([str(file)], [])
  assert gin.query_parameter('OnlineRunner.num_iterations') == 7
  assert len([record for record in caplog.records if record.name == 'implicit_rl']) == 2


def test_other_names_are_not_there():
  assert importlib.util.find_spec('implicit_rl.nothing') is None
  with pytest.raises(ModuleNotFoundError, match='online_runner'):
    importlib.import_module('implicit_rl.data.online_runner')
  assert not hasattr(implicit_rl, 'nothing')

"""Gin files and what they include are found from any directory."""

import re

import gin
import pytest

from implicit_rl.compat import config_files
from implicit_rl.running import experiment
from tests.command_line import ROOT, run

SHIPPED = 'gin_configs/minatar/offline_dqn.gin'


def test_a_file_of_the_users_includes_the_shipped_ones_from_anywhere(tmp_path, monkeypatch):
  """The include that is nearest wins: working directory, then beside the file, then the project."""
  there, here = tmp_path / 'there', tmp_path / 'here'
  (there / 'parts').mkdir(parents=True)
  here.mkdir()
  (there / 'mine.gin').write_text(f"include '{SHIPPED}'\ninclude 'parts/more.gin'  # nested\n")
  (there / 'parts' / 'more.gin').write_text('include "rate.gin"\nAgent.gamma = 0.5\n')
  (there / 'parts' / 'rate.gin').write_text('optax.adam.learning_rate = 0.125\n')
  monkeypatch.chdir(here)
  (row,) = run(tmp_path / 'run', there / 'mine.gin')
  assert row['updates'] == 2
  config = (tmp_path / 'run' / 'operative_config.gin').read_text()
  assert 'adam.learning_rate = 0.125' in config and 'Agent.gamma = 0.5' in config
  (here / 'rate.gin').write_text('optax.adam.learning_rate = 0.25\n')
  experiment.parse_gin([str(there / 'mine.gin')], [])
  assert gin.query_parameter('optax.adam.learning_rate') == 0.25


def test_a_shipped_file_is_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config_files.find(SHIPPED) == str(ROOT / SHIPPED)
  (tmp_path / 'gin_configs' / 'minatar').mkdir(parents=True)
  (tmp_path / SHIPPED).touch()
  assert config_files.find(SHIPPED) == SHIPPED, "the user's own of that name wins"


@pytest.mark.parametrize(
  ('path', 'expected'),
  [
    ('gin_configs/minatar/ofline_dqn.gin', f'no such file. Did you mean {SHIPPED}?'),
    ('odd/name.gin', f'odd/name.gin: no such file. Looked for HERE/odd/name.gin, {ROOT}/odd/'),
    ('/odd/name.gin', '--gin_files: /odd/name.gin: no such file.'),
    ('.', '--gin_files: ., which is a directory.'),
    ('https://example.org/a.gin', 'is a URL'),
  ],
)
def test_what_is_not_there_is_named_with_the_places(tmp_path, monkeypatch, path, expected):
  monkeypatch.chdir(tmp_path)
  with pytest.raises((OSError, ValueError)) as raised:
    config_files.find(path)
  assert expected.replace('HERE', str(tmp_path)) in str(raised.value)


def test_an_error_names_the_included_file_and_the_line(tmp_path):
  (tmp_path / 'outer.gin').write_text('include "inner.gin"\n')
  (tmp_path / 'inner.gin').write_text(f"include '{SHIPPED}'\n\nLearner.penalty_wieght = 1\n")
  with pytest.raises(ValueError, match='penalty_wieght') as raised:
    experiment.parse_gin([str(tmp_path / 'outer.gin')], [])
  assert re.search(rf'"{tmp_path}/inner.gin", line 3', str(raised.value))

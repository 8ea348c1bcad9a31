"""The console command: its table, what it says of wrong names, and the shipped files."""

import importlib
import subprocess
import sys

import pytest

import implicit_rl
from implicit_rl import cli, configs
from implicit_rl.compat import config_files
from tests.command_line import ROOT

MINATAR = 'gin_configs/minatar/offline_dqn.gin'


@pytest.fixture(autouse=True)
def _isolated_path(monkeypatch):
  """The command appends to Python's path."""
  monkeypatch.setattr(sys, 'path', [*sys.path])


def command(*arguments, **settings):
  """What the console command does, in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', 'implicit_rl', *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    **settings,
  )


def test_help_lists_every_command_and_loads_nothing_heavy():
  code = 'import sys; from implicit_rl import cli; cli.main(["--help"]); print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=60
  )
  usage, _, loaded = done.stdout.rstrip().rpartition('\n')
  assert all(f'\n  {name} ' in usage for name in cli.COMMANDS)
  assert not {'jax', 'numpy', 'gin', 'absl', 'tensorflow', 'argparse'} & set(loaded.split())


@pytest.mark.parametrize('name', [name for name in cli.COMMANDS if name != 'train'])
def test_every_command_explains_itself_by_its_own_name(name, capsys):
  with pytest.raises(SystemExit) as stopped:
    cli.main([name, '--help'])
  assert stopped.value.code == 0
  assert capsys.readouterr().out.startswith('usage: implicit-rl ')


def test_train_takes_the_flags_of_run_experiment(tmp_path):
  helped = command('train', '--help').stdout
  assert helped.startswith('Trains an agent: implicit-rl train --base_dir')
  for flag in ('base_dir', 'gin_files', 'gin_bindings', 'data_dir', 'seed'):
    assert f'--{flag}' in helped
  refused = command('train', f'--base_dir={tmp_path}/run', '--gin_files=absent.gin', cwd=tmp_path)
  assert refused.returncode == 1
  assert refused.stderr.startswith('implicit-rl train: --gin_files: absent.gin: no such file')
  assert not list(tmp_path.iterdir())


def test_gin_files_can_import_modules_of_the_working_directory(tmp_path, monkeypatch):
  """And an installed module wins over one there."""
  monkeypatch.chdir(tmp_path)
  cli.main(['configs'])
  assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
  ('arguments', 'status', 'expected'),
  [
    ([], 2, 'usage: implicit-rl COMMAND'),
    (['trian'], 2, "implicit-rl: unknown command 'trian'. Did you mean train?"),
    (['xyz'], 2, "implicit-rl: unknown command 'xyz'. List them: implicit-rl --help\n"),
    (['configs', 'absent'], 1, "No shipped file has 'absent' in its path."),
  ],
)
def test_wrong_arguments_end_in_one_line(arguments, status, expected, capsys):
  assert cli.main(arguments) == status
  said = capsys.readouterr()
  assert expected in said.err and not said.out


def test_the_version_is_the_packages(capsys):
  assert cli.main(['--version']) == 0
  assert capsys.readouterr().out == f'implicit-rl {implicit_rl.__version__}\n'


def test_every_command_has_a_main_that_takes_arguments():
  for one in cli.COMMANDS.values():
    assert callable(importlib.import_module(f'implicit_rl.{one.module}').main)


def test_configs_lists_what_ships(capsys):
  assert cli.main(['configs']) == 0
  listed = capsys.readouterr().out.split()
  folders = (ROOT / 'gin_configs').rglob('*.gin'), (ROOT / 'sweeps').glob('*.yaml')
  assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for one in folders for path in one)
  assert configs.shipped(['minatar', 'offline_dqn']) == [MINATAR]


def test_configs_copies_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['configs', 'minatar/offline', '--copy=.']) == 0
  copies = capsys.readouterr().out.split()
  assert MINATAR in copies and len(copies) > 5
  for path in copies:
    assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
  assert config_files.find(MINATAR) == MINATAR, 'the copy comes before the shipped file'
  assert cli.main(['configs', 'minatar/offline', '--copy=.']) == 0, 'the same files: no harm'
  (tmp_path / MINATAR).write_text('# Mine.\n')
  (tmp_path / copies[0]).unlink()
  assert cli.main(['configs', 'minatar/offline', '--copy=.']) == 1
  assert f'{MINATAR} exists and differs' in capsys.readouterr().err
  assert (tmp_path / MINATAR).read_text() == '# Mine.\n'
  assert not (tmp_path / copies[0]).exists(), 'nothing is copied then'

"""Every command in README, CONTRIBUTING.md and docs/ is one that its program accepts.

Each command line goes through its program's own parser, and `train` also reads its gin files and
bindings; then it is stopped. test_run.py runs them.
"""

import argparse
import contextlib
import importlib
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import gin
import pytest
from absl import app, flags

from implicit_rl import cli, sharding, train
from implicit_rl.running import experiment
from tests.docs_commands.pages import OFFLINE, OTHERS, OWN, PAGES, ROOT, commands_of, split


class Accepted(BaseException):
  """The program has accepted its arguments; no error, so that nothing catches it."""


@pytest.fixture
def stopped(tmp_path, monkeypatch):
  """Programs end once they have accepted their arguments, in a folder with a reader's files."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  for name, config in OWN.items():
    (tmp_path / name).write_text(f"include '{config}'\n")
  parse_args = argparse.ArgumentParser.parse_args

  def accept(*arguments, **settings):
    parse_args(*arguments, **settings)
    raise Accepted

  def accept_flags(main, argv=None):
    del main
    positional = flags.FLAGS(argv or sys.argv)[1:]
    script = pathlib.Path(sys.argv[0]).read_text()
    unknown = [one for one in positional if f"'{one}'" not in script]
    assert not unknown, f'unknown arguments {unknown}'
    raise Accepted

  def create(*arguments):
    raise Accepted

  monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', accept)
  monkeypatch.setattr(app, 'run', accept_flags)
  monkeypatch.setattr(experiment, 'create_runner', create)
  monkeypatch.setattr(experiment, 'join_hosts', lambda base_dir, seed: base_dir)
  monkeypatch.setattr(sharding, 'connect', lambda *arguments: None)


@contextlib.contextmanager
def no_flags():
  """Removes the package's flags for a while: a script defines its own, as in its own process."""
  values = flags.FLAGS
  before = {name: (values[name], values.find_module_defining_flag(name)) for name in values}
  for name, (_, module) in before.items():
    if not module.startswith('absl'):
      delattr(values, name)
  try:
    yield
  finally:
    for name in set(values) - {n for n, (_, m) in before.items() if m.startswith('absl')}:
      delattr(values, name)
    for name, (flag, module) in before.items():
      if name not in values:
        values[name] = flag
        values.register_flag_by_module(module, flag)
        values.register_key_flag_for_module(module, flag)
    values.unparse_flags()


def check_train(arguments):
  """Parses flags, gin files and bindings as `train` does."""
  for argument in arguments:
    if argument.startswith('--data_dir='):
      pathlib.Path(argument.partition('=')[2]).mkdir(parents=True, exist_ok=True)
  gin.clear_config()  # Else it is locked.
  flags.FLAGS.unparse_flags()
  try:
    train.run(flags.FLAGS(['implicit-rl train', *arguments]))
  finally:
    flags.FLAGS.unparse_flags()
  if '--list_configurables' in arguments:
    raise Accepted


def check_script(path, arguments, monkeypatch):
  """Parses the arguments of a script of the checkout."""
  script = ROOT / path
  if path == 'experiments/mujoco_peer.py':  # Its libraries are in .venv-peers.
    known = re.findall(r"'(--\w+)'", script.read_text())
    unknown = {argument.partition('=')[0] for argument in arguments} - set(known)
    assert not unknown, f'unknown arguments {unknown}'
    raise Accepted
  monkeypatch.setattr(sys, 'argv', [str(script), *arguments])
  monkeypatch.syspath_prepend(script.parent)
  with no_flags():
    runpy.run_path(str(script), run_name='__main__')


def start(words, monkeypatch):
  """Starts one of our programs, which ends in `Accepted` or an error."""
  match words:
    case ['python', 'run_experiment.py', *arguments] | ['implicit-rl', 'train', *arguments]:
      check_train(arguments)
    case ['python', '-m', module, *arguments]:
      main_of(module)(arguments)
    case ['python', str(script), *arguments] if script != '-c':
      check_script(script, arguments, monkeypatch)
    case ['implicit-rl', *arguments] if arguments[0] in cli.COMMANDS:
      cli.main(arguments)
    case ['docker', 'run', *arguments]:
      (image,) = (i for i, one in enumerate(arguments) if re.match(r'implicit_rl(:\w+)?$', one))
      start(['implicit-rl', *arguments[image + 1 :]], monkeypatch)
    case ['sh', 'implicit_rl_device_kit/run.sh', *arguments]:
      start(['implicit-rl', 'measure-device', *arguments], monkeypatch)
    case _:
      return
  raise AssertionError('It ran without parsing its arguments.')


def main_of(module):
  """Returns what `python -m` calls."""
  found = importlib.import_module(module)
  return importlib.import_module(
    f'{module}.__main__' if hasattr(found, '__path__') else module
  ).main


def check_names(words):
  """Checks the program, subcommand or target, and the files of the checkout that are named."""
  for word in words:
    if file := re.match(
      r'(?:--\w+=)?((?:benchmarks|docs|experiments|gin_configs|sweeps)/.*)', word
    ):
      assert (ROOT / file[1]).exists(), f'{file[1]} is not there'
  match words:
    case ['make', *targets]:
      makefile = (ROOT / 'Makefile').read_text()
      for target in targets:
        assert '=' in target or re.search(rf'^{target}:', makefile, re.MULTILINE), target
    case ['implicit-rl', name, *_]:
      assert name in (*cli.COMMANDS, '--help', '--version'), f'unknown subcommand {name}'
    case ['python', '-c', code]:
      compile(code, '-c', 'exec')
    case ['python', '-m', module, *_]:
      assert callable(main_of(module))
    case ['python', script, *_]:
      assert (ROOT / script).is_file(), f'{script} is not there'
    case [name, *_]:
      assert name in OTHERS, f'unknown program {name}'


def faults(commands, monkeypatch, capsys):
  """Returns what is wrong with commands, a text for each wrong one."""
  found = []
  for words, complete in commands:
    try:
      check_names(words)
      if complete:
        start(words, monkeypatch)
    except Accepted:
      pass
    except SystemExit as error:
      said = capsys.readouterr().err[-300:]
      if error.code:
        found.append(f'{shlex.join(words)}: {error.code} {said}')
    except Exception as error:
      found.append(f'{shlex.join(words)}: {error!r}')
  return found


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_accept_the_commands(page, stopped, monkeypatch, capsys):
  wrong = faults(commands_of(page), monkeypatch, capsys)
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('implicit-rl trian --base_dir=x', 'unknown subcommand trian'),
    ('implicit-rl evaluate runs/x --epsode=1', 'unrecognized arguments: --epsode=1'),
    (f'implicit-rl train --bas_dir=x {OFFLINE}', 'bas_dir'),
    (f"implicit-rl train --base_dir=x {OFFLINE} --gin_bindings='Lerner.x = 1'", 'Lerner'),
    ('python run_experiment.py --base_dir=x --gin_files=gin_configs/absent.gin', 'absent.gin'),
    ('python experiments/minatar_online.py --outputs=x', 'outputs'),
    ('python experiments/minatar_online.py reprot', 'reprot'),
    ('python -m implicit_rl.sweep --spec=sweeps/absent.yaml', 'sweeps/absent.yaml is not there'),
    ('docker run implicit_rl demo --sed=1', 'unrecognized arguments: --sed=1'),
    ('make tset', 'tset'),
    ('dopamine --help', 'unknown program dopamine'),
  ],
)
def test_a_wrong_command_is_found(line, expected, stopped, monkeypatch, capsys):
  (fault,) = faults([(split(line), True)], monkeypatch, capsys)
  assert expected in fault


def test_every_make_target_has_a_recipe():
  targets = {
    word
    for page in PAGES
    for words, _ in commands_of(page)
    if words[0] == 'make'
    for word in words[1:]
    if '=' not in word
  }
  assert len(targets) > 8 and sum(len(commands_of(page)) for page in PAGES) > 150
  subprocess.run(['make', '-n', *sorted(targets)], cwd=ROOT, check=True, capture_output=True)

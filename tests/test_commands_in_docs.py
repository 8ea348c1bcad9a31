"""Every command in README, CONTRIBUTING.md and docs/ is one that its program accepts.

Each command line goes through its program's own parser, and `train` also reads its gin files and
bindings; then it is stopped. A chain of commands is run, with small settings. `RUN_BY` names the
tests that run each subcommand; tests/test_run_experiment.py trains with shipped gin files.
"""

import argparse
import contextlib
import functools
import html.parser
import importlib
import itertools
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import gin
import markdown
import numpy as np
import pytest
from absl import app, flags

from implicit_rl import cli, sharding, train
from implicit_rl.logs import jsonl
from implicit_rl.running import experiment
from tests import command_line

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]

# Programs of others, and why their arguments are not checked.
OTHERS = {
  'docker': 'needs a daemon; what follows the image is checked as a command of implicit-rl',
  'git': 'changes a checkout',
  'mkdir': 'a shell tool',
  'pip': 'installs; tests/test_package.py installs the wheels',
  'pre-commit': 'changes the checkout',
  'pytest': 'runs these tests',
  'ray': 'starts a cluster',
  'sbatch': 'needs SLURM',
  'sh': 'what follows the script of the device kit is checked as a command of implicit-rl',
  'source': 'belongs to the shell',
  'tar': 'a shell tool',
  'tensorboard': 'serves until it is stopped',
}
# How blocks begin that hold no commands.
NOT_COMMANDS = re.compile(
  '|'.join(
    (
      'options:\n',  # for mkdocstrings
      r'# \S+\.gin\n|include |import |[\w.]+ = ',  # gin, or an assignment of Python
      '"""',  # a file of Python
      r'\w+\(.*\) ->',  # a signature
      r'.*[^\x00-\x7f]',  # a formula
    )
  )
)
OFFLINE = '--gin_files=gin_configs/minatar/offline_dqn.gin'
# Placeholders, and what a reader might fill in.
FILLED_IN = {
  '...': f'--base_dir=runs/x {OFFLINE}',
  '…': '--base_dir=runs/x',
  '/path/to/tfds': '.',
  'COMMAND': 'curves',
  'F': 'figure_2',
  'S': '1',
}
# A reader's own files; tests/test_run_experiment.py runs those that are on the pages.
OWN = {name: OFFLINE.split('=')[1] for name in ('my.gin', 'mine.gin', 'my_games.gin')}

# The test of each subcommand below tests/, and a pattern of the line there that runs it.
RUN_BY = {
  'train': ('test_run_experiment.py', r'run\(tmp_path / '),
  'demo': ('test_demo.py', r'demo\.main\('),
  'diagnose': ('diagnosis/test_runs.py', r'command\.main\('),
  'report': ('analysis/test_report.py', r"main\(\['report'"),
  'analysis': ('analysis/test_commands.py', r'command_line\.main\('),
  'evaluate': ('reuse/test_reuse.py', r'evaluating\.main\('),
  'play': ('reuse/test_reuse.py', r'playing\.main\('),
  'export': ('reuse/test_reuse.py', r'exporting\.main\('),
  'zoo': ('reuse/test_reuse.py', r'zoo\.main\('),
  'data': ('data/test_data_command.py', r'__main__\.main\('),
  'sweep': ('sweep/test_sweep.py', r"'implicit_rl\.sweep'"),
  'leaderboard': ('leaderboard/test_leaderboard.py', r"'implicit_rl\.leaderboard'"),
  'configs': ('test_cli.py', r"cli\.main\(\['configs'"),
  'environments': ('environments/test_minatar.py', r"'implicit_rl\.environments'"),
  'gridworld': ('gridworld/test_experiments.py', r'cli\.main\('),
  'measure-device': ('test_measure_device.py', r'program\.main\('),
  'theory': ('theory/test_experiments.py', r"'implicit_rl\.theory'"),
}


# What a training of the pages may need that is not here, and the test that has it.
ELSEWHERE = {
  '--coordinator=': 'a second host: tests/test_sharding.py',
  '--data_dir=.': 'DQN Replay: tests/data/test_tfds_replay.py',
  "'G'": 'a game to fill in',
  "'T'": 'a task to fill in',
  "'STORE'": 'a store: tests/data/test_data_command.py',
}
MAKERS = ('--gin_files=gin_configs/gymnax/catch_online_dqn.gin',)  # They log their replay.


class Accepted(BaseException):
  """The program has accepted its arguments; no error, so that nothing catches it."""


class Code(html.parser.HTMLParser):
  """The code of a page: `blocks` of (language, text), and `inline` texts."""

  def __init__(self, path):
    super().__init__()
    self.blocks, self.inline, self._inside = [], [], []
    extensions = ['admonition', 'fenced_code', 'md_in_html', 'sane_lists', 'tables']
    self.feed(markdown.markdown(path.read_text(), extensions=extensions))

  def handle_starttag(self, tag, attributes):
    if tag in ('pre', 'code'):
      self._inside.append(tag)
    if tag == 'code':
      self._text, self._language = [], dict(attributes).get('class', '')

  def handle_data(self, data):
    if 'code' in self._inside:
      self._text.append(data)

  def handle_endtag(self, tag):
    if tag == 'code':
      text = ''.join(self._text)
      if 'pre' in self._inside:
        self.blocks.append((self._language, text))
      else:
        self.inline.append(' '.join(text.split()))
    if tag in ('pre', 'code'):
      self._inside.remove(tag)


def split(line):
  """Returns the words of a command, without comment, variables, redirection or placeholders."""
  words = shlex.split(line, comments=True)
  while words and re.match(r'[A-Z]+=', words[0]):
    del words[0]
  words = words[: words.index('>')] if '>' in words else words
  filled = (re.sub(r'(?<![\w/.])(/path/to/tfds|[A-Z]+)(?![\w/])', _fill, word) for word in words)
  filled = [one for word in filled for one in shlex.split(FILLED_IN.get(word, shlex.quote(word)))]
  if filled:
    filled[0] = re.sub(r'^\.venv(-peers)?/bin/', '', filled[0])
  return ['python', *filled] if filled and filled[0].endswith('.py') else filled


def _fill(match):
  return FILLED_IN.get(match[0], match[0])


def commands(text):
  """Returns the commands of a block, each as its words; a quotation may span lines."""
  found, begun = [], ''
  for line in text.replace('\\\n', ' ').splitlines():
    begun += line
    try:
      found.append(split(begun))
    except ValueError:  # No closing quotation.
      begun += '\n'
    else:
      begun = ''
  assert not begun, f'a quotation without an end: {begun}'
  parts = (itertools.groupby(words, lambda word: word == '&&') for words in found)
  return [list(words) for groups in parts for joint, words in groups if not joint]


def is_command(words):
  return bool(words) and words[0] in (*OTHERS, 'implicit-rl', 'make', 'python')


@functools.cache
def commands_of(page):
  """Returns (words, whether its arguments are complete) of every command of a page.

  Raises:
    AssertionError: if a block mixes commands with something else.
  """
  code = Code(page)
  found = []
  for language, text in code.blocks:
    if language in ('language-python', 'language-yaml', 'language-bibtex'):
      continue
    if NOT_COMMANDS.match(text.strip()) and not is_command(text.split()):
      assert not any(is_command(line.split()) for line in text.splitlines()), text
      continue
    for words in commands(text):
      if words[0].startswith('--'):  # Flags to add to a command.
        words = ['implicit-rl', 'train', '--base_dir=runs/x', OFFLINE, *words]
      found.append((words, True))
  for text in code.inline:
    if re.match(r'(\.venv(-peers)?/bin/)?(implicit-rl|make|python|\S+\.py) ', text):
      found.append((split(text), ' --' in text))
  return found


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


SMALL = {
  'train': [
    *(f'--gin_bindings={name} = {value}' for name, value in command_line.OFFLINE.items()),
    '--gin_bindings=MinAtarCNN.hidden_units = 16',
  ],
  'evaluate': ['--episodes=2'],
  'play': ['--max_steps=3'],
}


def test_the_pages_commands_run_one_after_the_other(tmp_path, monkeypatch):
  """Those of three pages, with small settings appended, all on the run of the quickstart."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  monkeypatch.setattr(app, 'run', lambda main, argv: main(flags.FLAGS(argv)))
  ran = set()
  for page in ('quickstart', 'diagnose', 'reuse'):
    for words, complete in commands_of(ROOT / 'docs' / f'{page}.md'):
      if words[0] != 'implicit-rl' or not complete or words[1] in ran | {'zoo'}:
        continue
      arguments = [re.sub(r'^runs/(demo|zoo/breakout)$', 'runs/first', word) for word in words]
      flags.FLAGS.unparse_flags()
      assert cli.main([*arguments[1:], *SMALL.get(words[1], [])]) == 0, words
      ran.add(words[1])
  flags.FLAGS.unparse_flags()
  assert ran == {'train', 'report', 'diagnose', 'evaluate', 'play', 'export'}
  made = {path.name for path in tmp_path.rglob('*') if path.is_file() and path.stat().st_size}
  assert made >= {'report.html', 'first.html', 'breakout.gif', 'policy.jaxexport'}


def trainings():
  """Returns the distinct `train` commands of all pages as words, those that make data first."""
  found = {
    tuple(words): None
    for page in PAGES
    for words, complete in commands_of(page)
    if complete and words[:2] == ['implicit-rl', 'train'] and '--list_configurables' not in words
  }
  makes_data = lambda words: any('log_replay' in word or word in MAKERS for word in words)
  return sorted(found, key=lambda words: not makes_data(words))


@pytest.mark.exhaustive
def test_every_training_of_the_pages_trains(tmp_path, monkeypatch):
  """As the pages have it, with small settings appended."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setattr(sys, 'path', [*sys.path])
  monkeypatch.setattr(app, 'run', lambda main, argv: main(flags.FLAGS(argv)))
  for name, config in OWN.items():
    (tmp_path / name).write_text(f"include '{config}'\n")
  np.savez(tmp_path / 'mine.npz', **arrays())
  failed = {}
  for words in trainings():
    if any(part in word for word in words for part in ELSEWHERE):
      continue
    (gin_file, *_) = (word.partition('=')[2] for word in words if word.startswith('--gin_files='))
    base_dir = next(word.partition('=')[2] for word in words if word.startswith('--base_dir='))
    shutil.rmtree(base_dir, ignore_errors=True)
    settings = command_line.small(OWN.get(gin_file, gin_file))
    bindings = [f'--gin_bindings={name} = {value}' for name, value in settings.items()]
    flags.FLAGS.unparse_flags()
    try:
      cli.main([*words[1:], *bindings])
      logs = list(pathlib.Path(base_dir).rglob('metrics.jsonl'))  # One a seed.
      if not logs or not all(map(jsonl.read, logs)):
        failed[words] = 'no row'
    except (Exception, SystemExit) as error:
      failed[words] = str(error)
  flags.FLAGS.unparse_flags()
  assert not failed, '\n'.join(f'{" ".join(words)}\n  {why}' for words, why in failed.items())


def arrays():
  """Returns a tiny dataset as docs/data.md describes it: three episodes of CartPole's shapes."""
  random, size = np.random.default_rng(0), 60
  end = np.arange(1, size + 1) % 20 == 0
  return {
    'observations': random.normal(size=(size, 4)).astype(np.float32),
    'actions': random.integers(2, size=size),
    'rewards': np.ones(size, np.float32),
    'terminals': end,
    'timeouts': np.zeros(size),
  }


def test_every_subcommand_runs_in_a_test():
  assert set(RUN_BY) == set(cli.COMMANDS)
  for name, (file, call) in RUN_BY.items():
    assert re.search(call, (ROOT / 'tests' / file).read_text()), name

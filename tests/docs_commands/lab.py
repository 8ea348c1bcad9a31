"""A reader's folder in which the commands of the pages run, and what they need first."""

import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import yaml
from absl import app, flags

from implicit_rl import cli
from implicit_rl.logs import jsonl
from tests import command_line
from tests.docs_commands import pages, settings
from tests.docs_commands.pages import ROOT
from tests.leaderboard.test_leaderboard import BREAKOUT

MEASURE = """import dataclasses

import gin

from implicit_rl.diagnostics import Diagnostic


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MyMeasure(Diagnostic):
  period: int = 1

  def measure(self, context, state, batch, key):
    return {'my_measure': 1.0}
"""


def make(folder):
  """Fills an empty folder with a copy of the docs and with a reader's own files."""
  (folder.parent / 'before').symlink_to(ROOT)
  shutil.copytree(ROOT / 'docs', folder / 'docs')  # Some commands write there.
  for name, config in pages.OWN.items():
    (folder / name).write_text(f"include '{config}'\n")
  np.savez(folder / 'mine.npz', **_arrays())
  (folder / 'my_file.py').write_text(MEASURE)
  one = {'seeds': 1, 'regimes': {'breakout': BREAKOUT}, 'methods': {'none': {}}}
  strength = {
    'kind': 'loss term',
    'gin_files': ['gin_configs/remedies/l2_init.gin'],
    'strength': 'L2Init.weight',
    'values': [0.01],
  }
  one['methods']['l2_init'] = strength
  one['tuning'] = {'regime': {'other': BREAKOUT}, 'seeds': [100]}
  (folder / 'mine.yaml').write_text(yaml.safe_dump(one, sort_keys=False))
  _write_baselines(folder / 'dopamine' / 'baselines' / 'atari' / 'data')


def _arrays():
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


def _write_baselines(folder):
  """Writes random curves as a checkout of Dopamine has them: five runs of each agent and game."""
  (games,) = re.findall(
    r'_GAMES = \(\n(.*?)\n\)', (ROOT / 'experiments/atari_scores.py').read_text(), re.DOTALL
  )
  random = np.random.default_rng(0)
  folder.mkdir(parents=True)
  for game in re.findall(r'[A-Z]\w+', games):
    rows = [
      {'Agent': agent, 'Iteration': iteration, 'Value': 1000 * random.random()}
      for agent in ('DQN', 'C51', 'Rainbow', 'IQN')
      for _ in range(5)
      for iteration in range(3)
    ]
    (folder / f'{game.lower()}.json').write_text(json.dumps(rows))


@functools.cache
def trainings():
  """Returns the `train` commands of all pages as words, by their --base_dir; the first of each."""
  found = {}
  for words, complete in pages.all_commands():
    if complete and is_training(words):
      found.setdefault(_value(words, '--base_dir'), words)
  return found


def is_training(words):
  return words[:2] == ['implicit-rl', 'train'] and '--list_configurables' not in words


def _value(words, flag):
  return next(word.partition('=')[2] for word in words if word.startswith(f'{flag}='))


def run(words):
  """Runs a command with small settings in the working directory, after what makes its needs.

  Raises:
    AssertionError: if it fails, or trains without logging.
  """
  make_needs(words)
  if is_training(words):
    _train(words)
    return
  words = [*_expanded(words), *shlex.split(small(words))]
  if words[0] == 'implicit-rl':
    _run_here(words)
  else:
    _run_apart(words)


def small(words):
  """Returns what makes a command short, as text; None if `settings.SMALL` says nothing."""
  fitting = [key for key in settings.SMALL if fits(key, words)]
  return settings.SMALL[max(fitting, key=len)] if fitting else None


def fits(key, words):
  """Returns whether a command begins with the first two words of `key` and has the others."""
  begin, rest = key.split()[:2], key.split()[2:]
  return words[:2] == begin and {word.partition('=')[0] for word in words}.issuperset(rest)


def _run_here(words):
  """Runs a subcommand in this process, which has imported everything."""
  flags.FLAGS.unparse_flags()
  run_app = app.run
  app.run = lambda main, argv: main(flags.FLAGS(argv))
  try:
    status = cli.main(words[1:])
  except SystemExit as error:
    status = error.code
  finally:
    app.run = run_app
    flags.FLAGS.unparse_flags()
  assert not status, f'{shlex.join(words)}: {status}'


def _run_apart(words):
  """Runs `python …` in a process of its own; a script is that of the checkout."""
  _, what, *arguments = words
  python = sys.executable
  if what == 'experiments/mujoco_peer.py':
    python = os.fspath(settings.PEERS / 'bin' / 'python')
  what = os.fspath(ROOT / what) if what.endswith('.py') else what
  done = subprocess.run(
    [python, what, *arguments],
    env=os.environ | {'PYTHONPATH': os.fspath(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f'{shlex.join(words)}\n{done.stdout[-500:]}{done.stderr[-2000:]}'


def _train(words):
  base_dir = _value(words, '--base_dir')
  shutil.rmtree(base_dir, ignore_errors=True)  # Several pages may name it.
  gin_file = _value(words, '--gin_files')
  bindings = command_line.small(pages.OWN.get(gin_file, gin_file))
  _run_here([*words, *(f'--gin_bindings={name} = {value}' for name, value in bindings.items())])
  logs = list(pathlib.Path(base_dir).rglob('metrics.jsonl'))  # One a seed.
  assert logs and all(map(jsonl.read, logs)), f'{shlex.join(words)}: no row'


def make_needs(words):
  """Runs the commands that make the files and runs which these words name."""
  makers = trainings() | {made: pages.split(line) for made, line in settings.MADE_BY.items()}
  for word in words:
    if word.startswith(('--output', '--base_dir', '--results', '--curves')):
      continue
    for path in re.findall(r'runs/\w+|(?<![\w/])\w+\.(?:csv|jaxexport)|\bstore\b', word):
      if makers.get(path, words) != words and not pathlib.Path(path).exists():
        run(makers[path])


def _expanded(words):
  """Returns the words after the shell has replaced patterns of files."""
  found = []
  for word in words:
    is_pattern = re.fullmatch(r'[\w/]+\*', word)
    found += map(str, sorted(pathlib.Path().glob(word))) if is_pattern else [word]
  return found

"""Every command of README, CONTRIBUTING.md and docs/ runs, with small settings appended."""

import re
import shlex
import sys

import pytest

from implicit_rl import cli
from tests.docs_commands import lab, pages, settings
from tests.docs_commands.pages import ROOT

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


def reason(words):
  """Returns why a command does not run here; None if it does."""
  if words[0] in pages.OTHERS:
    return pages.OTHERS[words[0]]
  line = ' '.join(words)
  return next((why for text, why in settings.ELSEWHERE.items() if text in line), None)


def everything():
  """Yields (words, complete) of all commands, with targets of the Makefile as their recipes.

  `python -m implicit_rl.x` is `implicit-rl x` here: both call the same `main`.
  """
  for words, complete in pages.all_commands():
    if words[0] != 'make':
      yield as_subcommand(words), complete
      continue
    for target in words[1:]:
      if '=' not in target and target not in settings.TARGETS:
        assert pages.recipes(target), f'make {target} runs nothing: see TARGETS in settings.py'
        for recipe in pages.recipes(target):
          yield as_subcommand(recipe), True


def as_subcommand(words):
  match words:
    case ['python', '-m', module, *rest]:
      name = module.removeprefix('implicit_rl.').replace('_', '-')
      return ['implicit-rl', name, *rest] if name in cli.COMMANDS else words
  return words


def distinct(words):
  """Returns the words without the flags that the small settings replace."""
  appended = shlex.split(lab.small(words) or '') if not lab.is_training(words) else []
  replaced = {word.partition('=')[0] for word in appended if word.startswith('--')}
  kept, dropping = [], False
  for word in words:
    if word.startswith('--'):
      dropping = word.partition('=')[0] in replaced
    if not dropping:
      kept.append(word)
  return tuple(kept)


def cases():
  """Returns the commands that run here: one of those that the small settings make alike.

  A name alone in a sentence, as of a subcommand that needs arguments, is no case if a command that
  begins so is one.
  """
  found, names = {}, {}
  for words, complete in everything():
    if not reason(words):
      (found if complete else names).setdefault(distinct(words), words)
  for name, words in names.items():
    if not any(other[: len(name)] == name for other in found):
      found[name] = words
  return list(found.values())


CASES = cases()


@pytest.mark.exhaustive
@pytest.mark.parametrize('words', CASES, ids=[' '.join(words)[:120] for words in CASES])
def test_a_command_runs(words, lab_folder):
  del lab_folder  # The working directory.
  lab.run(words)


def test_every_command_is_run_or_excepted():
  unknown = [
    ' '.join(words) for words in CASES if not lab.is_training(words) and lab.small(words) is None
  ]
  assert not unknown, f'add to SMALL or ELSEWHERE in settings.py: {unknown}'
  assert len(CASES) > 100


def test_no_entry_is_of_no_use():
  every = [words for words, _ in everything()]
  lines = [' '.join(words) for words in every]
  for text in settings.ELSEWHERE:
    assert any(text in line for line in lines), text
  for key in settings.SMALL:
    assert any(lab.fits(key, words) for words in every), key


def test_commands_of_three_pages_run_one_after_the_other(tmp_path, monkeypatch):
  """All on the run of the quickstart."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  ran = set()
  for page in ('quickstart', 'diagnose', 'reuse'):
    for words, complete in pages.commands_of(ROOT / 'docs' / f'{page}.md'):
      if words[0] == 'implicit-rl' and complete and words[1] not in ran | {'zoo'}:
        lab.run([re.sub(r'^runs/(demo|zoo/breakout)$', 'runs/first', word) for word in words])
        ran.add(words[1])
  assert ran == {'train', 'report', 'diagnose', 'evaluate', 'play', 'export'}
  made = {path.name for path in tmp_path.rglob('*') if path.is_file() and path.stat().st_size}
  assert made >= {'report.html', 'first.html', 'breakout.gif', 'policy.jaxexport'}


def test_every_subcommand_runs_in_a_test():
  assert set(RUN_BY) == set(cli.COMMANDS)
  for name, (file, call) in RUN_BY.items():
    assert re.search(call, (ROOT / 'tests' / file).read_text()), name

"""The commands of README, CONTRIBUTING.md and docs/, read from their Markdown."""

import functools
import html.parser
import itertools
import pathlib
import re
import shlex

import markdown

from implicit_rl.data.sources.tfds_replay import EMBEDDED

ROOT = pathlib.Path(__file__).parents[2]
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
  'DIRECTORY': '../before',
  'F': 'figure_2',
  'PATH': 'curves',
  'RUN': 'runs/first',
  'RUN…': 'runs/first',
  'S': '1',
  'SOURCE': f'{EMBEDDED}/rlu_atari_checkpoints_ordered/Pong_run_1',
  'SOURCE...': 'docs/results/gridworld/figure_2.csv',
  'STORE': 'store',
  'runs/minatar_offline/runs/.../Breakout/dqn': 'runs/first',
}
# A reader's own files; tests/test_run_experiment.py runs those that are on the pages.
OWN = {name: OFFLINE.split('=')[1] for name in ('my.gin', 'mine.gin', 'my_games.gin')}


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


@functools.cache
def code_of(page):
  return Code(page)


def split(line):
  """Returns the words of a command, without comment, variables, redirection or placeholders."""
  words = shlex.split(line, comments=True)
  while words and re.match(r'[A-Z]+=', words[0]):
    del words[0]
  words = words[: words.index('>')] if '>' in words else words
  filled = [one for word in words for one in shlex.split(_filled(word))]
  if filled:
    filled[0] = re.sub(r'^\.venv(-peers)?/bin/', '', filled[0])
  return ['python', *filled] if filled and filled[0].endswith('.py') else filled


def _filled(word):
  """Returns a word, quoted, with what a reader puts in where it says so."""
  if word in FILLED_IN:
    return FILLED_IN[word]
  fill = lambda match: FILLED_IN.get(match[0], match[0])
  return shlex.quote(re.sub(r'(?<![\w/.])(/path/to/tfds|[A-Z]+)(?![\w/])', fill, word))


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
  code = code_of(page)
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


def all_commands():
  """Yields (words, whether its arguments are complete) of every command of every page."""
  for page in PAGES:
    yield from commands_of(page)


def recipes(target):
  """Returns the commands of a target of the Makefile that run a program of this project."""
  makefile = (ROOT / 'Makefile').read_text()
  recipe = re.search(rf'^{target}:.*\n((?:\t.*\n)+)', makefile, re.MULTILINE)
  program = r'/(python (?:benchmarks|experiments|-m implicit_rl)[^|\n]*)'
  return [split(line) for line in re.findall(program, recipe[1])] if recipe else []

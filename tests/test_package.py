"""The two distributions as they are built: their files, metadata, and use without a checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest
import yaml

import implicit_rl
from tests.command_line import OFFLINE, ROOT

COPIED = re.findall(r'^COPY (?!--)(.*) \S+$', (ROOT / 'Dockerfile').read_text(), re.MULTILINE)
FOLDERS = ('implicit_rl', 'gin_configs', 'sweeps')


def python(*arguments, **settings):
  """Runs Python and returns what it prints; a failure shows what it said."""
  done = subprocess.run(
    [sys.executable, *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    **settings,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
  """The folder of what `make wheels` makes, built from what the Dockerfile copies."""
  tree = tmp_path_factory.mktemp('tree')
  for name in ' '.join(COPIED).split():
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns('__pycache__'))
    else:
      shutil.copy(ROOT / name, tree)
  build = ['-m', 'build', '--no-isolation', '--outdir=dist']
  python(*build, cwd=tree)
  python(*build, '--wheel', cwd=tree, env={**os.environ, 'IMPLICIT_RL_DISTRIBUTION': 'rank'})
  return tree / 'dist'


def unpack(distributions, name, folder):
  """Unpacks a wheel; returns its files, without those of its metadata, and the metadata."""
  (wheel,) = distributions.glob(f'{name}-*.whl')
  with zipfile.ZipFile(wheel) as file:
    file.extractall(folder)
    names = file.namelist()
    (metadata,) = (one for one in names if one.endswith('.dist-info/METADATA'))
    return {one for one in names if '.dist-info/' not in one}, message_from_bytes(
      file.read(metadata)
    )


@pytest.fixture(scope='module')
def whole(distributions, tmp_path_factory):
  """The whole package unpacked: its folder, files and metadata."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, *unpack(distributions, 'implicit_rl', folder)


@pytest.fixture(scope='module')
def small(distributions, tmp_path_factory):
  """The small one likewise."""
  folder = tmp_path_factory.mktemp('small')
  return folder, *unpack(distributions, 'implicit_rl_rank', folder)


def test_the_wheel_holds_every_file_of_the_package_and_what_ships_beside_it(whole):
  expected = {'implicit_rl/py.typed'}
  for folder in FOLDERS:
    for path in (ROOT / folder).rglob('*'):
      if path.is_file() and path.suffix not in ('.pyc', '.typed'):
        name = path.relative_to(ROOT).as_posix()
        expected.add(name if folder == 'implicit_rl' else f'implicit_rl/{name}')
  assert whole[1] == expected


def test_the_metadata_is_whole(distributions, whole, small):
  for name, (_, _, metadata) in (('implicit_rl', whole), ('implicit-rl-rank', small)):
    assert metadata['Name'] == name
    assert metadata['Version'] == implicit_rl.__version__
    assert metadata['Author'] == 'The implicit_rl authors'
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Description-Content-Type'] == 'text/markdown'
  (entry_points,) = whole[0].glob('*.dist-info/entry_points.txt')
  assert 'implicit-rl = implicit_rl.cli:main' in entry_points.read_text()
  paths = sorted(distributions.iterdir())
  assert len(paths) == 3
  assert python('-m', 'twine', '--no-color', 'check', '--strict', *paths).count('PASSED') == 3


def test_what_the_dockerfile_copies_is_sent_to_it():
  everything, *let_through, caches = [
    line for line in (ROOT / '.dockerignore').read_text().splitlines() if not line.startswith('#')
  ]
  assert (everything, caches) == ('*', '**/__pycache__')
  assert let_through == [f'!{name}' for name in ' '.join(COPIED).split()]


def test_the_workflow_runs_commands_of_the_makefile():
  workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())
  steps = [step for job in workflow['jobs'].values() for step in job['steps']]
  targets = {name for step in steps for name in re.findall(r'\bmake ([\w-]+)', step.get('run', ''))}
  assert targets == {'install', 'check', 'test', 'test-all', 'docs', 'wheels'}
  makefile = (ROOT / 'Makefile').read_text()
  assert all(re.search(rf'^{name}:', makefile, re.MULTILINE) for name in targets)
  assert workflow['jobs']['tests']['strategy']['matrix']['python'] == ['3.11', '3.12', '3.13']


def test_the_citations_are_of_this_version():
  version = re.escape(implicit_rl.__version__)
  assert re.search(rf'^version: {version}$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE)
  assert re.search(rf'^  version = {{{version}}},$', (ROOT / 'README.md').read_text(), re.MULTILINE)
  install = (ROOT / 'docs' / 'install.md').read_text()
  assert set(re.findall(r'implicit_rl(?:_rank)?-(.*?)-py3', install)) == {implicit_rl.__version__}


def test_the_unpacked_wheel_trains_in_an_empty_folder(whole, tmp_path):
  """A file of one's own includes a shipped one and imports a module beside it."""
  (tmp_path / 'mine.gin').write_text(
    "include 'gin_configs/minatar/offline_dqn.gin'\nimport mine\nAgent.gamma = @mine()\n"
  )
  (tmp_path / 'mine.py').write_text('import gin\n@gin.configurable\ndef mine():\n  return 0.75\n')
  python(
    *('-m', 'implicit_rl', 'train', '--base_dir=run'),
    *('--gin_files=mine.gin', '--gin_files=gin_configs/penalties/lp.gin'),
    *(f'--gin_bindings={name} = {value}' for name, value in OFFLINE.items()),
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(whole[0])},
  )
  (row,) = map(json.loads, (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines())
  assert row['updates'] == 2 and row['Losses/Penalty'] > 0
  config = (tmp_path / 'run' / 'operative_config.gin').read_text()
  assert re.search(r'Agent\.gamma = @.*mine\(\)', config)


ONLY_ITS_REQUIREMENTS = """
import importlib.machinery, importlib.metadata, json, re, sys
import packaging.requirements

allowed, waiting = set(), json.loads(sys.argv[1])
while waiting:  # The requirements of the requirements too.
  requirement = packaging.requirements.Requirement(waiting.pop())
  name = re.sub('[-_.]+', '-', requirement.name).lower()
  if name not in allowed and (not requirement.marker or requirement.marker.evaluate({'extra': ''})):
    allowed.add(name)
    waiting += importlib.metadata.requires(name) or []
providers = importlib.metadata.packages_distributions()

class Allowed:
  def find_spec(name, path=None, target=None):
    known = {re.sub('[-_.]+', '-', one).lower() for one in providers.get(name, [])}
    if not known or known & {*allowed, 'implicit-rl', 'implicit-rl-rank'}:
      return importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [*sys.meta_path[:2], Allowed]  # Built-in modules, frozen ones, these.
"""
MEASURED = """
import jax, numpy as np
import implicit_rl
from implicit_rl import metrics, rank

states = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
weights = np.random.default_rng(1).normal(size=(16, 8 + 3)).astype(np.float32)
params = [weights[:, :8].T, weights[:, 8:]]

def apply(params, states):
  features = jax.numpy.maximum(states @ params[0], 0)
  return features @ params[1], features

found = implicit_rl.diagnose(apply, params, states, diagnostics='all')
features = np.asarray(apply(params, states)[1])
gradient = float(jax.numpy.sum(jax.grad(rank.lp_penalty)(features) ** 2))
given = implicit_rl.diagnose_features({'features': features})
"""


@pytest.mark.exhaustive
def test_the_small_distribution_measures_with_its_requirements_alone(small, tmp_path):
  """With the numbers of the whole package; and it says what only that one has."""
  folder, files, metadata = small
  assert not {'implicit_rl/train.py', 'implicit_rl/networks.py'} & files
  code = f"""{ONLY_ITS_REQUIREMENTS}{MEASURED}
assert implicit_rl.__file__.startswith({str(folder)!r})
found.save('found.json')
print(json.dumps([dict(found), float(given['srank']), gradient]))
for of_the_whole in (lambda: found.save('page.html'), lambda: implicit_rl.load_run):
  try:
    of_the_whole()
  except ModuleNotFoundError as error:
    print(error)
"""
  numbers, page, run = python(
    '-c',
    code,
    json.dumps(metadata.get_all('Requires-Dist')),
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(folder)},
  ).splitlines()
  assert page.startswith('page.html: a page needs ') and 'pip install implicit_rl' in page
  assert run == 'implicit_rl.load_run is in the whole package: pip install implicit_rl'
  assert list(tmp_path.iterdir()) == [tmp_path / 'found.json']
  scope = {}
  exec(MEASURED, scope)
  measured, srank, gradient = json.loads(numbers)
  assert measured == pytest.approx(dict(scope['found']), nan_ok=True)
  assert srank == scope['given']['srank']
  assert gradient == pytest.approx(scope['gradient'])

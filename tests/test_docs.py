"""The documentation builds without a warning, loads nothing from elsewhere, and its code runs."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest

from implicit_rl import environments, rank
from implicit_rl.data import source

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The pages of the built site, by their path."""
  target = tmp_path_factory.mktemp('site')
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', f'--site-dir={target}'],
    cwd=ROOT,
    env=os.environ | {'NO_MKDOCS_2_WARNING': '1'},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob('*.html')}


def test_every_page_is_there(site):
  pages = {path.relative_to(DOCS).with_suffix('.html').as_posix() for path in DOCS.rglob('*.md')}
  assert pages <= set(site)


def test_pages_load_nothing_from_elsewhere(site):
  loads = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b[^>]*\brel="(?:stylesheet|preconnect|preload|icon)"[^>]*\bhref="(?:https?:)?//[^"]*"'
  )
  for name, page in site.items():
    assert not loads.findall(page), name


def test_formulas_are_mathml(site):
  assert site['agents/cql.html'].count('<math') >= 3
  for name, page in site.items():
    assert 'class="arithmatex"' not in page, name
    for formula in re.findall(r'<math.*?</math>', page, re.DOTALL):
      assert '\\' not in formula, (name, formula)


def test_tables_are_tables(site):
  """A blank line within one leaves its rows as text."""
  for name, page in site.items():
    assert not re.search(r'<p>\|', page), name


def test_the_api_page_has_the_docstrings(site):
  text = re.sub(r'<[^>]*>', '', site['api.html'])
  for expected in ('Returns the effective rank srank_δ(Φ)', 'A value-based agent', 'C51Head'):
    assert expected in text


def test_the_api_page_has_every_member_of_the_protocols(site):
  text = site['api.html']
  for where, names in (
    ('data.source.DataSource', source.members()),
    ('environments.Environment', environments.members(environments.Environment)),
    ('environments.Capabilities', environments.members(environments.Capabilities)),
  ):
    start = text.index(f'id="implicit_rl.{where}"')
    section = re.sub(r'<[^>]*>', '', text[start : text.find('<h3', start + 10)])
    for name in names:
      assert re.search(rf'\b{name}\b', section), (where, name)


def test_relative_links_in_the_sources_lead_somewhere():
  """Also those that leave docs/, which the site drops, and README's."""
  for page in [*DOCS.rglob('*.md'), ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']:
    text = re.sub(r'```.*?```|`[^`]*`', '', page.read_text(), flags=re.DOTALL)  # not code
    for target in re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', text):
      if not re.match(r'[a-z]+:', target):
        assert (page.parent / target).exists(), f'{page.relative_to(ROOT)}: {target}'


def block(page, name):
  """The code block of a page whose first line is `# name`."""
  (found,) = re.findall(rf'```python\n(# {name}\n.*?)```', (DOCS / page).read_text(), re.DOTALL)
  return found


def test_srank_of_a_pytorch_network_is_pytorchs_own():
  """Features of a Stable-Baselines3 DQN, and their spectrum as PyTorch computed it in float64."""
  with np.load(ROOT / 'tests' / 'data' / 'torch_features.npz') as file:
    features, expected = file['features'], file['singular_values']
  shares = np.cumsum(expected) / np.sum(expected)
  assert float(rank.srank(features)) == 1 + int(np.argmax(shares >= 0.99))
  np.testing.assert_allclose(rank.singular_values(features), expected, rtol=1e-4, atol=1e-4)
  script = (ROOT / 'experiments' / 'torch_features.py').read_text()
  for line in block('library.md', 'torch_features.py').splitlines()[1:]:
    assert line.split('#')[0].strip() in script, line


def test_the_penalty_in_a_loss_of_ones_own(capsys):
  scope = {}
  exec(block('library.md', 'my_penalty.py'), scope)
  plain, penalised = scope['plain'], scope['penalised']
  assert penalised['lp_penalty'] < 0.5 * plain['lp_penalty']
  assert penalised['sigma_max'] < plain['sigma_max']
  assert 'sigma_max' in capsys.readouterr().out


def test_the_picture_of_collapse_marks_srank_where_the_curve_crosses(tmp_path):
  """The script draws what it would from the rows of real runs; here the spectra are known."""
  script = runpy.run_path(str(ROOT / 'experiments' / 'rank_collapse_picture.py'))
  spectrum = 0.9 ** np.arange(64)
  (srank,) = np.nonzero(script['shares'](spectrum) >= 0.99)[0][:1] + 1
  assert srank == float(rank.srank_from_singular_values(spectrum))
  rows = {
    'updates': np.array([0, 20_000]),
    'reference_spectrum': np.stack([spectrum, spectrum]),
    'reference_srank': np.array([srank, srank]),
  }
  loaded = {label: [rows] * len(script['SEEDS']) for label in script['CONFIGS']}
  script['draw'](loaded, script['SEEDS'][0], tmp_path / 'picture.png')
  assert (tmp_path / 'picture.png').read_bytes()[:4] == b'\x89PNG'

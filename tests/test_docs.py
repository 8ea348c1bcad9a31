"""The documentation builds without a warning, loads nothing from elsewhere, and its code runs."""

import functools
import html.parser
import http.server
import os
import pathlib
import posixpath
import re
import runpy
import subprocess
import sys
import threading
import time
import urllib.parse

import numpy as np
import pytest

from implicit_rl import environments, rank
from implicit_rl.data import source
from tests import browser

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """The directory of the built site."""
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
  return target


@pytest.fixture(scope='module')
def site(built):
  """The pages of the built site, by their path."""
  return {path.relative_to(built).as_posix(): path.read_text() for path in built.rglob('*.html')}


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


class Targets(html.parser.HTMLParser):
  """What a page links to and shows, and the anchors that it has."""

  def __init__(self, text):
    super().__init__()
    self.links, self.anchors = [], set()
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    for name, value in attributes:
      if name == 'id':
        self.anchors.add(value)
      if name in ('href', 'src') and value and not re.match(r'[a-z]+:', value):
        self.links.append(value)


def test_every_link_of_the_site_leads_somewhere(site, built):
  pages = {name: Targets(text) for name, text in site.items() if name != '404.html'}
  for name, page in pages.items():
    for link in page.links:
      path, _, anchor = urllib.parse.unquote(link).partition('#')
      target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
      target = f'{target}/index.html'.removeprefix('./') if (built / target).is_dir() else target
      assert (built / target).is_file(), (name, link)
      if anchor and target in pages:
        assert anchor in pages[target].anchors, (name, link)
  assert sum(len(page.links) for page in pages.values()) > 1000


# Searches in a frame. Chromium's virtual time stands still while the server makes the page wait.
PROBE = """<iframe src="index.html?q=dormancy"></iframe><script>
async function look() {
  for (let i = 0; i < 100; i++) {
    await fetch('/wait');
    const frame = document.querySelector('iframe').contentDocument;
    const found = frame.querySelector('.md-search-result__meta')?.innerText ?? '';
    if (found.includes('matching')) { document.title = found; return; }
  }
}
look();
</script>"""


class Server(http.server.SimpleHTTPRequestHandler):
  """Serves files and the probe, and prints nothing."""

  def do_GET(self):
    if self.path == '/wait':
      time.sleep(0.2)
    if self.path not in ('/wait', '/probe.html'):
      return super().do_GET()
    self.send_response(200)
    self.send_header('Content-Type', 'text/html')
    self.end_headers()
    return self.wfile.write(PROBE.encode())

  def log_message(self, *arguments):
    del arguments


@pytest.mark.browser
def test_the_search_finds_pages_from_the_disk(built):
  address = f'{built.as_uri()}/index.html?q=dormancy'
  text = browser.dump(address, '--virtual-time-budget=20000')
  (found,) = re.findall(r'class="md-search-result__meta">([^<]*)<', text)
  assert int(found.split()[0]) >= 2, found


@pytest.mark.browser
@pytest.mark.exhaustive
def test_the_search_finds_pages_over_http(built):
  handler = functools.partial(Server, directory=built)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_address[1]}/probe.html'
    text = browser.dump(address, '--virtual-time-budget=20000')
    server.shutdown()
  assert int(re.search(r'<title>(\d+) matching', text)[1]) >= 2


def test_the_agent_of_the_readme_is_on_the_site():
  assert block('extending.md', 'my_agent.py') == block('../README.md', 'my_agent.py')


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

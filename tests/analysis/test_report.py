"""The report: what it says of runs, and that a real Chromium shows its charts, light and dark."""

import base64
import html
import json
import re

import pytest

from implicit_rl.analysis import __main__ as command_line
from implicit_rl.analysis import findings, report, runs
from implicit_rl.logs import jsonl
from tests import browser

# Of the page in a frame of each width: what is laid out, and how.
SCRIPT = """
addEventListener('load', () => {
  const told = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, box = e => e.getBoundingClientRect();
    const charts = [...page.querySelectorAll('svg.chart')].map(box);
    return {
      charts: charts.filter(b => b.width > 200 && b.height > 100).length,
      lines: [...page.querySelectorAll('path.line')].filter(p => p.getTotalLength() > 5).length,
      columns: new Set(charts.map(b => Math.round(b.left))).size,
      inside: charts.every(b => b.left >= 0 && b.right <= frame.clientWidth),
      width: page.documentElement.scrollWidth,
      paths: [...page.querySelectorAll('#runs td:last-child')].map(e => box(e).right),
      ground: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      loaded: frame.contentWindow.performance.getEntriesByType('resource').map(r => r.name)
        .filter(name => !name.startsWith('data:')),
      headings: [...page.querySelectorAll('h2')].map(h => h.innerText),
    };
  });
  document.title = JSON.stringify(told);
});
"""


def look(page, directory, dark):
  """What Chromium makes of the page in frames 1280 and 360 pixels wide."""
  frames = ''.join(
    f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    for width in (1280, 360)
  )
  path = directory / 'frames.html'
  path.write_text(f'<meta charset="utf-8"><script>{SCRIPT}</script>{frames}', encoding='utf-8')
  dark_or_light = f'--blink-settings=preferredColorScheme={0 if dark else 1}'
  shown = browser.dump(path.as_uri(), dark_or_light)
  return json.loads(html.unescape(re.search(r'<title>(.*?)</title>', shown, re.S)[1]))


@pytest.fixture(scope='session', name='page')
def page_of_real_runs(real_runs, tmp_path_factory):
  path = tmp_path_factory.mktemp('page') / 'report.html'
  assert command_line.main(['report', str(real_runs), f'--output={path}']) == 0
  return path.read_text()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize('dark', [False, True])
def test_chromium_shows_the_charts(dark, page, tmp_path):
  wide, narrow = look(page, tmp_path, dark)
  logged = sum(name in page for name in report.METRICS)
  for seen in (wide, narrow):
    assert seen['charts'] == logged + 3  # and two heat maps with the spectra at the end
    assert seen['lines'] >= 2 * logged
    assert seen['inside'] and not seen['loaded']
    assert seen['headings'] == ('Comparison Curves Spectra Runs Warnings Settings Record'.split())
    red, green, blue = map(int, re.findall(r'\d+', seen['ground']))
    assert (max(red, green, blue) < 60) if dark else (min(red, green, blue) > 200)
  assert len(wide['paths']) == 2 and max(wide['paths']) <= 1280, 'the whole path, unscrolled'
  assert wide['columns'] >= 3 and narrow['columns'] == 1
  assert wide['width'] <= 1280 and narrow['width'] <= 360


def test_the_page_needs_nothing_else(page):
  assert not re.search(r'https?:|<script|<link|@import|src=', page)
  pictures = re.findall(r'href="data:image/png;base64,([^"]+)"', page)
  assert len(pictures) == 2
  assert all(base64.b64decode(picture).startswith(b'\x89PNG') for picture in pictures)


def test_settings_record_and_comparison_are_there(page):
  assert '<td><code>Learner.penalty_weight</code></td><td>0.0</td><td>0.001</td>' in page
  assert 'settings shared by all runs' in page and 'Agent.batch_size' in page
  assert 'git_revision' in page and 'num_iterations' in page
  assert 'mean of last 5 evaluations' in page and 'DQN + lp_penalty 0.001' in page
  assert '>entropy rank</th>' in page and '>centred PCA rank</th>' in page


def test_saved_rows_have_a_page_too_and_names_are_escaped(study, tmp_path):
  text = study.read_text().replace('DQN + penalty', '<script>alert(1)</script>')
  (tmp_path / 'rows.csv').write_text(text)
  page = report.build([tmp_path / 'rows.csv'])
  assert '<script' not in page and '&lt;script&gt;' in page
  assert page.count('<figure>') == 4 * 3 and 'Only these rows were saved' in page


def texts(base_dir):
  return [(found.severe, found.text) for found in findings.look(runs.read(base_dir))]


def test_findings_by_hand(tmp_path, write_run):
  base_dir = write_run(
    tmp_path / 'run',
    [1, 2, 3, 4],
    [100, 60, 50, 45],
    q_max=[1, None, None, 2],
    effective_rank=[80, 79, 77, 35],
    centred_effective_rank=[80, 79, 77, 78],
    condition_number=[None, 1, 1, 1],
  )
  rows = jsonl.read(base_dir / 'metrics.jsonl')
  (base_dir / 'metrics.jsonl').unlink()
  for row in rows[:2] + [row | {'iteration': row['iteration'] + 1} for row in rows[2:]]:
    jsonl.append(base_dir / 'metrics.jsonl', row)
  (base_dir / 'operative_config.gin').write_text('OfflineRunner.num_iterations = 9\n')
  (base_dir / 'run.json').write_text(
    '{"starts": [{"seed": 1}, {"seed": 1, "start_iteration": 2, "git_revision": "ab+"}]}'
  )
  (base_dir / 'run.log').write_text('fine\nUserWarning: a warning\rKilled\niteration 1 error 2\n')
  (base_dir / 'spectra.jsonl').touch()
  assert texts(base_dir) == [
    (True, '1 iteration missing: 2'),
    (True, 'q_max not finite in 2 iterations: 1, 3'),
    (True, 'srank fell from 100 (iteration 0) to 45 at the end'),
    (True, 'srank fell at once, 100 to 60, in iteration 1'),
    (True, 'entropy rank fell from 80 (iteration 0) to 35 at the end'),
    (True, 'entropy rank fell at once, 77 to 35, in iteration 4'),
    (False, '4 of 9 iterations: it is still running, or was stopped'),
    (False, 'condition_number not finite in 1 iteration: 0'),
    (False, 'resumed, last at iteration 2'),
    (False, 'the checkout had changes that are in no commit'),
    (False, 'run.log: UserWarning: a warning'),
    (False, 'run.log: Killed'),
  ]


def test_a_run_in_order_has_no_severe_finding(tmp_path, write_run, real_runs):
  base_dir = write_run(tmp_path / 'run', [None, None], [10, 9])
  assert texts(base_dir) == [
    (False, 'no spectra.jsonl: singular values were not logged'),
    (False, 'never evaluated'),
    (False, 'no run.json: what was run is not on record'),
  ]
  found = texts(real_runs / 'dqn' / 'seed_3')
  assert not [text for severe, text in found if severe and 'rank' not in text]

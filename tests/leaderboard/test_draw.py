"""What is drawn of rows: against NumPy and SciPy on rows whose answers are known, and the docs."""

import pathlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from implicit_rl.leaderboard import draw, rows, summary
from implicit_rl.leaderboard import spec as leaderboard_spec
from tests.command_line import ROOT

REGIME = {'gin_files': ['gin_configs/minatar/offline_dqn.gin'], 'returns': [10, 20]}
RESULTS = ROOT / 'docs' / 'results' / 'leaderboard'
PAGE = ROOT / 'docs' / 'leaderboard.md'
SPEC = leaderboard_spec.parse(
  {
    'seeds': 5,
    'regimes': {'one': REGIME, 'two': REGIME, 'silent': {**REGIME, 'returns': None}},
    'methods': {'none': {}, 'better': {}, 'same': {}, 'open': {}},
  },
  pathlib.Path('mine.yaml'),
)


@pytest.fixture(scope='module')
def table():
  """Rows of three methods: `better` has 5 points more return and twice the srank."""
  rng = np.random.default_rng(0)
  found = []
  for regime in SPEC.regimes:
    for remedy, gain, factor in (('none', 0, 1), ('better', 5, 2), ('same', 0, 1)):
      for seed in range(5):
        row = dict.fromkeys(rows.COLUMNS, np.nan)
        noise = rng.uniform(-0.5, 0.5, 4)
        row |= {'regime': regime, 'remedy': remedy, 'setting': '', 'seed': seed, 'commit': 'abc'}
        row |= {'final_return': 12 + gain + noise[0], 'srank': factor * (10 + noise[1])}
        row |= {'first_srank': 20 + noise[2], 'q_data_gap': -3 + noise[3], 'cpu_seconds': 2.0}
        if regime == 'silent':
          row['final_return'] = np.nan
        found.append(row)
  found.append({**found[0], 'remedy': 'open'})  # One seed of five.
  return pd.DataFrame(found)


def test_scores_and_ratios_are_what_numpy_says(table):
  found = summary.scored(table, SPEC)
  methods = summary.by_method(found, SPEC, reps=50).set_index('remedy')
  assert list(methods.index) == ['none', 'better', 'same']  # Not the incomplete one.
  assert (methods['regimes'] == 2).all()
  better = table[(table['remedy'] == 'better') & (table['regime'] != 'silent')]
  scores = np.sort((better['final_return'].to_numpy() - 10) / 10)
  assert methods.loc['better', 'iqm'] == pytest.approx(stats.trim_mean(scores, 0.25))
  none = table[(table['remedy'] == 'none') & (table['regime'] != 'silent')]
  gain = (better['final_return'].mean() - none['final_return'].mean()) / 10
  assert methods.loc['better', 'gain'] == pytest.approx(gain)
  assert methods.loc['better', 'iqm_low'] <= methods.loc['better', 'iqm']
  ratios = [
    part.loc[part['remedy'] == 'better', 'srank'].mean()
    / part.loc[part['remedy'] == 'none', 'srank'].mean()
    for _, part in table.groupby('regime')
  ]
  assert methods.loc['better', 'srank_ratio'] == pytest.approx(stats.gmean(ratios))
  assert methods.loc['same', 'cpu_seconds_ratio'] == pytest.approx(1)
  assert np.isnan(methods.loc['same', 'pca_rank_ratio'])


def test_changes_are_judged_by_two_standard_errors(table):
  found = summary.scored(table, SPEC)
  changes = summary.changes(found, SPEC, 'final_return').set_index(['regime', 'remedy'])
  cells = {key: part['final_return'] for key, part in table.groupby(['regime', 'remedy'])}
  one, base = cells['one', 'better'], cells['one', 'none']
  assert changes.loc[('one', 'better'), 'change'] == pytest.approx(one.mean() - base.mean())
  error = np.hypot(stats.sem(one), stats.sem(base))
  assert changes.loc[('one', 'better'), 'error'] == pytest.approx(error)
  assert changes.loc[('one', 'better'), 'beyond'] == 1
  falls = summary.falls(found, SPEC).set_index(['regime', 'measure'])
  assert falls.loc[('two', 'srank'), 'beyond'] == -1
  none = table[(table['regime'] == 'two') & (table['remedy'] == 'none')]
  assert falls.loc[('two', 'srank'), 'error'] == pytest.approx(
    stats.sem(none['srank'] - none['first_srank'])
  )
  consequences = summary.consequences(found, SPEC).set_index(['measure', 'rank'])
  assert consequences.loc[('srank', 'raised'), 'cells'] == 2  # Not the regime without a return.
  assert consequences.loc[('srank', 'raised'), 'higher'] == 2
  assert consequences.loc[('pca_rank', 'raised'), 'cells'] == 0


def test_correlations_are_spearmans_across_methods_and_within_cells(table):
  found = summary.scored(table, SPEC)
  correlations = summary.correlations(found, SPEC).set_index(['measure', 'kind'])
  complete = table[table['remedy'] != 'open']
  one = complete[complete['regime'] == 'one'].groupby('remedy')[['srank', 'final_return']].mean()
  expected = stats.spearmanr(one['srank'], one['final_return']).statistic
  assert correlations.loc[('srank', 'across'), 'one'] == pytest.approx(expected)
  assert correlations.loc[('srank', 'across'), 'groups'] == 2
  within = [
    stats.spearmanr(part['srank'], part['final_return']).statistic
    for (regime, _), part in complete.groupby(['regime', 'remedy'])
    if regime != 'silent'
  ]
  assert correlations.loc[('srank', 'within'), 'rho'] == pytest.approx(np.mean(within))
  assert correlations.loc[('srank', 'within'), 'error'] == pytest.approx(stats.sem(within))
  assert np.isnan(summary.spearman(np.ones(5), np.arange(5)))


def test_a_table_half_done_is_drawn_and_says_what_is_open(table, tmp_path):
  table.to_csv(tmp_path / rows.ROWS, index=False)
  page = tmp_path / 'page.md'
  names = ('state', 'short', 'table', 'questions', 'correlations', 'strengths', 'excluded')
  page.write_text('# Mine\n' + ''.join(f'<!-- {name} -->\nold\n<!-- end -->\n' for name in names))
  written = draw.everything(SPEC, tmp_path, page)
  assert all(path.exists() for path in written) and page in written
  text = page.read_text()
  assert 'old' not in text and text.count('<!-- end -->') == len(names)
  assert '9 of 12 cells' in text and '3 have not been run yet, for these methods: open.' in text
  assert re.search(r'srank falls in 3 of 3 regimes', text)  # It fell everywhere.
  svg = (tmp_path / 'srank.svg').read_text()
  assert svg.count('<rect x=') == 6 and '×2.' in svg
  html = (tmp_path / 'page.html').read_text()
  assert html.count('<table>') >= 4 and '<!--' not in html.replace('<!DOCTYPE', '')
  assert draw.everything(SPEC, tmp_path, page) == written and page.read_text() == text


def test_before_the_first_row_the_page_says_so(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('<!-- state -->\n<!-- end -->\n<!-- table -->\n<!-- end -->\n')
  draw.everything(SPEC, tmp_path, page)
  assert '0 of 12 cells' in page.read_text() and 'None yet.' in page.read_text()


def test_the_docs_are_what_the_committed_rows_say(tmp_path):
  for name in (rows.ROWS, rows.EXCLUDED, rows.TUNING):
    shutil.copy(RESULTS / name, tmp_path)
  shutil.copy(PAGE, tmp_path)
  spec = leaderboard_spec.read(ROOT / 'sweeps' / 'leaderboard.yaml')
  page = tmp_path / PAGE.name
  for path in draw.everything(spec, tmp_path, page):
    kept = PAGE if path == page else RESULTS / path.name
    if path.suffix == '.csv' and path.stat().st_size > 1:
      pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(kept), rtol=1e-4)
    else:
      assert path.read_text() == kept.read_text(), path.name


def test_the_readme_quotes_the_table():
  said = ' '.join((ROOT / 'README.md').read_text().split())
  spec = leaderboard_spec.read(ROOT / 'sweeps' / 'leaderboard.yaml')
  methods = pd.read_csv(RESULTS / 'summary.csv').set_index('remedy')
  score = lambda name: f'{methods.loc[name, "gain"]:.2f} ± {methods.loc[name, "gain_error"]:.2f}'
  best = methods.loc[['lp_0.0001', 'lp_0.001', 'lp_0.01'], 'gain'].idxmax()
  found = summary.complete(summary.scored(rows.read(RESULTS / rows.ROWS), spec), spec)
  raised = summary.consequences(found, spec).set_index(['measure', 'rank']).loc[('srank', 'raised')]
  for quote in (
    f'{len(methods) - 1} methods in six of them',
    f'layer norm raises the mean score by {score("layer_norm")}',
    f'RMS norm by {score("rms_norm")}',
    f'L_p at its best weight by {score(best)}',
    f'srank in {raised["cells"]} cells; the return rises in {raised["higher"]} of these and falls '
    f'in {raised["lower"]}',
  ):
    assert quote in said

"""Pages quote what is computed from the kept rows."""

import pandas as pd
import paper_rows
import pytest

from tests.command_line import ROOT


def quoted():
  return ' '.join((ROOT / 'docs' / 'reproduction.md').read_text().replace('−', '-').split())


@pytest.mark.parametrize(
  ('sweep', 'game', 'measures'),
  [
    ('minatar_all_measures', 'Breakout', ['srank', 'eigenvalue_srank', 'srank/target']),
    ('minatar_rainbow_penalty', 'Breakout', ['effective_rank']),
  ],
)
def test_the_page_quotes_the_sweeps(sweep, game, measures):
  rows = pd.read_csv(ROOT / paper_rows.RESULTS / sweep / 'rows.csv')
  found = paper_rows.first_and_last(rows[rows['game'] == game], measures)
  assert len(found) == 2 * len(measures)
  for end in (*found['first'], *found['last']):
    assert end in quoted(), end


def test_the_page_quotes_every_correlation_of_td_error_and_rank():
  rows = pd.read_csv(ROOT / paper_rows.RESULTS / 'minatar_online' / 'runs.csv')
  for game, pair in paper_rows.correlations(rows).groupby('game'):
    assert f'{game} {" and ".join(pair["ρ"])}' in quoted(), game


def test_the_table_of_terms_periods_is_that_of_its_rows():
  rows = pd.read_csv(ROOT / 'docs/results/remedies/term_periods.csv')
  page = (ROOT / 'docs/remedies.md').read_text().split('## Periods of terms')[1].split('\n## ')[0]
  table = [line for line in page.splitlines() if line.startswith('|')][2:]
  methods = rows['remedy'].unique()
  assert len(table) == len(methods) == 6
  for line, method in zip(table, methods, strict=True):
    for regime in ('gridworld_small_data', 'dead_relu', 'late_reward'):
      chosen = rows[(rows['remedy'] == method) & (rows['regime'] == regime)]
      assert sorted(chosen['seed']) == list(range(5))
      cell = '; '.join(
        f'{values.mean():.1f} ± {values.sem():.1f}'
        for values in (chosen['effective_rank'], chosen['final_return'])
      )
      assert f'| {cell} |' in line

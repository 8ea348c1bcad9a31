"""Rank correlation within runs against SciPy and by hand, and what has none."""

import numpy as np
import pytest
import scipy.stats

from implicit_rl.analysis import runs, scatter, spectrum


def test_correlations_are_spearmans_within_each_run(study):
  table = runs.load([study])
  found = scatter.correlations(table, 'srank', 'td_error')
  assert len(found) == 24
  row = found.iloc[-1]
  part = table[table['run'] == row['run']]
  ranks = [scipy.stats.rankdata(part[name]) for name in ('srank', 'td_error')]
  assert row['correlation'] == pytest.approx(np.corrcoef(*ranks)[0, 1])
  assert row['iterations'] == 6


def test_monotone_constant_and_short_runs_by_hand(tmp_path, write_run):
  write_run(tmp_path / 'up', [1, 10, 100], [1, 2, 3])
  write_run(tmp_path / 'down', [None, 3, 2, 1], [0, 1, 2, 3])
  write_run(tmp_path / 'flat', [1, 2, 3], [5, 5, 5])
  write_run(tmp_path / 'short', [1, 2], [1, 2])
  found = scatter.correlations(runs.load([tmp_path])).set_index('variant')['correlation']
  assert found['up'] == 1 and found['down'] == -1
  assert np.isnan(found['flat']) and np.isnan(found['short'])


def test_selected_singular_values():
  assert spectrum.selected(512) == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511]
  assert spectrum.selected(6) == [0, 1, 3, 5]
  assert spectrum.selected(1) == [0]

"""Columns in few bytes are the columns they stand for."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.data import compact


@hypothesis.given(st.lists(st.booleans(), max_size=40))
@hypothesis.settings(deadline=None)
def test_runs_are_the_sorted_rows(mask):
  rows = np.flatnonzero(mask)
  runs = compact.RowRuns(np.array(mask, bool))
  assert len(runs) == len(rows)
  np.testing.assert_array_equal(runs, rows)
  np.testing.assert_array_equal(runs[2:-1], rows[2:-1])
  if len(rows):
    places = np.random.default_rng(0).integers(0, len(rows), (3, 5))
    np.testing.assert_array_equal(runs[places], rows[places])


def test_places_outside_are_refused():
  runs = compact.RowRuns(np.array([True, False, True]))
  for place in (2, -1):
    with pytest.raises(IndexError, match=r'lie in \[0, 2\)'):
      runs[np.array([0, place])]


@pytest.mark.parametrize('count', [1, 2, compact._GROUP, compact._GROUP + 1, 10_000])
def test_offsets_are_the_array(count):
  offsets = np.cumsum(np.random.default_rng(0).integers(0, 1 << 20, count))
  short = compact.Offsets(offsets)
  assert len(short) == count
  assert short[-1] == offsets[-1]
  np.testing.assert_array_equal(short, offsets)
  at = np.random.default_rng(1).integers(0, count, (7, 3))
  np.testing.assert_array_equal(short[at], offsets[at])
  assert short.nbytes <= 4 * count + 8 * (count // compact._GROUP + 1)


def test_offsets_too_far_apart_are_refused():
  for offsets in ([0, 2**32], [5, 3]):
    with pytest.raises(ValueError, match='too large'):
      compact.Offsets(np.array(offsets))


@pytest.mark.parametrize(
  ('values', 'dtype'),
  [
    ([0, 255], np.uint8),
    ([-1.0, 0.0, 1.0], np.int8),
    ([0, 256], np.uint16),
    ([-129, 5], np.int16),
    ([0.0, 0.5], np.float64),
    ([0.0, np.nan], np.float64),
    ([0.0, np.inf], np.float64),
    ([-1, 2**15], np.int64),
    ([], np.float64),
  ],
)
def test_the_smallest_dtype_that_is_exact(values, dtype):
  small = compact.smallest(np.array(values))
  assert small.dtype == dtype
  np.testing.assert_array_equal(small, values)

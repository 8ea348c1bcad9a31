"""The sum tree against cumulative sums, and against Dopamine's on the same numbers."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.data.replay.sum_tree import SumTree

# Whole numbers, so that every sum is exact and so are the comparisons.
NUMBERS = st.integers(0, 9)


@hypothesis.given(
  values=st.lists(NUMBERS, min_size=1, max_size=40),
  writes=st.lists(st.tuples(st.integers(0, 39), NUMBERS), max_size=30),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_finds_what_the_cumulative_sum_says(values, writes):
  tree, direct = SumTree(len(values)), np.array(values, np.float64)
  tree.set(np.arange(len(values)), direct)
  indices = np.array([i % len(values) for i, _ in writes], np.int64)
  tree.set(indices, np.array([v for _, v in writes]))
  for index, (_, value) in zip(indices, writes, strict=True):
    direct[index] = value
  np.testing.assert_array_equal(tree.get(np.arange(len(values))), direct)
  assert tree.total == direct.sum()
  targets = np.arange(0, direct.sum(), 0.5)
  np.testing.assert_array_equal(
    tree.find(targets), np.searchsorted(np.cumsum(direct), targets, side='right')
  )


def test_equals_dopamines_on_the_same_queries():
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax.replay_memory import sum_tree

  rng = np.random.default_rng(0)
  ours, theirs = SumTree(1000), sum_tree.SumTree(1000)
  for _ in range(20):
    indices = rng.choice(1000, 64, replace=False)
    values = rng.exponential(size=64) * rng.integers(0, 2, 64)
    ours.set(indices, values)
    theirs.set(indices, values)
  # Theirs adds differences, so that rounding gathers there.
  np.testing.assert_allclose(ours.get(np.arange(1000)), theirs.get(np.arange(1000)), atol=1e-12)
  np.testing.assert_allclose(ours.total, theirs.root, rtol=1e-12)
  targets = rng.uniform(0, 0.999999 * ours.total, (40, 32))
  np.testing.assert_array_equal(ours.find(targets).ravel(), theirs.query(targets.ravel()))


def test_rounding_never_leads_to_an_empty_leaf():
  """Small numbers beside large ones, targets at and just below each partial sum."""
  rng = np.random.default_rng(0)
  values = 10.0 ** rng.uniform(-12, 3, 777) * rng.integers(0, 2, 777)
  tree = SumTree(777)
  tree.set(np.arange(777), values)
  edges = np.cumsum(values)
  targets = np.concatenate([[0.0], edges, np.nextafter(edges, 0)])
  found = tree.find(targets[targets < tree.total])
  assert (values[found] > 0).all()
  last = tree.find(np.nextafter(tree.total, 0))
  assert values[last] > 0 and last == np.flatnonzero(values)[-1]


def test_a_rebuilt_tree_answers_as_the_old_one():
  rng = np.random.default_rng(0)
  old, rebuilt = SumTree(100), SumTree(100)
  for _ in range(500):
    old.set(rng.integers(0, 100, 7), rng.exponential(size=7))
  rebuilt.set(np.arange(100), old.get(np.arange(100)))
  assert rebuilt.total == old.total
  np.testing.assert_array_equal(rebuilt._nodes, old._nodes)


def test_wrong_input_is_refused():
  with pytest.raises(ValueError, match='at least 1 number, got 0'):
    SumTree(0)
  tree = SumTree(5)
  for value in (-1.0, np.nan, np.inf):
    with pytest.raises(ValueError, match='finite numbers of at least 0'):
      tree.set(np.array([1]), np.array([value]))
  for index in (-1, 5):
    with pytest.raises(IndexError, match=r'\[0, 5\)'):
      tree.set(np.array([index]), np.array([1.0]))
  tree.set(np.array([2]), np.array([3.0]))
  for target in (-0.1, 3.0):
    with pytest.raises(ValueError, match=r'\[0, 3.0\)'):
      tree.find(np.array([target]))

"""Each subset picks what its name says, as counted by hand on a small dataset."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from implicit_rl.data import subsets

# Two checkpoints: rows 0-9 in episodes of 4, 6; rows 10-29 in episodes of 5, 5, 10.
SMALL = subsets.Episodes(np.array([4, 6, 5, 5, 10]), np.array([0, 0, 1, 1, 1]))
EXTENTS = [range(0, 4), range(4, 10), range(10, 15), range(15, 20), range(20, 30)]


def rows(mask):
  return np.flatnonzero(mask).tolist()


@hypothesis.given(
  lengths=st.lists(st.integers(1, 30), min_size=1, max_size=30),
  fraction=st.floats(0.001, 1),
  seed=st.integers(0, 5),
)
@hypothesis.settings(deadline=None)
def test_random_episodes_are_whole_and_as_near_as_can_be(lengths, fraction, seed):
  episodes = subsets.Episodes(np.array(lengths), np.zeros(len(lengths), int))
  mask = subsets.random_episodes(episodes, fraction, seed)
  ends = np.cumsum(lengths)
  kept = [mask[end - length : end] for end, length in zip(ends, lengths, strict=True)]
  assert all(k.all() or not k.any() for k in kept)
  assert mask.any()
  target = fraction * len(mask)
  off_by = abs(mask.sum() - target)
  assert off_by <= max(lengths) / 2 + 1e-6 or sum(k.all() for k in kept) == 1
  if fraction == 1:
    assert mask.all()


def test_random_episodes_reach_every_episode_and_depend_on_the_seed():
  masks = [tuple(rows(subsets.random_episodes(SMALL, 0.2, seed))) for seed in range(40)]
  assert masks[0] == tuple(rows(subsets.random_episodes(SMALL, 0.2, 0)))
  assert {r for m in masks for r in m} == set(range(30))
  assert rows(subsets.random_episodes(SMALL, 1.0, 3)) == list(range(30))


def test_random_transitions_are_the_exact_number_and_uniform():
  counts = np.zeros(30)
  for seed in range(400):
    mask = subsets.random_transitions(SMALL, 0.2, seed)
    assert mask.sum() == 6
    counts += mask
  assert np.all(np.abs(counts - 80) < 5 * np.sqrt(400 * 0.2 * 0.8))


def test_prefixes_of_episodes():
  half = subsets.prefix_episodes_per_checkpoint(SMALL, 0.5)
  assert rows(half) == [*EXTENTS[0], *EXTENTS[2]]  # 1 of 2, and 1.5 of 3 rounded down.
  two_thirds = subsets.prefix_episodes_per_checkpoint(SMALL, 2 / 3)
  assert rows(two_thirds) == [*EXTENTS[0], *EXTENTS[2], *EXTENTS[3]]
  assert rows(subsets.prefix_episodes_per_checkpoint(SMALL, 0.01)) == [*EXTENTS[0], *EXTENTS[2]]


def test_prefixes_of_rows():
  assert rows(subsets.prefix_rows_per_checkpoint(SMALL, 0.2)) == [0, 1, 10, 11, 12, 13]
  exact = subsets.prefix_rows_per_checkpoint(SMALL, 1.0, rows=3)
  assert rows(exact) == [0, 1, 2, 10, 11, 12]
  assert subsets.prefix_rows_per_checkpoint(SMALL, 1.0).all()


def test_checkpoints_need_not_be_in_order():
  mixed = subsets.Episodes(np.array([2, 2, 2, 2]), np.array([1, 0, 1, 0]))
  assert rows(subsets.prefix_episodes_per_checkpoint(mixed, 0.5)) == [0, 1, 2, 3]
  assert rows(subsets.prefix_rows_per_checkpoint(mixed, 1.0, rows=3)) == [0, 1, 2, 3, 4, 6]


def test_first_n():
  assert rows(subsets.first_n(SMALL, 1.0, n=7)) == list(range(7))
  assert rows(subsets.first_n(SMALL, 0.1)) == [0, 1, 2]


@pytest.mark.parametrize('name', subsets.SUBSETS)
@pytest.mark.parametrize('fraction', [0.0, -0.1, 1.01, 5, float('nan')])
def test_impossible_fractions_are_refused(name, fraction):
  with pytest.raises(ValueError, match=r'fraction must lie in \(0, 1\].*0.05 means 5%'):
    subsets.SUBSETS[name](SMALL, fraction, 0)


def test_names():
  assert subsets.by_name('first_n') == ('first_n', subsets.SUBSETS['first_n'])
  assert subsets.by_name(rows)[0] == 'rows'
  with pytest.raises(ValueError, match="Did you mean 'random_episodes'"):
    subsets.by_name('random_episode')
  with pytest.raises(ValueError, match=r'first_n.n must be at least 1'):
    subsets.first_n(SMALL, 1.0, n=0)
  with pytest.raises(ValueError, match='rows must be at least 1'):
    subsets.prefix_rows_per_checkpoint(SMALL, 1.0, rows=0)


def test_what_is_chosen_is_described():
  chosen = subsets.choose('first_n', SMALL, 0.1, 7)
  assert rows(chosen.rows) == [0, 1, 2]
  assert chosen.description | {'selection_sha256': ''} == {
    'subset': 'first_n',
    'fraction': 0.1,
    'subset_seed': 7,
    'dataset_rows': 30,
    'dataset_episodes': 5,
    'selected_rows': 3,
    'realised_fraction': 0.1,
    'selection_sha256': '',
  }
  stored = np.arange(33) % 11 > 0  # Rows 0, 11 and 22 of the store are no rows of the dataset.
  spread = subsets.choose('first_n', SMALL, 12 / 30, 7, stored)
  assert rows(spread.rows) == [*range(1, 11), 12, 13]
  assert spread.description['selected_rows'] == 12


def test_subsets_of_ones_own_are_checked():
  for wrong in (np.ones(3, bool), np.ones(30)):
    with pytest.raises(ValueError, match=r'Subset <lambda> must return \[30\] bool'):
      subsets.choose(lambda *_, wrong=wrong: wrong, SMALL, 1.0, 0)
  with pytest.raises(ValueError, match='takes none of the 30 rows'):
    subsets.choose(lambda *_: np.zeros(30, bool), SMALL, 1.0, 0)
  subsets.check(rows, 7)  # A function may ignore the fraction.
  with pytest.raises(ValueError, match='fraction must lie'):
    subsets.check('first_n', 5)

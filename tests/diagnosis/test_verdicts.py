"""A verdict follows from its numbers, and says which metric it is by."""

import math

import pytest

from implicit_rl.diagnosis import verdicts

# An untrained MinAtar network and its DQN after 3,000,000 updates that diverged.
FRESH = {
  'srank': 107,
  'effective_rank': 40.6,
  'pca_rank': 38,
  'centred_srank': 110,
  'centred_effective_rank': 75.4,
  'centred_pca_rank': 76,
}
DIVERGED = {
  'srank': 111,
  'effective_rank': 15.8,
  'pca_rank': 3,
  'centred_srank': 115,
  'centred_effective_rank': 75.6,
  'centred_pca_rank': 89,
  'sigma_max': 6.7e6,
  'q_mean': 4e6,
  'q_max': 5e6,
  'dormant_units/Dense_0': 0.1,
  'dormant_units': 0.1,
}
NAN = math.nan
UNKNOWN = (-math.inf, math.inf)


def judge(changed=None, fresh=FRESH, bounds=(0, 100), gamma=0.99):
  measured = DIVERGED | (changed or {})
  measured = {name: value for name, value in measured.items() if value is not None}
  found = verdicts.judge(measured, fresh, bounds, gamma)
  assert [one.question for one in found] == ['Rank', 'Plasticity', 'Values']
  for one in found:
    assert set(one.numbers) <= set(measured)
    assert '\n' not in one.answer
  return found


def test_the_diverged_run_lost_raw_rank_and_values_and_kept_its_units():
  rank, plasticity, values = judge()
  assert rank.level == 'warning'
  assert 'Only raw ranks fell (entropy rank 15.8 of 40.6, PCA rank 3 of 38)' in rank.answer
  assert plasticity.level == 'good'
  assert 'at most 10%' in plasticity.answer
  assert values.level == 'bad'
  assert 'cannot exceed 100' in values.answer


HALF = {name: value / 2 for name, value in FRESH.items()}
RANKS = {
  'all fell': (HALF, FRESH, 'bad', 'Collapsed'),
  'none fell': (FRESH, FRESH, 'good', 'No rank is below half'),
  'only centred fell': (
    FRESH | {'centred_pca_rank': 20},
    FRESH,
    'warning',
    'fallen by centred PCA rank 20 of 76; not by srank',
  ),
  'nothing to compare with': (FRESH, {}, 'unknown', 'Give init'),
  'on a line': (FRESH | {'centred_pca_rank': 1}, FRESH, 'bad', 'lie on one line'),
  'dead': (FRESH | {'sigma_max': 0.0, 'centred_pca_rank': 0}, FRESH, 'bad', 'is 0 on every state'),
  'not finite': (dict.fromkeys(FRESH, NAN), FRESH, 'bad', 'not finite'),
  'not measured': (dict.fromkeys(FRESH), FRESH, 'unknown', 'No rank was measured'),
}


@pytest.mark.parametrize('case', RANKS)
def test_rank(case):
  changed, fresh, level, answer = RANKS[case]
  found = judge(changed, fresh)[0]
  assert found.level == level
  assert answer in found.answer


UNITS = {
  'most of a layer': ({'dormant_units/Dense_0': 0.6}, 'bad', '60% of Dense_0'),
  'half': ({'dormant_units/Dense_0': 0.5}, 'good', '50%'),
  'no layer': ({'dormant_units/Dense_0': None, 'dormant_units': 0.7}, 'bad', '70% of the features'),
  'not finite': ({'dormant_units/Dense_0': NAN, 'dormant_units': NAN}, 'unknown', 'finite'),
  'as plastic as new': ({'plasticity_error_ratio': 1.1}, 'good', 'its error is 1.10 times'),
  'learns worse': ({'plasticity_error_ratio': 1.6}, 'warning', 'its error is 1.60 times'),
  'probe not finite': ({'plasticity_error_ratio': NAN}, 'good', 'at most 10%'),
  'not measured': ({'dormant_units/Dense_0': None, 'dormant_units': None}, 'unknown', 'No layer'),
}


@pytest.mark.parametrize('case', UNITS)
def test_plasticity(case):
  changed, level, answer = UNITS[case]
  found = judge(changed)[1]
  assert found.level == level
  assert answer in found.answer


SOUND = {'q_mean': 3.0, 'q_max': 9.0}
VALUES = {
  'possible': (SOUND, (0, 100), 'good', 'within the bound of 100'),
  'too high by a little': (SOUND | {'q_max': 101}, (0, 100), 'warning', 'by a little'),
  'too low': (SOUND | {'q_mean': -500}, (0, 100), 'bad', 'cannot fall below'),
  'bounds unknown': (SOUND, UNKNOWN, 'unknown', 'give reward_range and gamma'),
  'no reward in the data': (SOUND, (0, 0), 'unknown', 'give reward_range'),
  'not finite': ({'q_mean': NAN, 'q_max': NAN}, (0, 100), 'bad', 'not finite'),
  'no values': ({'q_mean': None, 'q_max': None}, (0, 100), 'unknown', 'give q_values'),
  'beside the returns': (SOUND | {'q_data_gap': -2.5}, (0, 100), 'good', '2.5 below the return'),
}


@pytest.mark.parametrize('case', VALUES)
def test_values(case):
  changed, bounds, level, answer = VALUES[case]
  found = judge(changed, bounds=bounds)[2]
  assert found.level == level
  assert answer in found.answer

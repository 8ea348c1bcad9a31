"""rliable's numbers through ours are rliable.library's own on the same scores."""

import numpy as np
import pytest
from rliable import library, metrics

from implicit_rl.analysis import reliable

RNG = np.random.default_rng(3)
MATRICES = {'DQN': RNG.normal(1, 1, (5, 4)), 'DQN + lp': RNG.normal(1.3, 1, (3, 4))}


def test_aggregates_are_rliables():
  ours = reliable.aggregates(MATRICES, reps=300, seed=7)
  together = lambda x: np.array(
    [
      metrics.aggregate_iqm(x),
      metrics.aggregate_median(x),
      metrics.aggregate_mean(x),
      metrics.aggregate_optimality_gap(x),
    ]
  )
  np.random.seed(7)  # noqa: NPY002 - where rliable draws from
  values, intervals = library.get_interval_estimates(MATRICES, together, reps=300)
  for variant in MATRICES:
    part = ours[ours['variant'] == variant]
    np.testing.assert_array_equal(part['value'], values[variant])
    np.testing.assert_array_equal(part[['low', 'high']].T, intervals[variant])
  iqm = ours[(ours['variant'] == 'DQN') & (ours['aggregate'] == 'IQM')]['value'].item()
  middle = np.sort(MATRICES['DQN'].ravel())[5:15]
  assert iqm == pytest.approx(middle.mean())


def test_the_probability_of_improvement_is_rliables_and_the_share_of_won_pairs():
  ours = reliable.improvement(MATRICES, [('DQN', 'DQN + lp')], reps=200, seed=7)
  np.random.seed(7)  # noqa: NPY002
  values, intervals = library.get_interval_estimates(
    {'x': [MATRICES['DQN + lp'], MATRICES['DQN']]}, metrics.probability_of_improvement, reps=200
  )
  assert ours['value'].item() == values['x']
  assert ours[['low', 'high']].values.ravel().tolist() == intervals['x'].ravel().tolist()
  won = [np.mean(MATRICES['DQN + lp'][:, None, j] > MATRICES['DQN'][None, :, j]) for j in range(4)]
  assert ours['value'].item() == pytest.approx(np.mean(won))
  with pytest.raises(ValueError, match="unknown variant 'CQL'"):
    reliable.improvement(MATRICES, [('DQN', 'CQL')])


def test_profiles_are_rliables_and_the_share_above():
  thresholds = np.linspace(-1, 3, 7)
  ours = reliable.profiles(MATRICES, thresholds, reps=100, seed=7)
  np.random.seed(7)  # noqa: NPY002
  values, intervals = library.create_performance_profile(MATRICES, thresholds, reps=100)
  for variant, scores in MATRICES.items():
    part = ours[ours['variant'] == variant]
    np.testing.assert_array_equal(part['value'], values[variant])
    np.testing.assert_array_equal(part[['low', 'high']].T, intervals[variant])
    np.testing.assert_allclose(part['value'], (scores.ravel()[:, None] > thresholds).mean(0))


def test_the_same_seed_gives_the_same_interval_and_leaves_numpys_generator_alone():
  np.random.seed(1)  # noqa: NPY002
  first = reliable.aggregates(MATRICES, reps=50)
  drawn = np.random.random()  # noqa: NPY002
  assert first.equals(reliable.aggregates(MATRICES, reps=50))
  np.random.seed(1)  # noqa: NPY002
  assert drawn == np.random.random()  # noqa: NPY002

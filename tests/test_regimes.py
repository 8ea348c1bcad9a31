"""Every regime and control trains, and a criterion says what SciPy's standard errors say."""

import gin
import jax
import numpy as np
import pytest
from scipy import stats

from implicit_rl import environments, regimes
from implicit_rl.compat import gin_names
from implicit_rl.running import experiment
from tests.command_line import MINATAR_REPLAY, ONLINE, ROOT, run

VARIANTS = [(regime, control) for regime in regimes.REGIMES for control in (None, *regime.controls)]
PRIMING = 'Agent.priming_updates'
SMALL = ('Agent.batch_size = 4', 'OfflineRunner.num_seeds = 1')


def test_every_file_belongs_to_a_regime():
  named = {file for regime, control in VARIANTS for file in regime.gin_files(control)}
  there = {str(path.relative_to(ROOT)) for path in ROOT.glob('gin_configs/regimes/*.gin')}
  assert there == named


def test_names_are_unique_and_criteria_complete():
  names = [regime.name for regime in regimes.REGIMES]
  assert len(names) == len(set(names))
  for regime in regimes.REGIMES:
    assert regime.direction in ('above', 'below') and regime.controls and regime.meaning
    assert regimes.find(regime.name) is regime


@pytest.mark.parametrize(
  ('regime', 'control'), VARIANTS, ids=['-'.join(filter(None, (r.name, c))) for r, c in VARIANTS]
)
def test_a_regime_trains(regime, control, tmp_path):
  """As the runner builds it, for a few updates, all finite; offline without an evaluation."""
  files = [str(ROOT / file) for file in regime.gin_files(control)]
  only_game_embedded = ["GAME = 'Breakout'"] * regime.name.startswith('minatar_long')
  experiment.parse_gin(files, [*SMALL, *only_game_embedded])
  assert ('OnlineRunner' in str(gin.query_parameter('Experiment.runner'))) == regime.online
  if regime.online:
    few = {'Agent.priming_updates': 2} if gin_names.settings().get(PRIMING) else {}
    (row,) = run(tmp_path, *regime.gin_files(control), **ONLINE, **MINATAR_REPLAY, **few)
    assert row['updates'] >= 2 and np.isfinite(row['Losses/TD'])
    assert ('NetworkReset/Done' in row) == ('NetworkReset.period' in gin_names.settings())
    return
  environment = environments.make(
    gin.query_parameter('Experiment.environment').configurable.wrapper, 0
  )
  environments.check(environment)
  agent = experiment.make_agent(
    gin.query_parameter('Experiment.agent').configurable.wrapper, environment, 0
  )
  metrics = agent.train(2)
  assert metrics['Gradient/Norm'] > 0 and all(map(np.isfinite, metrics.values()))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(agent.state.params))


@pytest.mark.parametrize('direction', ['above', 'below'])
def test_a_criterion_holds_beyond_two_standard_errors(direction):
  regime = regimes.Regime('one', 'One', 'srank', direction, ('other',), 'It means something.')
  rng = np.random.default_rng(0)
  values, control = rng.normal(size=5), rng.normal(size=5)
  for shift in (-3.0, -0.5, 0.0, 0.5, 3.0):
    verdict = regimes.judge(regime, values + shift, control)
    welch = stats.ttest_ind(values + shift, control, equal_var=False).statistic
    assert verdict.difference / verdict.error == pytest.approx(welch)
    assert verdict.happened == (welch > 2 if direction == 'above' else welch < -2)


def test_what_can_not_be_judged_is_refused():
  regime = regimes.REGIMES[0]
  with pytest.raises(ValueError, match='needs two seeds with finite values'):
    regimes.judge(regime, [1.0, np.nan], [1.0, 2.0])
  with pytest.raises(ValueError, match='has the controls'):
    regime.gin_files('nothing')
  with pytest.raises(ValueError, match='there are gridworld_small_data'):
    regimes.find('nothing')

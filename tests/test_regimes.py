"""Every regime and control trains, and a criterion says what SciPy's standard errors say."""

import gin
import jax
import numpy as np
import pandas as pd
import pytest
import regimes as script  # experiments/regimes.py
from scipy import stats

from implicit_rl import environments, regimes
from implicit_rl.compat import gin_names
from implicit_rl.running import experiment, parallel_runs
from tests.cases import cases
from tests.command_line import MINATAR_REPLAY, OFFLINE, ONLINE, ROOT, run

VARIANTS = [(regime, control) for regime in regimes.REGIMES for control in (None, *regime.controls)]
NOT_EMBEDDED = ('minatar_long_space_invaders', 'minatar_long_asterix')
TRAINED = [pair for pair in VARIANTS if pair[0].name not in NOT_EMBEDDED]
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


@pytest.mark.parametrize('game', ['SpaceInvaders', 'Asterix'])
def test_a_game_that_is_not_embedded_is_another_breakout(game):
  name = {'SpaceInvaders': 'space_invaders'}.get(game, game.lower())
  both = [regimes.find(f'minatar_long_{one}') for one in ('breakout', name)]
  for control in (None, 'monte_carlo'):
    bound = []
    for regime in both:
      experiment.parse_gin([str(ROOT / file) for file in regime.gin_files(control)], [])
      bound.append(gin_names.settings())
    assert bound[0] == bound[1] | {'GAME': "'Breakout'"} and bound[1]['GAME'] == repr(game)


def test_gin_reads_every_regime_and_control():
  for regime, control in VARIANTS:
    experiment.parse_gin([str(ROOT / file) for file in regime.gin_files(control)], SMALL)
    assert ('OnlineRunner' in str(gin.query_parameter('Experiment.runner'))) == regime.online


@pytest.mark.parametrize(
  ('regime', 'control'),
  cases(TRAINED, lambda regime, control: control is None and not regime.online),
  ids=['-'.join(filter(None, (r.name, c))) for r, c in TRAINED],
)
def test_a_regime_trains(regime, control, tmp_path):
  """As the runner builds it, for a few updates, all finite; offline without an evaluation."""
  files = [str(ROOT / file) for file in regime.gin_files(control)]
  experiment.parse_gin(files, SMALL)
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


def rows_of(regime, **by_control):
  """Rows as the script keeps them: two iterations, the last with the given values of each seed."""
  lines = [
    dict.fromkeys(script.KEPT, value if at else np.nan)
    | {'regime': regime.name, 'control': control, 'seed': seed, 'iteration': at, 'updates': 9 + at}
    for control, values in by_control.items()
    for seed, value in enumerate(values)
    for at in (1, 0)  # In any order.
  ]
  return pd.DataFrame(lines)


def test_tables_say_what_the_rows_say():
  regime = regimes.find('cartpole')
  rows = rows_of(regime, **{script.ITSELF: [1.0, 2.0, 3.0], 'clipped': [7.0, 8.0, 9.0]})
  line, *_ = (line for line in script.verdict_table(rows).splitlines() if 'cartpole' in line)
  assert '| 2.00 ± 1.00 | 8.00 ± 1.00 | -7.3 | yes |' in line  # −6 / √(1/3 + 1/3)
  others = [line for line in script.verdict_table(rows).splitlines()[2:] if 'cartpole' not in line]
  assert len(others) == len(regimes.REGIMES) - 1
  assert all(line.endswith('| not run yet |') for line in others)
  *_, first, second = script.values_table(rows, regime).splitlines()
  assert first.startswith('| regime | 10 | 2 ± 1 | 2.0 ± 1.0 |')
  assert second.startswith('| clipped | 10 | 8 ± 1 | 8.0 ± 1.0 |')
  rows['control'] = rows['control'].replace({'clipped': 'fqe'})
  assert 'yes' not in script.verdict_table(rows)  # Another control does not judge.


@pytest.mark.slow
@pytest.mark.exhaustive
def test_runs_become_rows(tmp_path, monkeypatch):
  """A regime offline and one online, both real and small, two seeds each."""
  chosen = regimes.find('deep_sea'), regimes.find('heavy_priming')
  monkeypatch.setattr(regimes, 'REGIMES', chosen)
  monkeypatch.setattr(regimes, 'SEEDS', range(1, 3))
  monkeypatch.setattr(script, 'iterations', lambda files, online: 1)
  settings = OFFLINE | ONLINE | MINATAR_REPLAY | {PRIMING: 3}
  small = tuple(f'{name} = {value}' for name, value in settings.items() if 'CNN' not in name)
  for job in (job for one in chosen for job in script.jobs(one, None, tmp_path)):
    parallel_runs.run(job._replace(bindings=job.bindings + small))
    assert job.finished
  rows = script.collect(tmp_path)
  assert list(rows['regime']) == ['deep_sea'] * 2 + ['heavy_priming'] * 2
  assert list(rows['seed']) == [1, 2, 1, 2] and set(rows['control']) == {script.ITSELF}
  assert list(rows['updates']) == [2, 2, 7, 7]  # n = 0.5 for 8 steps, and the priming.
  assert rows[['srank', 'centred_effective_rank', 'td_error']].notna().all(axis=None)


def test_new_rows_replace_those_of_the_same_runs_and_the_rest_stays():
  row = lambda regime, control, srank: {'regime': regime, 'control': control, 'srank': srank}
  kept = [row('catch', 'fqe', 1), row('catch', 'fqe', 2), row('cartpole', 'clipped', 3)]
  new = [row('deep_sea', 'fqe', 4), row('catch', 'fqe', 5)]
  rows = script.merged(pd.DataFrame(kept), pd.DataFrame(new))
  assert rows.to_dict('records') == [kept[2], new[1], new[0]]


def test_what_is_judged_runs_first():
  chosen = [regimes.find(name) for name in ('cartpole', 'random_targets')]
  names = [(regime.name, control) for regime, control in script.order(chosen)]
  assert names == [
    ('cartpole', None),
    ('cartpole', 'clipped'),
    ('random_targets', None),
    ('random_targets', 'fresh'),
    ('cartpole', 'fqe'),
    ('cartpole', 'monte_carlo'),
  ]


def test_the_page_shows_the_tables_of_the_kept_rows():
  page = (ROOT / 'docs/regimes/index.md').read_text()
  rows = pd.read_csv(ROOT / 'docs/results/regimes/rows.csv')
  assert script.verdict_table(rows) in page
  for regime in regimes.REGIMES:
    section = page.split(f'## {regime.title}\n')[1].split('\n## ')[0]
    assert f'gin_configs/regimes/{regime.name}.gin' in section
    assert all(f'`{control}`' in section for control in regime.controls)
    assert script.values_table(rows, regime) in section


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    (
      'breakout',
      'Both start with the same entropy rank, {dqn[0]:.0f} and {mc[0]:.0f} after 24,000 updates. '
      "DQN's falls from {dqn[1]:.0f} to {dqn[12]:.0f}",
    ),
    ('asterix', 'from {dqn[0]:.0f} after 24,000 updates to {dqn[12]:.0f}'),
    ('asterix', 'stays at {mc[0]:.0f} to {mc[12]:.0f} with Monte Carlo targets'),
  ],
)
def test_the_page_tells_how_ranks_change_over_400_epochs_as_the_rows_do(name, sentence):
  page = ' '.join((ROOT / 'docs/regimes/index.md').read_text().split())
  rows = pd.read_csv(ROOT / 'docs/results/regimes/rows.csv')
  regime = regimes.find(f'minatar_long_{name}')
  dqn, mc = (
    script.part(rows, regime, control).groupby('iteration')['effective_rank'].mean()
    for control in (None, 'monte_carlo')
  )
  assert sentence.format(dqn=dqn, mc=mc) in page

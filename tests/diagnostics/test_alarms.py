"""Alarms: each against numbers by hand, and in runs of the real entry point."""

import json
import math

import numpy as np
import pytest

from implicit_rl.analysis import findings, runs
from implicit_rl.diagnostics import alarms
from implicit_rl.logs import jsonl
from implicit_rl.running import experiment
from tests.command_line import OFFLINE, ROOT, launch, refusal

INF = math.inf
# Rewards of the embedded Breakout are 0 and 1: with γ = 0.1 no value exceeds 1.11.
DIVERGING = OFFLINE | {
  'OfflineRunner.training_steps': 20,
  'OfflineRunner.num_iterations': 2,
  'OfflineRunner.evaluation_steps': 0,
  'MinAtarCNN.hidden_units': 16,
  'Agent.gamma': 0.1,
  'Learner.target_update_period': 1,
  'optax.adam.learning_rate': 0.3,
  'MinAtarCNN.activation': "'linear'",
}
GIN_FILE = 'gin_configs/minatar/offline_dqn.gin'


@pytest.mark.parametrize(
  ('q_max', 'q_mean', 'bounds', 'rings'),
  [
    (100.0, 50.0, (0.0, 100.0), False),
    (109.9, 50.0, (0.0, 100.0), False),  # Within the margin.
    (110.1, 50.0, (0.0, 100.0), True),
    (math.nan, math.nan, (0.0, 100.0), True),
    (1.0, -99.0, (0.0, 100.0), False),
    (1.0, -101.0, (0.0, 100.0), True),
    (9.0, 0.0, (-100.0, 0.0), False),
    (11.0, 0.0, (-100.0, 0.0), True),
    (111.0, 0.0, (-INF, 100.0), True),
    (9.0, -1e9, (-INF, 100.0), False),
    (1e9, 1e9, (-INF, INF), False),
    (1e9, 1e9, (0.0, 0.0), False),  # Data without a reward says nothing.
  ],
)
def test_values(q_max, q_mean, bounds, rings):
  assert (alarms.values(q_max, q_mean, bounds, 0.99) is not None) == rings


def test_the_line_on_values_says_what_is_allowed():
  assert alarms.values(1190.2, 800, (0, 100), 0.99) == (
    'Q is 1,190; with rewards of at most 1 and γ = 0.99 it cannot exceed 100: values diverge '
    '(docs/metrics.md).'
  )
  assert alarms.values(0, -400, (-100, 100), 0.99) == (
    'mean Q is -400; with rewards of at least -1 and γ = 0.99 it cannot fall below -100: values '
    'diverge (docs/metrics.md).'
  )


def test_units_and_spectrum():
  told = alarms.dormant_units({'Conv_0': 0.2, 'Dense_0': 0.75})
  assert told.startswith('most units of a layer are dormant: 75% of Dense_0')
  assert alarms.dormant_units({'Conv_0': 0.5, 'Dense_0': math.nan}) is None
  # What a small network begins with is nothing that training did.
  start = {'Dense_0': 0.6}
  assert alarms.dormant_units({'Dense_0': 0.75}, start=start) is None
  told = alarms.dormant_units({'Dense_0': 0.85}, start=start)
  assert '85% of Dense_0 (60% at the start)' in told
  assert alarms.dormant_units({'Dense_0': 1.0}, start={'Dense_0': 1.0})
  assert alarms.one_direction(1.0) and alarms.one_direction(0.0)
  assert alarms.one_direction(2.0) is None and alarms.one_direction(math.nan) is None


def test_what_is_measured_decides_which_alarms_ring():
  sound = {'q_max': 1.0, 'q_mean': 0.0, 'dormant_units': 0.1, 'centred_pca_rank': 9.0}
  check = lambda some, **more: list(
    alarms.Alarms(**more).check({**sound, **some}, (0.0, 100.0), 0.99)
  )
  assert check({}) == []
  bad = {'q_max': 200.0, 'dormant_units/Dense_0': 0.6, 'centred_pca_rank': 1.0}
  assert check(bad) == list(alarms.NAMES)
  assert check(bad, values=None, dormant_units=None, one_direction=False) == []
  assert check({'dormant_units/Dense_0': 0.6, 'dormant_at_start/Dense_0': 0.6}) == []
  assert check({'dormant_units': 0.6}) == ['dormant_units']  # Of a network without named layers.
  assert alarms.Alarms().check({}, (0.0, 100.0), 0.99) == {}


@pytest.mark.parametrize(
  ('setting', 'value', 'line'),
  [
    ('values', -1, 'Alarms.values must be at least 0 or None, got -1.'),
    ('dormant_units', 2, r'Alarms.dormant_units must lie in \[0, 1\], got 2.'),
    ('stop', ('value',), r"Alarms.stop must be a tuple of names from .*, got \('value',\)."),
    ('stop', 'values', "Alarms.stop must be a tuple of names from .*, got 'values'."),
  ],
)
def test_bad_settings_are_refused(setting, value, line):
  with pytest.raises(ValueError, match=line):
    alarms.Alarms(**{setting: value})


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_alarm_is_told_once_also_of_a_run_that_goes_on(tmp_path, capsys):
  first, line = tmp_path / 'first', 'alarm values: Q is'
  launch(first, GIN_FILE, **DIVERGING)
  rows = jsonl.read(first / 'metrics.jsonl')
  assert [row['alarms'] for row in rows] == [['values']] * 2
  assert rows[0]['q_max'] > 1.3
  told = capsys.readouterr()
  assert (told.out + told.err).count(line) == 1
  assert 'γ = 0.1 it cannot exceed 1.111' in told.out + told.err
  launch(first, GIN_FILE, **DIVERGING | {'OfflineRunner.num_iterations': 3})
  told = capsys.readouterr()
  assert line not in told.out + told.err
  assert jsonl.read(first / 'metrics.jsonl')[-1]['alarms'] == ['values']
  # Readers of the log count alarms where they need a number.
  run = runs.read(first)
  assert list(runs.frame({'a': [run]})['alarms']) == [1, 1, 1]
  assert list(runs.load([first])['alarms']) == [1, 1, 1]
  texts = [finding.text for finding in findings.look(run)]
  assert 'alarm values in 3 iterations, first in 0' in texts


@pytest.mark.slow
def test_a_run_ends_by_an_alarm_only_if_gin_says_so(tmp_path, capsys):
  stopping = {'Alarms.stop': ('values',)}
  launch(tmp_path / 'run', GIN_FILE, **DIVERGING, **stopping)
  assert len(jsonl.read(tmp_path / 'run' / 'metrics.jsonl')) == 1
  assert 'Stopped before iteration 2 by Alarms.stop: values.' in capsys.readouterr().out
  launch(tmp_path / 'run', GIN_FILE, **DIVERGING, **stopping)  # It stays stopped.
  assert len(jsonl.read(tmp_path / 'run' / 'metrics.jsonl')) == 1
  launch(tmp_path / 'run', GIN_FILE, **DIVERGING)
  assert len(jsonl.read(tmp_path / 'run' / 'metrics.jsonl')) == 2
  message = refusal(tmp_path / 'bad', GIN_FILE, **{'Alarms.stop': "'values'"})
  assert 'Alarms.stop must be a tuple' in message


@pytest.mark.slow
@pytest.mark.parametrize(
  'target',
  [
    'bootstrap',
    'tabular',
    pytest.param('policy', marks=pytest.mark.exhaustive),
    pytest.param('monte_carlo', marks=pytest.mark.exhaustive),
  ],
)
def test_the_gridworld(target, tmp_path, capsys):
  """500 transitions, Adam 1e-3 and T = 10, where bootstrapped values diverge; or a table."""
  tabular = {'target': "'bootstrap'", 'observation': "'one_hot'", 'data_size': 10_000}
  tabular |= {'steps': 200, 'iterations': 20, 'log_every': 5}  # Steps as shipped.
  settings = {
    'target': repr(target),
    'data_size': 500,
    'steps': 10,
    'iterations': 120,
    'log_every': 20,
    'learning_rate': 1e-3,
  } | (tabular if target == 'tabular' else {})
  bindings = [f'FittedQConfig.{name} = {value}' for name, value in settings.items()]
  experiment.parse_gin([str(ROOT / 'gin_configs/gridworld/offline_fqi.gin')], bindings)
  experiment.create_runner(str(tmp_path), seed=0).run_experiment()
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  told = capsys.readouterr().out.count('alarm values')
  if target != 'bootstrap':
    assert all(row['alarms'] == [] for row in rows) and told == 0
    return
  at = next(i for i, row in enumerate(rows) if row['alarms'])
  most = rows[at - 1]['q_max'] / 1.1
  assert told == 1 and all(row['alarms'] == ['values'] for row in rows[at:])
  assert most < 23.3 < rows[at]['q_max'] < 2 * 23.2  # Rewards and entropy allow 23.2.
  assert np.isfinite(rows[-1]['q_max'])

"""Scores, their normalisation and the improvement bars: by hand, and the file's own bounds."""

import numpy as np
import pytest

from implicit_rl.analysis import bars, runs, scores, tables
from implicit_rl.environments import atari_games

ROWS = """variant,suite,game,seed,iteration,eval_return
DQN,atari,Pong,0,0,-20.7
DQN,atari,Pong,0,1,10
DQN,atari,Pong,0,2,-20
DQN,atari,Pong,0,3,0
DQN + lp,atari,Pong,0,0,14.6
DQN,atari,Qbert,0,0,1163.9
DQN,atari,Qbert,0,1,163.9
DQN + lp,atari,Qbert,0,0,663.9
DQN + lp,atari,Qbert,0,1,
"""


@pytest.fixture(name='table')
def table_by_hand(tmp_path):
  (tmp_path / 'rows.csv').write_text(ROWS)
  return runs.load([tmp_path / 'rows.csv'])


def test_best_and_last_by_hand(table):
  found = scores.per_run(table, last=2)
  assert found[['variant', 'game', 'evaluations', 'best', 'last']].values.tolist() == [
    ['DQN', 'Pong', 4, 10, -10],
    ['DQN', 'Qbert', 2, 1163.9, (1163.9 + 163.9) / 2],
    ['DQN + lp', 'Pong', 1, 14.6, 14.6],
    ['DQN + lp', 'Qbert', 1, 663.9, 663.9],
  ]


def test_random_play_is_0_and_a_human_1(table):
  found = scores.normalise(scores.per_run(table, last=4), 'human').set_index(['variant', 'game'])
  assert found.loc[('DQN + lp', 'Pong'), 'best'] == 1
  human = (1163.9 - 163.9) / (13455.0 - 163.9)
  assert found.loc[('DQN', 'Qbert'), 'best'] == pytest.approx(human)
  assert found.loc[('DQN', 'Qbert'), 'last'] == pytest.approx(human / 2)


def test_a_reference_that_is_missing_is_named(table):
  with pytest.raises(ValueError, match='there is no human score of AirRaid'):
    scores.normalise(scores.per_run(table.replace('Qbert', 'AirRaid')), 'human')
  with pytest.raises(ValueError, match=r'there is no dqn score of Pong \(minatar\)'):
    scores.normalise(scores.per_run(table.replace('atari', 'minatar')), 'dqn')
  with pytest.raises(ValueError, match='in Asteroids dqn is no better than random'):
    scores.normalise(scores.per_run(table.replace('Qbert', 'Asteroids')), 'dqn')
  with pytest.raises(ValueError, match='was it evaluated'):
    scores.per_run(table.assign(eval_return=np.nan))
  with pytest.raises(ValueError, match='--last must be at least 1'):
    scores.per_run(table, last=0)


def test_the_reference_file_has_the_60_games_and_sane_numbers():
  known = scores.references()
  assert len(known) == 60 and known.index.is_unique
  assert set(known.index) <= set(atari_games.games())
  assert not known[['random', 'dqn']].isna().any().any()
  without = ['AirRaid', 'Carnival', 'ElevatorAction', 'JourneyEscape', 'Pooyan']
  assert known.index[known['human'].isna()].tolist() == without
  assert (known['human'].dropna() > known['random'][known['human'].notna()]).all()
  # From Mnih et al. (2015), extended data table 2, a source that the file does not name.
  assert known.loc['Breakout', ['random', 'human']].tolist() == [1.7, 30.5]
  assert known.loc['Pong', 'random'] == -20.7


def test_scores_need_the_same_number_of_runs_of_each_game(table):
  found = scores.per_run(table)
  assert {name: value.shape for name, value in scores.matrix(found, 'best').items()} == {
    'DQN': (1, 2),
    'DQN + lp': (1, 2),
  }
  with pytest.raises(ValueError, match=r'DQN \+ lp must have as many runs.*Pong 0, Qbert 1'):
    scores.matrix(found[(found['variant'] == 'DQN') | (found['game'] == 'Qbert')], 'best')


def test_the_improvement_by_hand(table):
  data = bars.improvement(scores.per_run(table, last=2), 'DQN', 'DQN + lp').set_index('game')
  # Pong: best 10 to 14.6 above -20.7; last -10 to 14.6. Qbert: 1000 above random to 500.
  assert data.loc['Pong', 'best_percent'] == pytest.approx(100 * 4.6 / 30.7)
  assert data.loc['Pong', 'last_percent'] == pytest.approx(100 * 24.6 / 10.7)
  assert data.loc['Qbert', 'best_percent'] == pytest.approx(-50)
  assert data.loc['Qbert', 'last_percent'] == pytest.approx(0)


def test_outside_atari_random_play_counts_as_0(table):
  per_run = scores.per_run(table.replace('atari', 'minatar'), last=2)
  data = bars.improvement(per_run, 'DQN', 'DQN + lp').set_index('game')
  assert data.loc['Pong', 'best_percent'] == pytest.approx(46)


def test_pairs_are_found_by_their_names():
  names = ['DQN', 'CQL', 'DQN + lp', 'CQL + lp', 'Rainbow']
  assert bars.pairs(names) == [('DQN', 'DQN + lp'), ('CQL', 'CQL + lp')]
  with pytest.raises(ValueError, match='No variant of DQN, CQL extends another one'):
    bars.pairs(['DQN', 'CQL'])


def test_latex_is_escaped_and_aligned(table):
  words = tables.score_words(scores.by_game(scores.per_run(table, 2)), 2)
  lines = tables.latex(words.assign(variant='a_b & 5%'), 'α').splitlines()
  assert r'\begin{tabular}{llrrr}' in lines
  assert r'a\_b \& 5\% & Pong & 1 & 10.0 & -10.0 \\' in lines
  assert r'\caption{$\alpha$}' in lines

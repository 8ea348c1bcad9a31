"""Names of variants from gin settings, and from the command line."""

import pytest

from implicit_rl.analysis import variants

DQN = {'Experiment.agent': '@dqn.DQNAgent', 'TFDSReplay.fraction': '0.05', 'TFDSReplay.run': '1'}
LP = {'Learner.penalty': '@rank.lp_penalty', 'Learner.penalty_weight': '0.001'}
CQL = {'Experiment.agent': '@cql.CQLAgent', 'TFDSReplay.fraction': '0.05', 'CQLAgent.weight': '1.0'}


def names(*settings):
  return variants.names(settings, ['x'] * len(settings))


def test_runs_that_differ_in_seed_game_or_length_alone_share_a_name():
  other = DQN | {'TFDSReplay.run': '2', 'GAME': "'Pong'", 'OfflineRunner.num_iterations': '7'}
  assert names(DQN, other) == ['DQN', 'DQN']


def test_penalty_and_settings_are_named():
  assert names(DQN, DQN | LP) == ['DQN', 'DQN + lp_penalty 0.001']
  assert names(DQN | LP | {'Learner.penalty_weight': '0.0'}) == ['DQN']
  large = {'TFDSReplay.fraction': '0.2'}
  assert names(DQN, DQN | large, DQN | LP) == [
    'DQN, fraction=0.05',
    'DQN, fraction=0.2',
    'DQN + lp_penalty 0.001, fraction=0.05',
  ]


def test_what_goes_with_the_agent_is_not_repeated():
  assert names(DQN, CQL) == ['DQN', 'CQL']


def test_equal_last_parts_are_told_apart():
  one = DQN | {'adam.eps': '1', 'rmsprop.eps': '2'}
  two = DQN | {'adam.eps': '3', 'rmsprop.eps': '4'}
  assert names(one, two) == ['DQN, adam.eps=1, rmsprop.eps=2', 'DQN, adam.eps=3, rmsprop.eps=4']


def test_a_run_without_a_record_is_named_by_its_directory():
  paths = ['runs/my_dqn/seed_0', 'runs/my_dqn/run_12', 'runs/my_dqn/3']
  assert variants.names([{}] * 3, paths) == ['my_dqn'] * 3


def test_names_from_the_command_line(tmp_path):
  for name in ('a_1', 'a_2', 'b_1'):
    (tmp_path / name).mkdir()
  assert variants.parse([f'A=B={tmp_path}/a_*', f'C={tmp_path}/b_*'][1:]) == {
    'C': [f'{tmp_path}/b_1']
  }
  assert variants.parse([f'A={tmp_path}/a_*', f'A={tmp_path}/b_1']) == {
    'A': [f'{tmp_path}/a_1', f'{tmp_path}/a_2', f'{tmp_path}/b_1']
  }
  assert variants.parse(['x', 'y']) == ['x', 'y']
  with pytest.raises(ValueError, match='no such file or directory'):
    variants.parse(['A=nowhere/*'])
  with pytest.raises(ValueError, match='x has no name while A=y has'):
    variants.parse(['A=y', 'x'])


def test_a_setting_that_gin_did_not_note_tells_nothing():
  assert names(DQN | {'QHead.dueling': 'False'}, DQN) == ['DQN', 'DQN']

"""The real entry point on small input: every gin file, resume, a user's own agent, wrong input."""

import json
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import gin
import jax
import numpy as np
import pytest
from absl import flags

import run_experiment
from implicit_rl.logs import checkpoints, jsonl, progress_bars
from implicit_rl.running import experiment
from tests.cases import cases
from tests.command_line import ROOT, refusal, run, strip_speed

ATARI = 'gin_configs/atari/offline_dqn.gin'
MINATAR = 'gin_configs/minatar/offline_dqn.gin'
PENALTY = 'gin_configs/penalties/lp.gin'
GIN_FILES = sorted(
  str(path.relative_to(ROOT))
  for kind in ('atari', 'minatar', 'mujoco')
  for path in (ROOT / 'gin_configs' / kind).glob('*.gin')
)


def test_every_gin_file_is_read():
  for gin_file in GIN_FILES:
    experiment.parse_gin([str(ROOT / gin_file), str(ROOT / PENALTY)], [])
    agent = gin.query_parameter('Experiment.agent').configurable.wrapper.__name__
    name = pathlib.Path(gin_file).stem.partition('_')[2].replace('_', '')
    assert agent.lower().removeprefix('continuous') == f'{name}agent'


# Others train in other tests.
RUN = [
  f'gin_configs/{name}.gin'
  for name in (
    'minatar/offline_fqe',
    'atari/offline_c51',
  )
]


@pytest.mark.slow
@pytest.mark.parametrize('gin_file', cases(((path,) for path in GIN_FILES), RUN.__contains__))
def test_every_gin_file_runs(gin_file, tmp_path, hopper_replay, capsys):
  data = {'VectorReplay.path': repr(str(hopper_replay))} if 'mujoco/offline' in gin_file else {}
  (row,) = run(tmp_path, gin_file, PENALTY, **data)
  unread = re.findall(r'never reads: (.*)\.\n', capsys.readouterr().err)
  assert set(unread) <= {'NatureCNN.hidden_units'}, 'only what this test binds of another network'
  assert list(row)[:9] == [
    'iteration',
    'updates',
    'srank',
    'sigma_max',
    'sigma_min',
    'td_error',
    'q_mean',
    'eval_return',
    'updates_per_second',
  ]
  assert row['updates'] == 2 and row['iteration'] == 0
  assert 1 <= row['srank'] <= 16
  assert row['sigma_max'] > row['sigma_min'] >= 0
  assert np.isfinite(row['eval_return']) and row['eval_episodes'] >= 1
  own = [name for name in row if name.startswith('Losses/')]
  own = [name for name in own if name not in ('Losses/Total', 'Losses/Penalty')]
  assert own and row['Losses/Total'] > sum(row[name] for name in own)
  assert row['Losses/Penalty'] > 0 and max(row[name] for name in own) > 0
  if 'fqe' in gin_file or 'monte_carlo' in gin_file:
    assert row['alarms'] == []


MIX_INS = {
  'networks/nature_valid.gin': {'padding': 'VALID'},
  'networks/wide.gin': {'hidden_units': 2048},
  **{f'networks/{name}.gin': {'activation': name} for name in ('crelu', 'fourier', 'hadamard')},
  **{f'networks/{name}.gin': {'activation': name} for name in ('tanh', 'gelu')},
  'normalisation/feature_norm.gin': {'feature_norm': True},
  'normalisation/spectral_norm.gin': {'spectral_norm': 5},
  'normalisation/rms_norm.gin': {'layer_norm': 'rms'},
  'normalisation/layer_norm.gin': {'layer_norm': True},
}


@pytest.mark.exhaustive
def test_mix_ins_change_the_network_they_say(tmp_path):
  """All at once in a run; one by one in the network that gin then builds."""
  paths = {f'gin_configs/{name}': changed for name, changed in MIX_INS.items()}
  small, *others = (f'gin_configs/networks/{name}.gin' for name in ('small', 'simba', 'soft_moe'))
  there = {str(p.relative_to(ROOT)) for p in ROOT.glob('gin_configs/n*/*.gin')}
  assert there == {*paths, small, *others}
  run(tmp_path, MINATAR, *paths)
  learner = checkpoints.load_newest(tmp_path / 'checkpoints')[1]['agent']['learner']
  params = learner['params']['params']
  assert params['Dense_0']['kernel'].shape[1] == 512 and 'LayerNorm_1' in params
  for path, changed in paths.items():
    experiment.parse_gin([str(ROOT / ATARI), str(ROOT / path)], [])
    network = gin.get_configurable('networks.NatureCNN')(num_actions=4)
    assert {name: getattr(network, name) for name in changed} == changed
  experiment.parse_gin([str(ROOT / ATARI), str(ROOT / small)], [])
  assert 'SmallCNN' in repr(gin.query_parameter('Agent.network'))


def test_a_run_leaves_its_record(tmp_path):
  run(tmp_path, MINATAR, PENALTY, seed=3)
  (record,) = json.loads((tmp_path / 'run.json').read_text())['starts']
  assert record['seed'] == 3
  assert record['agent'] == 'DQNAgent'
  assert record['dataset']['dataset'] == 'minatar_checkpoints_ordered/Breakout_run_1'
  assert record['versions']['jax'] == jax.__version__
  assert 'Learner.penalty_weight = 0.001' in (tmp_path / 'operative_config.gin').read_text()
  with open(tmp_path / 'logs' / 'log_0', 'rb') as file:
    logs = pickle.load(file)  # Dopamine's own format, as its plotting code reads it.
  assert logs['iteration_0']['eval_average_return']
  assert logs['iteration_0']['srank']
  (spectrum,) = jsonl.read(tmp_path / 'spectra.jsonl')
  assert len(spectrum['singular_values']) == 16
  assert list((tmp_path / 'metrics' / 'tensorboard').iterdir())


@pytest.mark.parametrize('gin_file', [path for path in GIN_FILES if '/atari/online' in path])
def test_the_shipped_online_settings_are_the_papers(gin_file):
  """Table B.1, with the optimisers that the agents were published with."""
  expected = {
    'OnlineReplay.capacity': 1_000_000,
    'Agent.gamma': 0.99,
    'Agent.batch_size': 32,
    'Agent.min_replay_history': 20_000,
    'Agent.epsilon_train': 0.01,
    'Agent.epsilon_eval': 0.001,
    'Agent.epsilon_decay_period': 250_000,
    'Agent.update_horizon': 1,
    'AtariEnvironment.sticky_actions': True,
    'Learner.target_update_period': 2000,
    'optax.adam.learning_rate': 0.00005,
    'optax.adam.eps': 0.01 / 32,
    'OnlineRunner.num_iterations': 200,
    'OnlineRunner.training_steps': 250_000,
    'OnlineRunner.evaluation_steps': 125_000,
    'OnlineRunner.updates_per_step': 1 / 4,
    'OnlineRunner.measure_size': 2048,
  }
  if 'rainbow' in gin_file:  # Dopamine's Rainbow.
    expected |= {'Agent.update_horizon': 3, 'optax.adam.eps': 0.00015}
    expected['optax.adam.learning_rate'] = 0.0000625
  if 'c51' in gin_file:  # Bellemare et al. (2017).
    expected['optax.adam.learning_rate'] = 0.00025
  experiment.parse_gin([str(ROOT / gin_file)], [])
  assert {name: gin.query_parameter(name) for name in expected} == expected


@pytest.mark.parametrize('gin_file', [path for path in GIN_FILES if '/atari/offline' in path])
def test_the_shipped_settings_are_the_papers(gin_file):
  """Without bindings the Atari files hold Appendix B.1 and the optimiser of Agarwal et al."""
  expected = {
    'Agent.gamma': 0.99,
    'Agent.batch_size': 32,
    'Agent.epsilon_eval': 0.001,
    'Agent.update_horizon': 1,
    'TFDSReplay.fraction': 0.05,
    'AtariEnvironment.sticky_actions': True,
    'Learner.target_update_period': 2000,
    'optax.adam.learning_rate': 0.00005,
    'optax.adam.eps': 0.0003125,
    'OfflineRunner.num_iterations': 500,
    'OfflineRunner.training_steps': 62500,
    'OfflineRunner.evaluation_steps': 125000,
    'OfflineRunner.measure_size': 2048,
  }
  if 'rainbow' in gin_file:  # Dopamine's Rainbow.
    expected['Agent.update_horizon'] = 3
    expected['optax.adam.learning_rate'] = 0.0000625
    expected['optax.adam.eps'] = 0.00015
  experiment.parse_gin([str(ROOT / gin_file)], [])
  assert {name: gin.query_parameter(name) for name in expected} == expected


@pytest.mark.parametrize(
  'gin_file', ['gin_configs/minatar/offline_rainbow.gin', 'gin_configs/minatar/online_dqn.gin']
)
@pytest.mark.exhaustive
def test_a_recorded_configuration_runs_again(gin_file, tmp_path):
  first = tmp_path / pathlib.Path(gin_file).stem  # An online one, or not, by its name.
  rows = run(first, gin_file, PENALTY, seed=2)
  again = run(tmp_path / 'again', first / 'operative_config.gin', seed=2)
  assert strip_speed(again) == strip_speed(rows)
  files = [one / 'operative_config.gin' for one in (first, tmp_path / 'again')]
  assert files[0].read_text() == files[1].read_text()


def test_a_setting_of_dopamines_that_has_no_effect_is_refused(tmp_path):
  message = refusal(tmp_path / 'run', ATARI, **{'create_atari_environment.game_name': "'Pnog'"})
  assert (
    'create_atari_environment.game_name belongs to Dopamine, and this run never reads' in message
  )
  assert re.search(r'Did you mean .*AtariEnvironment\.game', message)


def test_what_a_run_never_reads_is_named_at_its_start(tmp_path, capsys):
  """Not what an included file binds of an agent that the including one replaces."""
  rainbow = 'gin_configs/minatar/offline_rainbow.gin'
  (tmp_path / 'mine.gin').write_text(
    f"include '{ROOT / rainbow}'\nExperiment.agent = @cql.CQLAgent\ncql.CQLAgent.weight = 2.0\n"
    'OnlineRunner.replay_run = 2\nrem.REMAgent.num_heads = 7\n'
  )
  run(tmp_path / 'run', tmp_path / 'mine.gin', **{'far/Agent.gamma': 0.5})
  expected = 'NatureCNN.hidden_units, OnlineRunner.replay_run, REMAgent.num_heads, far/Agent.gamma'
  said = capsys.readouterr().err
  assert f'No effect in this run, which never reads: {expected}.\n' in said


def test_a_run_refused_beside_another_leaves_that_alone(tmp_path):
  """The directories above a refused run's go too, unless something is in them."""
  refusal(tmp_path / 'sweep' / 'b', MINATAR, **{'Agent.gamma': 2})
  assert not (tmp_path / 'sweep').exists()
  run(tmp_path / 'sweep' / 'a', MINATAR)
  for seeds in ({}, {'OfflineRunner.num_seeds': 2, 'OfflineRunner.seeds_as': "'vmap'"}):
    refusal(tmp_path / 'sweep' / 'b', MINATAR, **{'Agent.gamma': 2}, **seeds)
    refusal(tmp_path / 'sweep' / 'b', MINATAR, **{'TFDSReplay.run': 2}, **seeds)
    assert [one.name for one in (tmp_path / 'sweep').iterdir()] == ['a']


@pytest.mark.slow
def test_resumed_equals_uninterrupted_and_the_seed_decides(tmp_path):
  settings = {'OfflineRunner.training_steps': 30}
  straight = run(
    tmp_path / 'a', MINATAR, PENALTY, **settings, **{'OfflineRunner.num_iterations': 3}
  )
  run(tmp_path / 'b', MINATAR, PENALTY, **settings, **{'OfflineRunner.num_iterations': 1})
  # As if it was killed after a row was written and before its checkpoint was.
  with open(tmp_path / 'b' / 'metrics.jsonl', 'a') as file:
    file.write('{"iteration": 1, "updates": 60}\n{"iteration"')
  resumed = run(tmp_path / 'b', MINATAR, PENALTY, **settings, **{'OfflineRunner.num_iterations': 3})
  other = run(
    tmp_path / 'c', MINATAR, PENALTY, seed=1, **settings, **{'OfflineRunner.num_iterations': 3}
  )
  assert strip_speed(straight) == strip_speed(resumed)
  assert strip_speed(straight) != strip_speed(other)
  ends = [
    checkpoints.load_newest(tmp_path / name / 'checkpoints')[1]['agent']['learner']
    for name in 'abc'
  ]
  jax.tree.map(np.testing.assert_array_equal, ends[0], ends[1])
  assert not np.array_equal(ends[0]['key'], ends[2]['key'])
  # A run that is complete stays as it is.
  again = run(tmp_path / 'b', MINATAR, PENALTY, **settings, **{'OfflineRunner.num_iterations': 3})
  assert again == resumed


def test_the_readmes_agent_runs_from_a_file_outside_the_package(tmp_path, monkeypatch):
  """Its two code blocks, as a reader would copy them."""
  readme = (ROOT / 'README.md').read_text()
  (agent,) = re.findall(r'```python\n(# my_agent\.py\n.*?)```', readme, re.DOTALL)
  (config,) = re.findall(r'```\n(# my\.gin\n.*?)```', readme, re.DOTALL)
  assert len(agent.splitlines()) <= 40
  (tmp_path / 'my_agent.py').write_text(agent)
  (tmp_path / 'my.gin').write_text(config)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(ROOT)
  (row,) = run(tmp_path / 'run', tmp_path / 'my.gin', PENALTY)
  assert row['Losses/L2'] > 0
  np.testing.assert_allclose(
    row['Losses/Total'],
    row['Losses/TD'] + 0.5 * row['Losses/L2'] + 0.001 * row['Losses/Penalty'],
    rtol=1e-4,
  )


@pytest.mark.parametrize(
  ('settings', 'expected'),
  [
    ({'MinAtarEnvironment.game': "'Brekout'"}, "Did you mean 'Breakout'"),
    ({'GMAE': "'Asterix'"}, 'GMAE.*Did you mean GAME'),
    ({'MinAtarEnvironment.game': "'Asterix'"}, 'data is of Breakout, the environment is Asterix'),
    ({'Agent.stack_size': 7}, 'stack_size'),
    ({'TFDSReplay.gamma': 0.1}, 'gamma'),
    ({'Experiment.seed': 9}, 'seed'),
    ({'Runner.num_iterations': 33}, r'Runner.num_iterations.*OfflineRunner\.num_iterations\?'),
    ({'Learner.penalty': 'None', 'Learner.penalty_weight': 0.1}, 'Learner.penalty is None'),
    ({'Learner.optimizer': '@optax.adam'}, r'@optax\.adam\(\)'),
    ({'Agent.source': 'None'}, r'bind Agent\.source'),
    ({'Experiment.agent': '@base.Agent'}, 'make_loss'),
    (
      {'OfflineRunner.training_steps': 2.5},
      r'training_steps must be a whole number .*, got 2\.5',
    ),
    (
      {'OfflineRunner.max_steps_per_episode': -5},
      'max_steps_per_episode must be .* 1 or None, got -5',
    ),
    ({'Agent.network': "'MinAtarCNN'"}, 'Agent.network must be a class'),
    (
      {'Agent.batch_size': "'32'"},
      "Agent.batch_size must be a whole number .*, got '32'",
    ),
    ({'dqn.DQNAgent.error_loss': "'hubris'"}, "'huber' or 'mse', got 'hubris'"),
    ({'GAME': "'Asterix'"}, 'Asterix_run_1 does not ship.*--data_dir'),
    ({'Learner.penalty_wieght': 0.1}, 'Did you mean penalty_weight'),
    ({'Lerner.penalty_weight': 0.1}, 'Lerner'),
    ({'dqn.DQNAgent.gama': 0.9}, 'Did you mean Agent.gamma'),
    ({'Agent.gamma': 2}, r'Agent.gamma must be a number in \[0, 1\], got 2'),
    (
      {'OfflineRunner.training_steps': 0},
      'OfflineRunner.training_steps must be .* at least 1',
    ),
    ({'Learner.penalty_weight': "'abc'"}, "Learner.penalty_weight must be a number .*, got 'abc'"),
    ({'Learner.target_update_rate': "'1'"}, r"Learner\.target_update_rate must .* got '1'"),
    ({'Learner.target_update_period': 'None'}, r'Learner\.target_update_period must .* got None'),
    ({'Learner.max_gradient_norm': "'x'"}, r"Learner\.max_gradient_norm must .*or None, got 'x'"),
    ({'Agent.gamma': "'x'"}, r"Agent\.gamma must be a number in \[0, 1\], got 'x'"),
    ({'OfflineRunner.num_iterations': "'5'"}, r"OfflineRunner\.num_iterations must .* got '5'"),
    ({'OfflineRunner.max_steps_per_episode': "'5'"}, r"max_steps_per_episode must .* got '5'"),
    ({'OfflineRunner.num_seeds': 'True'}, r'OfflineRunner\.num_seeds must .* got True'),
    ({'Agent.network': '@NatureCNNN'}, 'Did you mean NatureCNN'),
    ({'Learner.penalty_weight': '0.1 0.2'}, r'0\.1 0\.2'),
  ],
)
def test_wrong_settings_end_in_one_line(tmp_path, settings, expected):
  message = refusal(tmp_path / 'run', MINATAR, **settings)
  assert re.search(expected, message), message


def test_what_gin_can_bind_is_listed(tmp_path, capsys, monkeypatch):
  """Without a --base_dir; a user's own agent too, if a gin file imports it."""
  (tmp_path / 'their_agent.py').write_text(
    'import gin\n@gin.configurable\ndef theirs(weight=0.5):\n  """Something of theirs."""\n'
  )
  (tmp_path / 'their.gin').write_text('import their_agent\n')
  monkeypatch.syspath_prepend(tmp_path)
  flags.FLAGS.unparse_flags()
  try:
    arguments = ['run_experiment.py', '--list_configurables', f'--gin_files={tmp_path}/their.gin']
    run_experiment.main(flags.FLAGS([*arguments, 'theirs', 'OfflineRunner']))
  finally:
    flags.FLAGS.unparse_flags()
  listed = capsys.readouterr().out
  assert 'Something of theirs.\n  theirs.weight = 0.5' in listed
  assert 'OfflineRunner.num_iterations = 500\n      iterations in the whole run.' in listed


def test_the_line_of_an_iteration_says_how_long_is_left(tmp_path, capsys):
  run(tmp_path, MINATAR, **{'OfflineRunner.num_iterations': 2})
  first, second = re.findall(r'iteration ./2.*', capsys.readouterr().out)
  assert re.search(r'return [\d.-]+  srank \d+ .* updates/s  \d+ (s|min) left$', first)
  assert second.endswith('updates/s')


@pytest.mark.parametrize(
  ('seconds', 'expected'),
  [(42.4, '42 s'), (90, '2 min'), (3599, '1 h 00 min'), (7500, '2 h 05 min')],
)
def test_durations_are_said_in_a_persons_units(seconds, expected):
  assert progress_bars.duration(seconds) == expected


def test_missing_files_are_named(tmp_path):
  (tmp_path / 'my.gin').write_text("include 'gin_configs/absent.gin'\n")
  message = refusal(tmp_path / 'run', tmp_path / 'my.gin')
  assert f'{tmp_path}/my.gin includes gin_configs/absent.gin: no such file' in message
  assert f'{tmp_path}, which is a directory' in refusal(tmp_path / 'run', tmp_path)
  (tmp_path / 'file').touch()
  with pytest.raises(SystemExit, match=r'--base_dir: .*file is a file'):
    run(tmp_path / 'file', MINATAR)
  assert 'no/such.gin' in refusal(tmp_path, ROOT / 'no/such.gin')
  assert 'at least one --gin_files' in refusal(tmp_path)
  message = refusal(tmp_path, MINATAR, data_dir=tmp_path / 'absent')
  assert '--data_dir' in message and 'absent' in message
  message = refusal(tmp_path, MINATAR, data_dir=tmp_path)
  assert str(tmp_path) in message and 'Breakout_run_1' in message


def test_another_network_or_dataset_in_the_same_directory_is_refused(tmp_path):
  run(tmp_path, MINATAR)
  rows = (tmp_path / 'metrics.jsonl').read_bytes()
  config = (tmp_path / 'operative_config.gin').read_bytes()
  for files, settings, expected in (
    ([MINATAR], {'MinAtarCNN.hidden_units': 64}, r'hidden_units was not set and is 64.*--base_dir'),
    ([MINATAR], {'Agent.update_horizon': 3}, r'update_horizon was 1 and is 3'),
    ([MINATAR, PENALTY], {}, r'penalty_weight was not set and is 0\.001'),
    ([MINATAR], {'seed': 1}, r'seed was 0 and is 1'),
  ):
    with pytest.raises(SystemExit, match=expected):
      run(tmp_path, *files, **settings)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == rows, 'a refused run must not touch the log'
  assert (tmp_path / 'operative_config.gin').read_bytes() == config


def test_results_without_their_checkpoints_are_not_overwritten(tmp_path):
  run(tmp_path, MINATAR, **{'OfflineRunner.num_iterations': 2})
  rows = (tmp_path / 'metrics.jsonl').read_bytes()
  shutil.rmtree(tmp_path / 'checkpoints')
  with pytest.raises(SystemExit, match='holds results but no checkpoint'):
    run(tmp_path, MINATAR)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == rows


@pytest.mark.exhaustive
def test_a_run_from_device_memory_learns_what_one_from_the_host_does(tmp_path):
  host, device = (
    run(tmp_path / str(where), MINATAR, PENALTY, **{'TFDSReplay.on_device': where})[0]
    for where in (False, True)
  )
  for name in ('srank', 'td_error', 'q_mean', 'Losses/TD', 'Losses/Penalty'):
    np.testing.assert_allclose(host[name], device[name], rtol=1e-4)


def test_a_run_may_go_without_evaluation(tmp_path):
  (row,) = run(tmp_path, MINATAR, **{'OfflineRunner.evaluation_steps': 0})
  assert row['eval_return'] is None and row['eval_episodes'] == 0 and row['srank'] >= 1


@pytest.mark.slow
@pytest.mark.exhaustive
def test_atari_resumed_equals_uninterrupted(tmp_path):
  """The emulator is seeded afresh for each evaluation, so a resumed run plays the same games."""
  settings = {'OfflineRunner.max_steps_per_episode': 40, 'Agent.batch_size': 4}
  two = {'OfflineRunner.num_iterations': 2}
  straight = run(tmp_path / 'a', ATARI, **settings, **two)
  run(tmp_path / 'b', ATARI, **settings)
  assert strip_speed(run(tmp_path / 'b', ATARI, **settings, **two)) == strip_speed(straight)


def test_the_command_line_refuses_before_anything_heavy_loads(tmp_path):
  for arguments, expected in (
    (['--base_dirr=x'], 'Did you mean: base_dir'),
    ([], '--base_dir'),
    (
      [f'--base_dir={tmp_path}', f'--gin_files={MINATAR.replace("off", "of")}'],
      f'{MINATAR.replace("off", "of")}: no such file. Did you mean {MINATAR}?',
    ),
    ([f'--base_dir={tmp_path}', 'stray'], "'stray'"),
    ([f'--base_dir={tmp_path}', '--seed=-1'], 'seed'),
  ):
    done = subprocess.run(
      [sys.executable, 'run_experiment.py', *arguments],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=20,
      check=False,
    )
    assert done.returncode != 0
    assert expected in done.stderr, done.stderr
    assert 'Traceback' not in done.stderr

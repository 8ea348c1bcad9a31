"""The real entry point on small input: every gin file, resume, a user's own agent, wrong input."""

import json
import pathlib
import pickle
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags

import run_experiment
from implicit_rl import checkpoints, metrics_log

ROOT = pathlib.Path(run_experiment.__file__).parent
MINATAR = 'gin_configs/minatar/offline_dqn.gin'
PENALTY = 'gin_configs/penalties/lp.gin'
SMALL = {
  'OfflineRunner.num_iterations': 1,
  'OfflineRunner.training_steps': 2,
  'OfflineRunner.evaluation_steps': 1,
  'OfflineRunner.max_steps_per_episode': 5,
  'OfflineRunner.measure_size': 16,
}
GIN_FILES = sorted(
  str(path.relative_to(ROOT))
  for kind in ('atari', 'minatar')
  for path in (ROOT / 'gin_configs' / kind).glob('*.gin')
)


def run(base_dir, *gin_files, seed=0, data_dir=None, **bindings):
  """What the command line does, in this process."""
  arguments = ['run_experiment.py', f'--base_dir={base_dir}', f'--seed={seed}']
  arguments += [
    f'--gin_files={path if pathlib.Path(path).is_absolute() else ROOT / path}' for path in gin_files
  ]
  settings = {k: v for k, v in SMALL.items()} | bindings
  arguments += [f'--gin_bindings={name} = {value}' for name, value in settings.items()]
  arguments += [f'--data_dir={data_dir}'] * (data_dir is not None)
  flags.FLAGS.unparse_flags()
  try:
    run_experiment.main(flags.FLAGS(arguments))
  finally:
    flags.FLAGS.unparse_flags()
  return metrics_log.read(pathlib.Path(base_dir) / 'metrics.jsonl')


def refusal(base_dir, *gin_files, **settings):
  """The one line that ends a run which can't start."""
  with pytest.raises(SystemExit) as stopped:
    run(base_dir, *gin_files, **settings)
  message = str(stopped.value)
  assert message.startswith('run_experiment.py: ') and '\n' not in message
  assert not (pathlib.Path(base_dir) / 'metrics.jsonl').exists()
  return message


@pytest.mark.slow
@pytest.mark.parametrize('gin_file', GIN_FILES)
def test_every_gin_file_runs(gin_file, tmp_path):
  (row,) = run(tmp_path, gin_file, PENALTY)
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
  assert row['Losses/Total'] > row['Losses/TD']


def test_a_run_leaves_its_record(tmp_path):
  run(tmp_path, MINATAR, PENALTY, seed=3)
  record = json.loads((tmp_path / 'run.json').read_text())
  assert record['seed'] == 3
  assert record['agent'] == 'DQNAgent'
  assert record['dataset']['dataset'] == 'minatar_checkpoints_ordered/Breakout_run_1'
  assert record['versions']['jax'] == jax.__version__
  assert 'Learner.penalty_weight = 0.001' in (tmp_path / 'operative_config.gin').read_text()
  with open(tmp_path / 'logs' / 'log_0', 'rb') as file:
    logs = pickle.load(file)  # Dopamine's own format, as its plotting code reads it.
  assert logs['iteration_0']['eval_average_return']
  assert logs['iteration_0']['srank']
  (spectrum,) = metrics_log.read(tmp_path / 'spectra.jsonl')
  assert len(spectrum['singular_values']) == 16
  assert list((tmp_path / 'metrics' / 'tensorboard').iterdir())


def test_the_shipped_settings_are_the_papers():
  """Without bindings the Atari file holds Appendix B.1 and the optimiser of Agarwal et al."""
  text = (ROOT / 'gin_configs/atari/offline_dqn.gin').read_text()
  for line in (
    'Agent.gamma = 0.99',
    'Agent.batch_size = 32',
    'Agent.epsilon_eval = 0.001',
    'Agent.update_horizon = 1',
    'TFDSReplay.fraction = 0.05',
    'Learner.target_update_period = 2000',
    'optax.adam.learning_rate = 0.00005',
    'optax.adam.eps = 0.0003125',
    'OfflineRunner.num_iterations = 500',
    'OfflineRunner.training_steps = 62500',
    'OfflineRunner.evaluation_steps = 125000',
    'OfflineRunner.measure_size = 2048',
  ):
    assert line in text


def strip_speed(rows):
  return [
    {k: v for k, v in row.items() if k not in ('updates_per_second', 'eval_seconds')}
    for row in rows
  ]


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


def test_a_users_agent_from_a_file_outside_the_package(tmp_path, monkeypatch):
  (tmp_path / 'my_agent.py').write_text('''
"""DQN that also pulls Q-values towards zero."""
import functools
import gin
import jax.numpy as jnp
from implicit_rl.agents.base import Agent
from implicit_rl.losses import dqn_loss


def my_loss(params, target_params, batch, key, *, apply, discount, weight):
  """DQN with an L2 term on Q. Returns (loss [], LossAux)."""
  td, aux = dqn_loss(params, target_params, batch, key, apply=apply, discount=discount)
  extra = jnp.mean(jnp.square(aux.outputs.q_values))
  return td + weight * extra, aux._replace(metrics={**aux.metrics, 'Losses/L2': extra})


@gin.configurable
class MyAgent(Agent):
  """Every other knob is `Agent.*` in gin."""

  def __init__(self, *args, weight=0.1, **kwargs):
    self._weight = weight
    super().__init__(*args, **kwargs)

  def make_loss(self):
    return functools.partial(
      my_loss, apply=self.apply, discount=self.gamma_n, weight=self._weight
    )
''')
  (tmp_path / 'my.gin').write_text(
    f"include '{ROOT / MINATAR}'\nimport my_agent\n"
    'Experiment.agent = @MyAgent\nMyAgent.weight = 0.5\nAgent.gamma = 0.9\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
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
    ({'GAME': "'Asterix'"}, 'Asterix_run_1 does not ship.*--data_dir'),
    ({'Learner.penalty_wieght': 0.1}, 'penalty_wieght'),
    ({'Lerner.penalty_weight': 0.1}, 'Lerner'),
    ({'dqn.DQNAgent.gama': 0.9}, 'gama'),
    ({'Agent.gamma': 2}, r'Agent.gamma lies in \[0, 1\], not 2'),
    ({'OfflineRunner.training_steps': 0}, 'OfflineRunner.training_steps is at least 1'),
    ({'Agent.network': '@NatureCNNN'}, 'NatureCNNN'),
    ({'Learner.penalty_weight': '0.1 0.2'}, r'0\.1 0\.2'),
  ],
)
def test_wrong_settings_end_in_one_line(tmp_path, settings, expected):
  message = refusal(tmp_path / 'run', MINATAR, **settings)
  assert re.search(expected, message), message


def test_missing_files_are_named(tmp_path):
  assert 'no/such.gin' in refusal(tmp_path, ROOT / 'no/such.gin')
  assert 'at least one --gin_files' in refusal(tmp_path)
  message = refusal(tmp_path, MINATAR, data_dir=tmp_path / 'absent')
  assert '--data_dir' in message and 'absent' in message
  message = refusal(tmp_path, MINATAR, data_dir=tmp_path)
  assert str(tmp_path) in message and 'Breakout_run_1' in message


def test_another_network_or_dataset_in_the_same_directory_is_refused(tmp_path):
  run(tmp_path, MINATAR)
  rows = (tmp_path / 'metrics.jsonl').read_bytes()
  for setting in ({'MinAtarCNN.hidden_units': 64}, {'Agent.update_horizon': 3}):
    with pytest.raises(SystemExit, match='--base_dir'):
      run(tmp_path, MINATAR, **setting)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == rows, 'a refused run must not touch the log'


def test_the_command_line_refuses_before_anything_heavy_loads(tmp_path):
  for arguments, expected in (
    (['--base_dirr=x'], 'Did you mean: base_dir'),
    ([], '--base_dir'),
    ([f'--base_dir={tmp_path}', '--gin_files=nope.gin'], 'no such file: nope.gin'),
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

"""Small logs for the analysis: real runs of the entry point, made-up ones with known numbers."""

import pathlib

import numpy as np
import pytest
from absl import flags

import run_experiment
from implicit_rl.logs import jsonl

ROOT = pathlib.Path(run_experiment.__file__).parent


def write_run(base_dir, returns, sranks, step=100, **more):
  """A run's metrics.jsonl with these numbers; `more` are other columns."""
  base_dir.mkdir(parents=True)
  for i, (value, srank) in enumerate(zip(returns, sranks, strict=True)):
    row = {'iteration': i, 'updates': (i + 1) * step, 'eval_return': value, 'srank': srank}
    row |= {name: values[i] for name, values in more.items()}
    jsonl.append(base_dir / 'metrics.jsonl', row)
  return base_dir


@pytest.fixture(name='write_run')
def writer_of_runs():
  return write_run


@pytest.fixture(scope='session', name='real_runs')
def two_real_runs(tmp_path_factory):
  """A directory with a run of DQN and one with the penalty: 3 iterations of 2 updates each."""
  top = tmp_path_factory.mktemp('real_runs')
  for name, gin_files in (
    ('dqn', ['minatar/offline_dqn.gin']),
    ('dqn_lp', ['minatar/offline_dqn.gin', 'penalties/lp.gin']),
  ):
    bindings = {
      'OfflineRunner.num_iterations': 3,
      'OfflineRunner.training_steps': 2,
      'OfflineRunner.evaluation_steps': 1,
      'OfflineRunner.max_steps_per_episode': 20,
      'OfflineRunner.measure_size': 64,
      'Agent.batch_size': 4,
    }
    arguments = [f'--base_dir={top / name / "seed_3"}', '--seed=3']
    arguments += [f'--gin_files={ROOT / "gin_configs" / path}' for path in gin_files]
    arguments += [f'--gin_bindings={key} = {value}' for key, value in bindings.items()]
    flags.FLAGS.unparse_flags()
    try:
      run_experiment.main(flags.FLAGS(['run_experiment.py', *arguments]))
    finally:
      flags.FLAGS.unparse_flags()
  return top


@pytest.fixture(scope='session', name='study')
def made_up_study(tmp_path_factory):
  """DQN and DQN + penalty, 4 games, 3 seeds, 6 iterations: numbers from one seed, rows in a CSV."""
  rng = np.random.default_rng(0)
  path = tmp_path_factory.mktemp('study') / 'rows.csv'
  lines = ['variant,suite,game,seed,iteration,updates,eval_return,srank,td_error']
  for better, variant in enumerate(('DQN', 'DQN + penalty')):
    for j, game in enumerate(('Pong', 'Breakout', 'Qbert', 'Seaquest')):
      for seed in range(3):
        noise = rng.normal(size=(3, 6))
        for i in range(6):
          value = 10 * (j + 1) + i * (1 + better) + noise[0, i]
          srank = 90 - 10 * i * (1 - better) + noise[1, i]
          error = 0.1 + 0.01 * i + 0.001 * noise[2, i]
          lines.append(
            f'{variant},atari,{game},{seed},{i},{(i + 1) * 1000},{value},{srank},{error}'
          )
  path.write_text('\n'.join(lines) + '\n')
  return path

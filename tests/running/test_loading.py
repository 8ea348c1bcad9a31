"""A trained run is loaded from its own record, and measures what its log says."""

import shutil
import subprocess
import sys

import gin
import jax
import numpy as np
import pytest
from gin import config as gin_config

import implicit_rl
from implicit_rl import networks
from implicit_rl.logs import checkpoints, jsonl
from tests.command_line import MINATAR_REPLAY, MUJOCO, MUJOCO_REPLAY, ONLINE, ROOT, run

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
SMALL = {
  'OfflineRunner.num_iterations': 3,
  'OfflineRunner.keep_checkpoints': 2,
  'OfflineRunner.measure_size': 64,
}
ONLINE_PATHS = {
  'compiled loop': (
    'gin_configs/minatar/online_dqn.gin',
    ONLINE | MINATAR_REPLAY | {'MinAtarCNN.hidden_units': 4},
  ),
  'on the host': ('gin_configs/mujoco/online_sac.gin', ONLINE | MUJOCO | MUJOCO_REPLAY),
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Two offline runs with different networks."""
  folder = tmp_path_factory.mktemp('trained')
  for name, network in {
    'relu': {'MinAtarCNN.hidden_units': 8},
    'tanh': {'MinAtarCNN.hidden_units': 5, 'MinAtarCNN.activation': "'tanh'", 'seed': 7},
  }.items():
    run(folder / name, MINATAR, **SMALL, **network)
    gin.clear_config()
  return folder


def rows(base_dir):
  return jsonl.read(base_dir / 'metrics.jsonl')


def assert_measures(loaded, row):
  """What the loaded network measures is what the run logged."""
  measured = loaded.agent.measure(loaded.fixed_batch())
  names = {name for name in measured if row.get(name) is not None} - {'condition_number'}
  assert {'srank', 'effective_rank', 'td_error', 'q_mean', 'sigma_max'} <= names
  # How many units stay dormant depends on the measurement before, which here is the same one.
  names = {name for name in names if not name.startswith('dormant_overlap')}
  for name in names:  # σ_min and the condition number are rounding where Φ lacks rank.
    np.testing.assert_allclose(measured[name], row[name], rtol=1e-5, atol=1e-5, err_msg=name)


def contents(folder):
  return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_every_kept_checkpoint_measures_what_the_run_logged(trained):
  before = contents(trained / 'relu')
  logged = rows(trained / 'relu')
  loaded = implicit_rl.load_run(trained / 'relu')
  assert (loaded.iteration, loaded.iterations, loaded.seed) == (2, [1, 2], 0)
  assert loaded.params is loaded.agent.state.params
  assert_measures(loaded, logged[2])
  loaded.restore(1)
  assert loaded.iteration == 1
  assert_measures(loaded, logged[1])
  best = implicit_rl.load_run(trained / 'relu', 'best')
  assert best.iteration == int(np.argmax([row['eval_return'] for row in logged]))
  assert_measures(best, logged[best.iteration])
  assert contents(trained / 'relu') == before


def test_loaded_runs_and_the_caller_keep_their_own_settings(trained):
  gin.bind_parameter(f'{networks.MinAtarCNN.__name__}.hidden_units', 3)
  gin.finalize()
  operative = dict(gin_config._OPERATIVE_CONFIG)
  two = [implicit_rl.load_run(trained / name) for name in ('relu', 'tanh')]
  assert gin_config._OPERATIVE_CONFIG == operative
  for loaded, name in zip(two, ('relu', 'tanh'), strict=True):
    assert_measures(loaded, rows(trained / name)[2])
  assert [loaded.seed for loaded in two] == [0, 7]
  assert [loaded.agent.network.activation for loaded in two] == ['relu', 'tanh']
  assert "MinAtarCNN.activation = 'tanh'" in two[1].config
  assert two[1].make_environment().name == 'Breakout'
  assert gin.config_is_locked()
  assert gin.query_parameter('MinAtarCNN.hidden_units') == 3
  assert gin.config_str().count(' = ') == 1


def test_a_loaded_agent_acts_and_goes_on_training(trained):
  loaded = implicit_rl.load_run(trained / 'relu')
  environment, agent = loaded.make_environment(seed=3), loaded.agent
  agent.eval_mode = True
  assert 0 <= agent.begin_episode(environment.reset()) < environment.num_actions
  updates = agent.updates
  assert np.isfinite(agent.train(2)['Losses/TD'])
  assert agent.updates == updates + 2


@pytest.mark.slow
@pytest.mark.parametrize('path', ONLINE_PATHS)
@pytest.mark.exhaustive
def test_an_online_run_measures_on_the_replay_of_its_checkpoint(path, tmp_path):
  gin_file, bindings = ONLINE_PATHS[path]
  logged = run(tmp_path / 'run', gin_file, **(bindings | {'OnlineRunner.num_iterations': 2}))
  gin.clear_config()
  loaded = implicit_rl.load_run(tmp_path / 'run')
  assert_measures(loaded, logged[1])
  loaded.restore(0)
  assert_measures(loaded, logged[0])
  best = implicit_rl.load_run(tmp_path / 'run', 'best')
  assert jax.tree.structure(best.params) == jax.tree.structure(loaded.params)
  with pytest.raises(ValueError, match=r'best checkpoint has no replay .* iterations \[0, 1\]'):
    best.fixed_batch()


def test_the_checkpoint_is_record_enough():
  """A run of version 0.1.0 of which the checkpoint and the log were kept."""
  loaded = implicit_rl.load_run(ROOT / 'tests/golden/run_0_1')
  (row,) = rows(ROOT / 'tests/golden/run_0_1')
  assert (loaded.iteration, loaded.seed, loaded.measure_size) == (0, 0, 16)
  measured = loaded.agent.measure(loaded.fixed_batch())
  for name in ('srank', 'td_error', 'q_mean', 'sigma_max'):
    np.testing.assert_allclose(measured[name], row[name], rtol=1e-3, atol=1e-4)


def test_an_added_binding_is_the_last_word(trained, tmp_path):
  added = tmp_path / 'added.gin'
  added.write_text('OfflineRunner.measure_size = 7\n')
  loaded = implicit_rl.load_run(
    trained / 'relu', gin_files=[str(added)], gin_bindings=['TFDSReplay.subset_seed = 3']
  )
  assert len(loaded.fixed_batch().reward) == 7
  assert 'TFDSReplay.subset_seed = 3' in loaded.config


def copied(trained, tmp_path):
  return shutil.copytree(trained / 'relu', tmp_path / 'copied')


def replace(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def test_what_cannot_be_loaded_is_told_in_one_line(trained, tmp_path):
  def refused(*args, error=ValueError, **settings):
    with pytest.raises(error) as caught:
      implicit_rl.load_run(*args, **settings)
    assert '\n' not in str(caught.value)
    assert str(args[0]) in str(caught.value) or 'got' in str(caught.value)
    return str(caught.value)

  absent = tmp_path / 'absent'
  assert 'no such directory' in refused(absent, error=FileNotFoundError)
  (tmp_path / 'seeds' / 'seed_4' / 'checkpoints').mkdir(parents=True)
  assert 'seed_4: give one' in refused(tmp_path / 'seeds', error=FileNotFoundError)
  assert 'it holds 1, 2 and the best' in refused(trained / 'relu', 0, error=FileNotFoundError)
  assert "got 'last'" in refused(trained / 'relu', 'last')
  assert "parameter named 'widht'" in refused(
    trained / 'relu', gin_bindings=['MinAtarCNN.widht = 3']
  )

  own = copied(trained, tmp_path)
  record = own / 'operative_config.gin'
  replace(record, 'hidden_units = 8', 'hidden_units = 9')
  assert 'another agent or network' in refused(own)
  replace(record, 'hidden_units = 9', 'hidden_units = 8')
  replace(record, 'Agent.gamma = 0.99', 'Agent.gamma = 0.5')
  assert 'gamma was 0.99 and is 0.5' in refused(own)
  replace(record, 'Agent.gamma = 0.5', 'Agent.gamma = 0.99')
  record.write_text('import nobodys_module\n' + record.read_text())
  assert 'PYTHONPATH' in refused(own)
  record.unlink()
  newest = own / 'checkpoints' / 'checkpoint_2.msgpack'
  newest.write_bytes(newest.read_bytes()[:-1])
  with pytest.raises(checkpoints.CorruptCheckpointError, match='damaged'):
    implicit_rl.load_run(own, 2)
  (own / 'checkpoints' / 'best.msgpack').unlink()
  assert 'never evaluated' in refused(own, 'best', error=FileNotFoundError)


def test_a_damaged_newest_checkpoint_leaves_the_one_before(trained, tmp_path):
  own = copied(trained, tmp_path)
  (own / 'checkpoints' / 'checkpoint_2.msgpack').write_bytes(b'')
  (own / 'run.json').write_text('{')
  loaded = implicit_rl.load_run(own)
  assert (loaded.iteration, loaded.seed) == (1, 0)


def test_importing_the_package_stays_light():
  code = 'import implicit_rl, sys; print(*sys.modules); print(*dir(implicit_rl))'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
  )
  loaded, offered = (line.split() for line in done.stdout.splitlines())
  assert not {'jax', 'flax', 'tensorflow', 'dopamine', 'matplotlib'} & set(loaded)
  assert 'load_run' in offered
  with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
    implicit_rl.load_runs  # noqa: B018

"""Eight devices, and two processes, compute the update that one device does, remedies included."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from implicit_rl.logs import jsonl
from tests.command_line import OFFLINE, ROOT, run

# What both scripts begin with: a learner, three batches of 32, and one device's updates on them.
COMMON = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np
from implicit_rl import losses, networks, rank, sharding, types
from implicit_rl.learner import Learner
from implicit_rl.remedies import LossTerm, PeriodicRemedy

network = networks.MLP(num_actions=3, hidden_units=(16, 8))

class Anchor(LossTerm):
  def init(self, context, params, key):
    return params

  def term(self, context, params, target_params, batch, aux, key, extra):
    return sum(jnp.sum(jnp.square(p - q)) for p, q in zip(*map(jax.tree.leaves, (params, extra))))

class Shrink(PeriodicRemedy):
  def operate(self, context, state, batch, key):
    shrunk = jax.tree.map(lambda x: 0.9 * x, state.params)
    return state._replace(params=shrunk), {'Shrink/Done': jnp.ones(())}

def learner(count):
  return Learner(
    functools.partial(losses.dqn_loss, apply=network.apply, discount=0.9),
    penalty=rank.lp_penalty, penalty_weight=0.01, target_update_period=2, devices=count,
    remedies={'anchor': Anchor(0.01), 'shrink': Shrink(2)})

def start(seed):
  key = jax.random.PRNGKey(seed)
  return learner(1 if jax.process_count() == 1 else None).init(
    network.init(key, np.zeros((1, 1, 5), np.float32)), key)

def batches(seed, updates=3, size=32):
  rng = np.random.default_rng(seed)
  lead = (updates, size)
  frames = lambda: rng.normal(size=(*lead, 1, 5)).astype(np.float32)
  return types.Batch(frames(), rng.integers(0, 3, lead).astype(np.int32),
    rng.normal(size=lead).astype(np.float32), frames(), np.zeros(lead, np.int32),
    np.ones(lead, np.float32), np.ones(lead, np.float32))

def assert_close(one, other):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)

@functools.cache
def plain_update():
  return jax.jit(learner(1 if jax.process_count() == 1 else None).pure_update)

def plain(seed):
  state = start(seed)
  for k in range(3):
    state, info = plain_update()(state, jax.tree.map(lambda x: x[k], batches(seed)))
  return state
"""

EIGHT = (
  COMMON
  + """
assert len(jax.devices()) == 8
expected = [plain(seed) for seed in range(4)]
for loop in ('scan', 'dispatch'):
  split = learner(8)
  split._loop = loop
  state, info = split.update_many(start(0), batches(0))
  assert len(state.params['params']['Dense_0']['kernel'].sharding.device_set) == 8
  assert info.priority.shape == (3, 32)
  assert_close(split.gathered(state), expected[0])
  assert all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(split.gathered(state)))

# Four seeds on eight devices: 4 × 2.
together = learner(8).over_seeds(4)
assert dict(together._placement.mesh.shape) == {'seeds': 4, 'batch': 2}
stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(start, range(4)))
beside = jax.tree.map(lambda *x: np.stack(x, 1), *map(batches, range(4)))
state, info = together.update_many(stacked, beside)
kernel = state.params['params']['Dense_0']['kernel']
assert kernel.sharding.shard_shape(kernel.shape)[0] == 1
ends = together.gathered(state)
for seed in range(4):
  assert_close(jax.tree.map(lambda x: x[seed], ends), expected[seed])

# From a store in device memory: row numbers are split, the store is everywhere.
flat = jax.tree.map(lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])), batches(0))
fetch = lambda store, rows: jax.tree.map(lambda x: x[rows], store)
state, _ = learner(8).update_from(fetch, start(0), flat, np.arange(96).reshape(3, 32))
assert_close(learner(8).gathered(state), expected[0])

for wrong, said in ((9, r'must lie in [1, 8] here, got 9'), (0, 'got 0')):
  try:
    learner(wrong)
    raise SystemExit('not refused')
  except ValueError as error:
    assert said in str(error), error
try:
  learner(8).check_batch(30)
  raise SystemExit('not refused')
except ValueError as error:
  assert 'Agent.batch_size (30) must be a multiple of the 8 devices' in str(error)
print('equal')
"""
)

TWO = (
  COMMON
  + """
host = int(sys.argv[2])
sharding.connect(sys.argv[1], 2, host)
assert len(jax.devices()) == 2 and jax.process_count() == 2
sharding.agree({'Learner.penalty_weight': '0.01', 'seed': 3})
split = learner(None)
state, info = split.update_many(start(0), batches(0))
kernel = state.params['params']['Dense_0']['kernel']
assert not kernel.is_fully_addressable
assert np.isfinite(np.asarray(info.metrics['Losses/Total'])).all()
assert_close(split.gathered(state), plain(0))
try:
  learner(1)
  raise SystemExit('not refused')
except ValueError as error:
  assert 'Learner.devices = None' in str(error)
try:
  sharding.agree({'Learner.penalty_weight': '0.01', 'seed': host})
  raise SystemExit('not refused')
except ValueError as error:
  assert 'Hosts 1 were started with other settings' in str(error)
print('equal')
"""
)


def environment(**more):
  # Programs for several devices are the hosts' own: none is kept.
  return os.environ | {'PYTHONPATH': str(ROOT), 'JAX_COMPILATION_CACHE_DIR': ''} | more


def test_eight_devices_do_what_one_does():
  done = subprocess.run(
    [sys.executable, '-c', EIGHT],
    env=environment(
      XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
    ),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0 and done.stdout == 'equal\n', done.stderr[-3000:]


def free_port():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    return taken.getsockname()[1]


def on_two_hosts(command, **more):
  """Runs a command line as two processes, which get the coordinator and their number."""
  address = f'127.0.0.1:{free_port()}'
  hosts = [
    subprocess.Popen(
      command(address, host),
      cwd=ROOT,
      env=environment(**more),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for host in range(2)
  ]
  return [(*host.communicate(timeout=300), host.returncode) for host in hosts]


@pytest.mark.exhaustive
def test_two_processes_do_what_one_does_and_agree_before():
  for out, err, code in on_two_hosts(lambda at, host: [sys.executable, '-c', TWO, at, str(host)]):
    assert code == 0 and out.endswith('equal\n'), err[-3000:]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_on_two_hosts_is_the_run_on_one(tmp_path):
  """The command line on both; resumed in between; only the first host writes."""
  gin_file = 'gin_configs/minatar/offline_dqn.gin'
  (tmp_path / 'one').mkdir()
  one = run(tmp_path / 'one', gin_file)

  def command(address, host):
    settings = OFFLINE | {'Learner.devices': None}
    return [
      sys.executable,
      'run_experiment.py',
      f'--base_dir={tmp_path / "two"}',
      f'--gin_files={gin_file}',
      *(f'--gin_bindings={name} = {value}' for name, value in settings.items()),
      f'--coordinator={address}',
      '--num_hosts=2',
      f'--host={host}',
    ]

  for _, err, code in on_two_hosts(command, TMPDIR=str(tmp_path)):
    assert code == 0, err[-3000:]
  two = jsonl.read(tmp_path / 'two' / 'metrics.jsonl')
  assert len(two) == len(one) == 1
  for name in ('srank', 'td_error', 'q_mean', 'Losses/TD', 'eval_return'):
    assert two[0][name] == pytest.approx(one[0][name], rel=1e-4), name
  (aside,) = pathlib.Path(tmp_path).glob('implicit_rl_host_*')
  assert jsonl.read(aside / 'metrics.jsonl')[0]['srank'] == two[0]['srank']

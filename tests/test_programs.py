"""What XLA is given: nothing after the first iteration, and on the CPU no convolution in a loop."""

import collections
import functools
import logging
import pathlib
import re

import jax
import numpy as np
import pytest

from implicit_rl import heads, losses, networks
from implicit_rl.learner import Learner
from implicit_rl.running import experiment
from implicit_rl.types import Batch

pytestmark = pytest.mark.usefixtures('cpu_kernels')

ROOT = pathlib.Path(__file__).parent.parent
ATARI = (networks.NatureCNN, (4, 84, 84), np.uint8)
MINATAR = (networks.MinAtarCNN, (1, 10, 10, 4), np.bool_)
K, B, A = 3, 2, 3
STATES = (1, 4, 84, 84)
KEY = jax.random.PRNGKey(1)


def prepare(network, shape, dtype, hidden_units=8, **settings):
  """A learner with the penalty on, what makes its state, and K batches."""
  rng = np.random.default_rng(0)
  network = network(num_actions=A, hidden_units=hidden_units)
  learner = Learner(
    functools.partial(losses.dqn_loss, apply=network.apply, discount=0.99),
    penalty_weight=0.001,
    **settings,
  )

  def start():
    return learner.init(network.init(jax.random.PRNGKey(0), np.zeros((1, *shape), dtype)), KEY)

  frames = lambda: rng.integers(0, 2, (K, B, *shape)).astype(dtype)
  batches = Batch(
    state=frames(),
    action=rng.integers(0, A, (K, B)).astype(np.int32),
    reward=rng.normal(size=(K, B)).astype(np.float32),
    next_state=frames(),
    next_action=np.zeros((K, B), np.int32),
    discount=np.ones((K, B), np.float32),
    weight=np.ones((K, B), np.float32),
  )
  return learner, start, batches


def operations(program):
  """Counts (operation, whether a loop runs it) in all that the entry of an HLO text reaches."""
  bodies, entry, name = {}, None, None
  for line in program.splitlines():
    if opening := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      name = opening[2]
      bodies[name] = []
      entry = name if opening[1] else entry
    elif instruction := re.match(r'\s+(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(', line):
      bodies[name].append((instruction[1], re.findall(r'(?:=|[{,]\s*)%?([\w.\-]+)', line)))
  found, todo = collections.Counter(), [(entry, False)]
  seen = set(todo)
  while todo:
    name, looped = todo.pop()
    for operation, mentioned in bodies[name]:
      found[operation, looped] += 1
      inner = looped or operation == 'while'
      new = {(other, inner) for other in mentioned if other in bodies} - seen
      seen |= new
      todo += new
  return found


@pytest.mark.parametrize(
  ('kind', 'settings', 'loops', 'convolutions'),
  [
    (ATARI, {}, False, {False}),
    (MINATAR, {}, True, set()),
    (ATARI, {'loop': 'scan'}, True, {True}),  # What is looked for is found where it is.
  ],
)
def test_no_convolution_stands_in_a_loop_on_the_cpu(kind, settings, loops, convolutions):
  learner, start, batches = prepare(*kind, **settings)
  state = jax.eval_shape(start)
  program, batch = learner._one, jax.tree.map(lambda x: x[0], batches)
  if learner._choose_loop(learner._scan, state, batches) == 'scan':
    program, batch = learner._scan, batches
  found = operations(program._donating.lower(state, batch).as_text('hlo'))
  assert (('dot', True) in found) == loops
  assert {looped for operation, looped in found if operation == 'convolution'} == convolutions


@pytest.mark.parametrize('kind', [ATARI, MINATAR])
def test_updates_on_device_batches_transfer_nothing(kind):
  learner, start, batches = prepare(*kind)
  state, batches = jax.jit(start)(), jax.device_put(batches)
  with jax.transfer_guard('disallow'):
    with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
      learner.update_many(state, jax.tree.map(np.asarray, batches))
    state, info = learner.update_many(state, batches)
    state, info = learner.update_many(state, batches)  # Nor the second time.
    jax.block_until_ready((state, info))
  assert int(state.updates) == 2 * K


@pytest.mark.usefixtures('compiled_fully')
def test_the_gradients_norm_takes_no_memory():
  """An update needs room for one gradient of the largest layer, not for its squares as well."""
  learner, start, batches = prepare(*ATARI, hidden_units=512)
  one = jax.tree.map(lambda x: x[0], batches)
  needed = learner._one._donating.lower(jax.eval_shape(start), one).compile().memory_analysis()
  largest = 7744 * 512 * 4  # bytes
  assert largest <= needed.temp_size_in_bytes < 1.5 * largest


def network_program(batch, head, noise=False):
  """The optimised program of an Atari network, as text."""
  module = networks.NatureCNN(num_actions=3, head=head)
  states = jax.ShapeDtypeStruct((batch, 4, 84, 84), np.uint8)
  params = jax.eval_shape(module.init, jax.random.PRNGKey(0), states)

  @jax.jit
  def apply(params, states, key):
    return module.apply(params, states, rngs={'noise': key} if noise else {}).q_values

  return apply.lower(params, states, KEY).compile().as_text()


@pytest.mark.usefixtures('compiled_fully')
@pytest.mark.parametrize('batch', [1, 2, 32])
@pytest.mark.parametrize('noisy', [False, True])
def test_the_large_kernel_is_not_turned(batch, noisy):
  """Copying 16 MB into another order costs more than multiplying with them."""
  assert 'f32[512,7744]' in (text := network_program(batch, heads.QHead(noisy=noisy)))
  assert 'f32[7744,512]' not in text


@pytest.mark.usefixtures('compiled_fully')
def test_noise_is_not_computed_for_each_weight():
  """A kernel is made from deviates that are there, not from what they are computed from."""
  text = network_program(32, heads.QHead(noisy=True), noise=True)
  assert 'erf_inv' in text
  computations = text.split('\n}\n')
  kernels = [one for one in computations if re.search(r'ROOT \S+ = f32\[512,7744\]', one)]
  assert kernels and not any('erf_inv' in one for one in kernels)


def test_nothing_is_compiled_after_the_first_iteration(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  bindings = (
    'OfflineRunner.num_iterations = 3',
    'OfflineRunner.training_steps = 70',  # More than one chunk, and the last one shorter.
    'OfflineRunner.evaluation_steps = 20',
    'OfflineRunner.measure_size = 16',
  )
  files = ('gin_configs/minatar/offline_dqn.gin', 'gin_configs/penalties/lp.gin')
  experiment.parse_gin(files, bindings)
  runner = experiment.create_runner(str(tmp_path / 'run'), 0)
  compiled, one_iteration = [], runner._run_one_iteration

  def noting(iteration):
    compiled.append(0)
    return one_iteration(iteration)

  class Note(logging.Handler):
    def emit(self, record):
      if record.getMessage().startswith('Compiling '):
        compiled[-1] += 1

  runner._run_one_iteration = noting
  logger, note = logging.getLogger('jax'), Note()
  logger.addHandler(note)
  with jax.log_compiles(True):
    runner.run_experiment()
  logger.removeHandler(note)
  assert len(compiled) == 3 and compiled[0] > 0
  assert compiled[1:] == [0, 0]

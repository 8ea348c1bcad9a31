"""Numbers that are none end a run with a word, or are skipped where gin says so."""

import functools

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import learner, rank
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.logs import checkpoints
from implicit_rl.logs.running_means import NonFiniteError, RunningMeans
from implicit_rl.types import Batch, LossAux, QOutputs
from tests.command_line import OFFLINE, run

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
SMALL = OFFLINE | {
  'MinAtarCNN.hidden_units': 16,
  'OfflineRunner.num_iterations': 3,
  'OfflineRunner.training_steps': 4,
}

pytestmark = pytest.mark.faults


@gin.configurable(module='fault')
class FaultyAgent(DQNAgent):
  """DQN whose loss, gradient or features go wrong at one update."""

  def __init__(self, *args, what='loss', at=6, **kwargs):
    self._what, self._at = what, at
    super().__init__(*args, **kwargs)

  def make_loss(self):
    return functools.partial(faulty, super().make_loss(), self._what, self._at)


def faulty(loss, what, at, params, target_params, batch, key):
  """`key` is folded from the number of the update, so it tells when."""
  value, aux = loss(params, target_params, batch, key)
  now = jnp.all(jax.random.key_data(key) == jax.random.key_data(KEYS[at]))
  if what == 'loss':
    aux.metrics['Losses/TD'] = jnp.where(now, jnp.nan, aux.metrics['Losses/TD'])
    return value, aux
  if what == 'gradient':  # The root's slope at 0 is infinite; its value is not.
    leaf = jax.tree.leaves(params)[0].ravel()[0]
    return value + jnp.sqrt(leaf - jax.lax.stop_gradient(leaf) + jnp.where(now, 0.0, 1.0)), aux
  features = aux.outputs.features + jnp.where(now, jnp.inf, 0.0)
  return value, aux._replace(outputs=aux.outputs._replace(features=features))


@pytest.fixture
def keys():
  """The keys of a run's first updates."""
  agent_keys = jax.random.split(jax.random.PRNGKey(0), 3)
  KEYS[:] = [jax.random.fold_in(agent_keys[1], update) for update in range(12)]
  yield
  KEYS.clear()


KEYS = []


@pytest.mark.usefixtures('keys')
@pytest.mark.parametrize(
  ('what', 'named', 'settings'),
  [
    ('loss', 'Losses/TD is nan', {}),
    ('gradient', 'Gradient/Norm is (inf|nan)', {}),
    ('features', 'Losses/Penalty is (inf|nan)', {'Learner.penalty_weight': 0.001}),
  ],
)
def test_a_run_stops_before_it_is_spoilt(what, named, settings, tmp_path):
  faulty_run = {'Experiment.agent': '@fault.FaultyAgent', 'FaultyAgent.what': repr(what)}
  with pytest.raises(SystemExit, match=named) as stopped:
    run(tmp_path, MINATAR, **SMALL, **faulty_run, **settings)
  message = str(stopped.value)
  assert 'at update 7, in iteration 2.' in message and '\n' not in message
  assert f'The last good checkpoint is {tmp_path}/checkpoints/checkpoint_0.msgpack' in message
  assert 'Learner.on_nonfinite = "skip"' in message
  assert checkpoints.iterations(tmp_path / 'checkpoints') == [0]
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 1


@pytest.mark.usefixtures('keys')
def test_skipping_leaves_the_update_out(tmp_path):
  rows = run(
    tmp_path,
    MINATAR,
    **SMALL,
    **{
      'Experiment.agent': '@fault.FaultyAgent',
      'FaultyAgent.what': "'gradient'",
      'Learner.on_nonfinite': "'skip'",
    },
  )
  assert [row['Updates/Skipped'] for row in rows] == [0, 0.25, 0]
  assert all(np.isfinite(row['Losses/TD']) and row['Losses/TD'] > 0 for row in rows)


def batch_of_one(x):
  state, zeros = jnp.full((1, 1), x), jnp.zeros(1)
  action = jnp.zeros(1, jnp.int32)
  return Batch(state, action, zeros, state, action, zeros, zeros)


def linear_loss(params, target_params, batch, key):
  """w·x, whose gradient is x."""
  value = jnp.sum(params['w'] * batch.state[0])
  outputs = QOutputs(q_values=jnp.zeros((1, 1)), features=jnp.zeros((1, 1)))
  return value, LossAux(td_error=jnp.zeros(1), outputs=outputs, metrics={'Losses/TD': value})


def test_a_skipped_update_changes_neither_parameters_nor_optimiser():
  made = learner.Learner(linear_loss, optax.adam(0.1), on_nonfinite='skip')
  plain = learner.Learner(linear_loss, optax.adam(0.1))
  params = {'w': jnp.ones(1)}
  state, other = (
    made.init(params, jax.random.PRNGKey(0)),
    plain.init(jax.tree.map(jnp.copy, params), jax.random.PRNGKey(0)),
  )
  for x, skipped in ((2.0, 0), (np.nan, 1), (np.inf, 1), (3.0, 0)):
    state, info = made.update(state, batch_of_one(x))
    assert float(info.metrics['Updates/Skipped']) == skipped
    assert all(np.isfinite(value) for value in info.metrics.values())
  for x in (2.0, 3.0):
    other, _ = plain.update(other, batch_of_one(x))
  assert int(state.updates) == 4
  np.testing.assert_array_equal(state.params['w'], other.params['w'])


def test_the_norm_is_logged_and_clipped():
  """Against optax's own transformation."""
  made = learner.Learner(linear_loss, optax.sgd(1.0), max_gradient_norm=0.5)
  state = made.init({'w': jnp.ones(1)}, jax.random.PRNGKey(0))
  state, info = made.update(state, batch_of_one(4.0))
  assert float(info.metrics['Gradient/Norm']) == 4.0
  assert float(state.params['w'][0]) == 0.5
  with pytest.raises(ValueError, match=r'Learner\.max_gradient_norm must be a number above 0'):
    learner.Learner(linear_loss, max_gradient_norm=-1.0)
  with pytest.raises(ValueError, match="on_nonfinite must be 'stop' or 'skip', got 'go'"):
    learner.Learner(linear_loss, on_nonfinite='go')


def test_a_run_that_only_skips_ends():
  sums = RunningMeans()
  with pytest.raises(NonFiniteError, match=r'last 1,024 updates up to 1,024 were all skipped'):
    for first in range(0, 2000, 64):
      sums.add({'Losses/TD': np.zeros(64), 'Updates/Skipped': np.ones(64)}, 64, first)


def test_the_means_leave_skipped_updates_out():
  sums = RunningMeans()
  sums.add({'x': np.array([1.0, 0.0, 5.0]), 'Updates/Skipped': np.array([0.0, 1.0, 0.0])}, 3, 0)
  assert sums.means() == {'x': 3.0, 'Updates/Skipped': 1 / 3}
  again = RunningMeans()
  again.load_state_dict(sums.state_dict())
  assert again.means() == sums.means() and again.updates == 3
  with pytest.raises(NonFiniteError, match=r'y is inf at update 5$'):
    sums.add({'x': np.array([0.0, np.nan]), 'y': np.array([np.inf, 0.0])}, 2, 4)
  assert sums.updates == 3


def test_the_penalty_of_equal_directions_is_finite():
  """All-zero and all-equal features: rank's gradient there is ill-defined, but a number."""
  for features in (jnp.zeros((4, 3)), jnp.ones((4, 3)), jnp.eye(4)):
    assert np.isfinite(jax.grad(rank.lp_penalty)(features)).all()

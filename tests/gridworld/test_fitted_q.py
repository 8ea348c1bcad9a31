"""Fitted Q-iteration: targets against the oracle, an iteration against the shared TD learner."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl import learner as shared
from implicit_rl import losses as shared_losses
from implicit_rl.gridworld import fitted_q, losses, oracle, problem, replay
from implicit_rl.gridworld.config import FittedQConfig
from implicit_rl.types import Batch, LearnerState, QOutputs

SMALL = FittedQConfig(
  iterations=2, steps=10, batch_size=16, hidden_units=(8, 8), data_size=300, log_every=1
)
SUPERVISED = dataclasses.replace(SMALL, target='optimal', hidden_units=(32, 32))
INIT = jax.jit(fitted_q.init_run, static_argnums=0)  # one compilation for the tests of a shape


def with_(**fields):
  return dataclasses.replace(SMALL, **fields)


def parts(config, seed=0):
  made = problem.make_problem(config, seed)
  program = fitted_q.program_of(config)
  return program, made, INIT(program, made, jnp.uint32(seed))


def trees_close(a, b, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def test_fitted_loss_against_numpy():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(7, 5)).astype(np.float32)
  x = rng.normal(size=(12, 7)).astype(np.float32)
  action, target = rng.integers(5, size=12), rng.normal(size=12).astype(np.float32)
  weight = rng.uniform(size=12).astype(np.float32)
  apply = lambda w, state: QOutputs(state[:, 0] @ w, state[:, 0])
  batch = Batch(x[:, None], action, target, x[:, None], action, np.zeros(12), weight)
  loss, aux = losses.fitted_loss(weights, weights, batch, jax.random.key(0), apply=apply)
  q = (x.astype(np.float64) @ weights)[np.arange(12), action]
  assert float(loss) == pytest.approx(np.mean(weight * (q - target) ** 2), rel=1e-5)
  np.testing.assert_allclose(aux.td_error, target - q, atol=1e-5)
  gradient = jax.grad(lambda w: losses.fitted_loss(w, w, batch, jax.random.key(0), apply=apply)[0])(
    weights
  )
  want = np.zeros((7, 5))
  for row in range(12):
    want[:, action[row]] += 2 / 12 * weight[row] * (q[row] - target[row]) * x[row]
  np.testing.assert_allclose(gradient, want, atol=1e-5)


@pytest.mark.parametrize('temperature', [0.0, 0.1])
@pytest.mark.parametrize('clip', [False, True])
def test_bootstrapped_targets_against_numpy(temperature, clip):
  program, made, _ = parts(with_(temperature=temperature, clip_targets=clip))
  q = np.random.default_rng(0).normal(10, 12, size=(256, 5))
  got = fitted_q.make_targets(program, made, made.memory, jnp.asarray(q, jnp.float32))
  values = oracle.state_values(q, temperature)
  if clip:
    values = np.clip(values, 0.0, (1 + temperature * np.log(5)) / 0.05)
  data = jax.tree.map(np.asarray, made.memory)
  want = data.reward + 0.95 * values[data.next_state]
  np.testing.assert_allclose(got[:300], want[:300], atol=1e-4)


def test_other_targets_against_the_oracle():
  q = np.random.default_rng(0).normal(size=(256, 5))
  single = jnp.asarray(q, jnp.float32)
  for temperature in (0.0, 0.1):
    world, q_optimal, *_ = problem.solve(0, 'distance', 'smooth', 0.95, temperature)
    for target, table in (
      ('optimal', q_optimal),
      (
        'current_policy',
        oracle.policy_q_values(world, oracle.soft_policy(q, temperature), temperature),
      ),
    ):
      program, made, _ = parts(with_(target=target, temperature=temperature))
      got = fitted_q.make_targets(program, made, made.memory, single)
      want = table[np.asarray(made.memory.state), np.asarray(made.memory.action)]
      np.testing.assert_allclose(got[:300], want[:300], atol=2e-3)
  program, made, _ = parts(with_(target='policy'))
  got = fitted_q.make_targets(program, made, made.memory, single)
  data = jax.tree.map(np.asarray, made.memory)
  want = data.reward + 0.95 * q.mean(axis=1)[data.next_state]
  np.testing.assert_allclose(got[:300], want[:300], atol=1e-5)


def test_monte_carlo_targets_are_unbiased():
  config = with_(target='monte_carlo', data_size=10_000)
  program, made, _ = parts(config)
  got = np.asarray(fitted_q.make_targets(program, made, made.memory, made.q_optimal))
  exact = np.asarray(made.q_solution)[np.asarray(made.memory.state), np.asarray(made.memory.action)]
  gap = got - exact
  assert abs(gap.mean()) < 4 * gap.std() / 100
  assert gap.std() > 0.01


def test_with_discount_zero_the_targets_are_the_rewards():
  for target in ('bootstrap', 'policy'):
    program, made, _ = parts(with_(discount=0.0, target=target))
    q = jnp.full((256, 5), 123.0)
    got = fitted_q.make_targets(program, made, made.memory, q)
    np.testing.assert_array_equal(got, made.memory.reward)


def rows_of(program, made, state):
  """The minibatches that an iteration draws, [T, B]."""
  key = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)[2]
  draw = lambda block: jax.random.randint(
    jax.random.fold_in(key, block), (program.block, program.batch_size), 0, made.memory.written
  )
  return jnp.concatenate([draw(block) for block in range(int(made.steps) // program.block)])


def test_iterations_equal_the_shared_td_learner_with_a_target_network():
  config = with_(temperature=0.0, steps=20, batch_size=32)
  program, made, state = parts(config)
  apply = fitted_q._network(program).apply
  td_loss = functools.partial(shared_losses.dqn_loss, apply=apply, discount=0.95, error_loss='mse')
  td_learner = shared.Learner(
    td_loss, fitted_q.make_optimizer('adam', 1e-3), target_update_period=20
  )
  reference = td_learner.init(jax.tree.map(jnp.copy, state.learner.params), jax.random.key(0))
  iterate = jax.jit(fitted_q.make_iteration(program, made))
  for _ in range(3):
    rows = rows_of(program, made, state)
    look = lambda cells: made.observations[cells][:, :, None, :]
    data = jax.tree.map(lambda x, r=rows: x[r] if x.ndim else x, made.memory)
    batches = Batch(
      look(data.state),
      data.action,
      data.reward,
      look(data.next_state),
      data.action,
      jnp.ones(rows.shape),
      jnp.ones(rows.shape),
    )
    reference, _ = td_learner.update_many(reference, batches)
    state = iterate(state)
    trees_close(state.learner.params, reference.params, atol=2e-5)
    trees_close(state.learner.target_params, reference.target_params, atol=2e-5)
  assert int(state.learner.updates) == int(reference.updates) == 60


def test_one_iteration_equals_single_updates():
  program, made, state = parts(with_(penalty_weight=1e-3))
  after = jax.jit(fitted_q.make_iteration(program, made))(state)
  update = jax.jit(
    shared.make_update(
      functools.partial(losses.fitted_loss, apply=fitted_q._network(program).apply),
      fitted_q.make_optimizer('adam', made.learning_rate),
      penalty=shared.rank.lp_penalty,
      penalty_weight=1e-3,
      target_update_period=10,
    )
  )
  inner = state.learner
  targets = fitted_q.make_targets(
    program,
    made,
    made.memory,
    fitted_q.on_all_cells(program, state.learner.target_params, made).q_values,
  )
  for row in rows_of(program, made, state):
    inner, _ = update(inner, fitted_q.make_batch(made, made.memory, targets, row))
  trees_close(after.learner.params, inner.params, atol=1e-6)


def test_reinitialisation_forgets_network_and_optimiser():
  program, made, state = parts(with_(target='optimal', reinitialize=True))
  iterate = jax.jit(fitted_q.make_iteration(program, made))
  other = state._replace(
    learner=state.learner._replace(
      params=jax.tree.map(lambda x: x + 1, state.learner.params),
      optimizer_state=jax.tree.map(lambda x: x + 1, state.learner.optimizer_state),
    )
  )
  trees_close(iterate(state).learner.params, iterate(other).learner.params, atol=0)
  keeps = jax.jit(fitted_q.make_iteration(program._replace(reinitialize=False), made))
  first, second = (jax.tree.leaves(keeps(s).learner.params)[0] for s in (state, other))
  assert np.abs(first - second).max() > 0.1


def test_supervised_regression_learns_and_the_same_seed_gives_the_same_numbers():
  config = dataclasses.replace(SUPERVISED, steps=200, iterations=20, log_every=10)
  first, again = fitted_q.run(config, 3), fitted_q.run(config, 3)
  assert first['td_error'][-1] < 0.2 * first['td_error'][0]
  assert first['updates'].tolist() == [0, 2000, 4000]
  for name in first:
    np.testing.assert_array_equal(first[name], again[name])
  assert (fitted_q.run(config, 4)['td_error'] != first['td_error']).any()


def test_torch_initialisation_stays_in_its_bounds():
  program, made, state = parts(FittedQConfig())
  layers = state.learner.params['params']
  for name, fan_in in (('Dense_0', 16), ('Dense_1', 64), ('Dense_2', 64)):
    for part in ('kernel', 'bias'):
      values = np.abs(layers[name][part])
      assert values.max() <= fan_in**-0.5
    assert np.std(layers[name]['kernel']) == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
  xavier = fitted_q.init_params(
    program._replace(initialization='xavier'), made.observations, jax.random.key(0)
  )
  assert (np.asarray(xavier['params']['Dense_0']['bias']) == 0).all()


def test_replay_is_first_in_first_out_and_follows_the_world():
  config = with_(data='online', data_size=70, env_steps=60)
  program, made, state = parts(config)
  policy = replay.acting_policy(
    state.learner.params['params']['Dense_2']['bias'][None] * jnp.zeros((256, 1)),
    made,
    program.hard,
  )
  act = jax.jit(replay.act, static_argnums=4)
  memory, actor = act(made.memory, state.actor, made, policy, 60, jax.random.key(0))
  data = jax.tree.map(np.asarray, memory)
  assert data.written == 60 and (data.state[60:] == 0).all()
  assert data.state[0] == data.state[50] == int(made.start)
  follows = np.arange(1, 60) != 50
  np.testing.assert_array_equal(data.state[1:60][follows], data.next_state[:59][follows])
  probability = np.asarray(made.transitions)[data.state, data.action, data.next_state]
  assert (probability[:60] > 0).all()
  later, _ = act(memory, actor, made, policy, 60, jax.random.key(1))
  later = jax.tree.map(np.asarray, later)
  assert later.written == 120
  np.testing.assert_array_equal(later.state[50:60], data.state[50:60])  # The newest of the old.
  assert later.state[60] == data.next_state[59]
  assert (later.state[70:] == 0).all()


def test_hard_acting_explores_with_epsilon():
  program, made, _ = parts(with_(data='online', temperature=0.0, epsilon=0.2))
  policy = replay.acting_policy(made.q_optimal, made, program.hard)
  np.testing.assert_allclose(policy.sum(axis=1), 1.0, atol=1e-6)
  np.testing.assert_allclose(policy.min(axis=1), 0.04, atol=1e-6)
  np.testing.assert_allclose(policy.max(axis=1), 0.84, atol=1e-6)


def test_online_runs_count_environment_steps():
  rows = fitted_q.run(with_(data='online', env_steps=5, iterations=4, log_every=2), 0)
  assert rows['env_steps'].tolist() == [0, 10, 20]
  assert np.isnan(rows['srank'][0]) and not np.isnan(rows['srank'][1:]).any()
  assert not np.isnan(rows['reference_srank']).any()


def test_diverged_values_are_not_a_number_rather_than_a_rank():
  rows = fitted_q.run(dataclasses.replace(SUPERVISED, learning_rate=1e30), 0)
  for name in ('srank', 'reference_srank', 'eigen_srank', 'eval_return', 'q_fit_error'):
    assert np.isnan(rows[name][-1])
  assert rows['updates'][-1] == 20


def test_learner_state_is_the_shared_one():
  _, _, state = parts(SMALL)
  assert isinstance(state.learner, LearnerState)


@pytest.mark.parametrize(
  ('bad', 'says'),
  [
    ({'target': 'gold'}, 'target'),
    ({'data_size': 20_000}, 'at most'),
    ({'iterations': 3, 'log_every': 2}, 'multiple'),
    ({'data': 'online', 'target': 'monte_carlo'}, 'online'),
    ({'steps': 0}, 'steps'),
    ({'penalty_weight': -1.0}, 'penalty_weight'),
    ({'hidden_units': ()}, 'hidden_units'),
  ],
)
def test_bad_settings_are_named(bad, says):
  with pytest.raises(ValueError, match=says):
    with_(**bad)

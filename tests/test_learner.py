"""The learner: gradient steps by hand, target networks, the penalty's reductions, loops, seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import losses, networks, rank
from implicit_rl.learner import Learner, has_convolution, make_update
from implicit_rl.types import Batch, LearnerState, LossAux

A = 3


def random_batches(k: int, shape: tuple[int, ...], dtype=np.float32, batch: int = 8) -> Batch:
  rng = np.random.default_rng(7)
  states = [(rng.random((k, batch, *shape)) * 3).astype(dtype) for _ in range(2)]
  return Batch(
    state=states[0],
    action=rng.integers(0, A, (k, batch)).astype(np.int32),
    reward=rng.normal(size=(k, batch)).astype(np.float32),
    next_state=states[1],
    next_action=rng.integers(0, A, (k, batch)).astype(np.int32),
    discount=rng.integers(0, 2, (k, batch)).astype(np.float32),
    weight=np.ones((k, batch), np.float32),
  )


def make(network, shape, dtype=np.float32, **settings):
  apply = network.apply
  learner = Learner(functools.partial(losses.dqn_loss, apply=apply, discount=0.9), **settings)

  def start():
    params = network.init(jax.random.PRNGKey(0), np.zeros((1, *shape), dtype))
    return learner.init(params, jax.random.PRNGKey(1))

  return learner, start


MLP = networks.MLP(num_actions=A, hidden_units=(16, 8))


def assert_trees_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def one(batches: Batch, k: int) -> Batch:
  return jax.tree.map(lambda x: x[k], batches)


def test_sgd_step_by_finite_differences():
  """One SGD step moves each parameter by −lr times the numerical derivative of loss + α·L_p."""
  alpha, rate = 0.1, 0.5
  learner, start = make(MLP, (1, 4), optimizer=optax.sgd(rate), penalty_weight=alpha)
  state, batch = start(), one(random_batches(1, (1, 4)), 0)
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
  target = jax.tree.map(np.asarray, state.target_params)

  def objective(flat):
    with jax.enable_x64(True):
      p = unravel(flat)
      loss, _ = losses.dqn_loss(
        p, target, batch, jax.random.PRNGKey(0), apply=apply64, discount=0.9
      )
      phi = np.asarray(features64(p, batch.state))
      sigma = np.linalg.svd(phi, compute_uv=False)
      return float(loss) + alpha * (sigma[0] ** 2 - sigma[-1] ** 2)

  def features64(p, x):
    p = p['params']
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    for name in ('Dense_0', 'Dense_1'):
      x = np.maximum(x @ np.asarray(p[name]['kernel']) + np.asarray(p[name]['bias']), 0)
    return x

  def apply64(p, x):
    features = features64(p, x)
    head = p['params']['Dense_2']
    q = features @ np.asarray(head['kernel']) + np.asarray(head['bias'])
    from implicit_rl.types import QOutputs

    return QOutputs(jnp.asarray(q), jnp.asarray(features))

  leaves, structure = jax.tree.flatten(params)
  sizes = np.cumsum([0] + [leaf.size for leaf in leaves])

  def unravel(flat):
    return jax.tree.unflatten(
      structure,
      [
        flat[a:b].reshape(leaf.shape)
        for a, b, leaf in zip(sizes[:-1], sizes[1:], leaves, strict=True)
      ],
    )

  flat = np.concatenate([leaf.ravel() for leaf in leaves])
  new_state, _ = learner.update(state, batch)
  moved = np.concatenate([np.asarray(p).ravel() for p in jax.tree.leaves(new_state.params)])
  h = 1e-6
  for i in np.random.default_rng(0).choice(flat.size, 40, replace=False):
    up, down = flat.copy(), flat.copy()
    up[i] += h
    down[i] -= h
    slope = (objective(up) - objective(down)) / (2 * h)
    np.testing.assert_allclose(moved[i] - flat[i], -rate * slope, rtol=2e-3, atol=2e-5)


def test_the_reported_norm_is_of_all_gradients_large_ones_too():
  """Large leaves of one shape, one of another, rows that are no multiple of four, small ones."""
  rng = np.random.default_rng(3)
  shapes = [(1024, 1100), (1024, 1100), (2048, 600), (1025, 1100), (40,), (3, 4), ()]
  gradients = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

  def loss(params, target_params, batch, key):
    total = sum(jnp.sum(p * g) for p, g in zip(params, gradients, strict=True))
    return total, LossAux(None, jnp.zeros(1), {})

  params = [jnp.zeros(shape) for shape in shapes]
  optimizer = optax.sgd(0.1)
  state = LearnerState(
    params, params, optimizer.init(params), jax.random.PRNGKey(0), jnp.zeros((), int)
  )
  _, info = jax.jit(make_update(loss, optimizer))(state, None)
  expected = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients))
  np.testing.assert_allclose(info.metrics['Gradient/Norm'], expected, rtol=1e-6)


def test_penalty_weight_zero_is_no_penalty_bit_for_bit():
  batches = random_batches(20, (1, 4))
  ends = []
  for settings in ({'penalty': None}, {'penalty': rank.lp_penalty, 'penalty_weight': 0.0}):
    learner, start = make(MLP, (1, 4), **settings)
    ends.append(learner.update_many(start(), batches)[0])
  assert_trees_equal(*ends)


def test_penalty_lowers_the_penalty():
  batches = random_batches(200, (1, 4))
  ends = []
  for weight in (0.0, 0.1):
    learner, start = make(MLP, (1, 4), penalty_weight=weight, optimizer=optax.adam(1e-2))
    state, _ = learner.update_many(start(), batches)
    features = MLP.apply(state.params, batches.state[0]).features
    ends.append(float(rank.lp_penalty(features)))
  assert ends[1] < 0.5 * ends[0]


@pytest.mark.parametrize('weight', [0.0, 0.001])
@pytest.mark.parametrize(
  ('network', 'shape', 'dtype'),
  [(MLP, (1, 4), np.float32), (networks.MinAtarCNN(num_actions=A), (1, 10, 10, 4), np.uint8)],
)
def test_update_many_equals_updates(network, shape, dtype, weight):
  batches = random_batches(6, shape, dtype)
  single, start = make(network, shape, dtype, penalty_weight=weight, target_update_period=4)
  state, losses_seen = start(), []
  for k in range(6):
    state, info = single.update(state, one(batches, k))
    losses_seen.append(float(info.metrics['Losses/Total']))
  for loop, check in (
    ('dispatch', np.testing.assert_array_equal),
    # A compiled loop may fuse sums in another order: equal to rounding.
    ('scan', functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)),
  ):
    learner, start = make(
      network, shape, dtype, penalty_weight=weight, target_update_period=4, loop=loop
    )
    many, info = learner.update_many(start(), batches)
    jax.tree.map(check, many, state)
    check(np.asarray(info.metrics['Losses/Total']), np.asarray(losses_seen, np.float32))
    assert info.priority.shape == batches.action.shape
    assert int(many.updates) == 6


def test_target_network_is_copied_on_period_and_follows_by_rate():
  batches = random_batches(5, (1, 4))
  learner, start = make(MLP, (1, 4), target_update_period=3)
  state = start()
  first = jax.tree.map(np.asarray, state.params)
  state, _ = learner.update_many(state, jax.tree.map(lambda x: x[:2], batches))
  assert_trees_equal(state.target_params, first)
  state, _ = learner.update(state, one(batches, 2))
  assert_trees_equal(state.target_params, state.params)

  learner, start = make(MLP, (1, 4), target_update_period=1, target_update_rate=0.25)
  state = start()
  old = jax.tree.map(np.asarray, state.target_params)
  state, _ = learner.update(state, one(batches, 0))
  jax.tree.map(
    lambda t, o, p: np.testing.assert_allclose(t, 0.75 * o + 0.25 * p, rtol=1e-6, atol=1e-7),
    state.target_params,
    old,
    state.params,
  )


def test_polyak_with_a_diverged_target_copies_cleanly():
  """Rate 1 copies: 0·inf must not leave NaN in the target network."""
  regression = functools.partial(losses.dqn_loss, apply=MLP.apply, discount=0.9)

  def loss_without_target(params, target_params, batch, key):
    return regression(params, params, batch, key)

  learner = Learner(loss_without_target, target_update_period=1)
  state = make(MLP, (1, 4))[1]()
  state = state._replace(target_params=jax.tree.map(lambda p: p + jnp.inf, state.target_params))
  new, _ = learner.update(state, one(random_batches(1, (1, 4)), 0))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new.target_params))
  assert_trees_equal(new.target_params, new.params)


def test_same_seed_same_numbers():
  batches = random_batches(10, (1, 4))
  learner, start = make(MLP, (1, 4))
  ends = [learner.update_many(start(), batches)[0] for _ in range(2)]
  assert_trees_equal(*ends)


def test_the_loop_follows_the_program():
  """On the CPU backend a convolution is dispatched and dense networks are scanned."""
  nature = networks.NatureCNN(num_actions=A)
  for network, shape, expected in (
    (nature, (4, 84, 84), 'dispatch'),
    (networks.MinAtarCNN(num_actions=A), (1, 10, 10, 4), 'scan'),
  ):
    learner, start = make(network, shape, np.uint8)
    batches = random_batches(1, shape, np.uint8, batch=2)
    chosen = learner._choose_loop(learner._scan, start(), batches)
    assert chosen == (expected if jax.default_backend() == 'cpu' else 'scan')


def test_has_convolution_looks_inside_jit_and_loops():
  x, kernel = jnp.ones((1, 1, 5)), jnp.ones((1, 1, 3))

  def convolve(x):
    return jax.lax.conv(x, kernel, (1,), 'SAME')

  def holds(function):
    return has_convolution(jax.jit(function), x)

  assert holds(lambda x: jax.lax.scan(lambda c, _: (convolve(c), None), x, None, 2))
  assert holds(jax.jit(convolve))
  assert holds(lambda x: jax.lax.cond(x.sum() > 0, convolve, lambda y: y, x))
  assert not holds(lambda x: x @ x.mT)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'penalty_weight': -1}, 'penalty_weight must be a number of at least 0'),
    ({'target_update_period': 0}, 'target_update_period must be a number of at least 1'),
    ({'target_update_rate': 0.0}, r'target_update_rate must be a number in \(0, 1\]'),
    ({'loop': 'while'}, "got 'while'"),
  ],
)
def test_bad_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    make(MLP, (1, 4), **settings)

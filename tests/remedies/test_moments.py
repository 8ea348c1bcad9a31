"""Moments are renewed where parameters are, for every kind of optimiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import networks, optimizers
from implicit_rl.remedies.moments import renew

OPTIMIZERS = {
  'adam': optax.adam(0.1),
  'scheduled': optax.adam(optax.linear_schedule(0.1, 0.0, 10)),
  'clipped': optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
  'skipping': optax.apply_if_finite(optax.adam(0.1), 10),
  'momentum': optax.sgd(0.1, momentum=0.9),
  'rmsprop': optax.rmsprop(0.1, centered=True),
  'none': optax.sgd(0.1),
}


@functools.partial(jax.jit, static_argnums=0)
def train(optimizer, params):
  state = optimizer.init(params)
  for step in range(3):
    gradients = jax.tree.map(lambda p, s=step: jnp.sin(p + s), params)
    changes, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, changes)
  return params, state


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def params():
  rng = np.random.default_rng(0)
  return {
    'a': {'kernel': jnp.asarray(rng.normal(size=(3, 4)))},
    'b': jnp.asarray(rng.normal(size=4)),
  }


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_all_or_nothing_is_a_fresh_state_or_the_old_one(name, params):
  optimizer = OPTIMIZERS[name]
  params, state = train(optimizer, params)
  marks = lambda value: jax.tree.map(lambda x: jnp.full(x.shape, value), params)
  assert_equal(renew(optimizer, state, params, marks(False)), state)
  renewed = renew(optimizer, state, params, marks(True))
  fresh = optimizer.init(params)
  scalars = lambda tree: [x for x in jax.tree.leaves(tree) if not x.ndim]
  arrays = lambda tree: [x for x in jax.tree.leaves(tree) if x.ndim]
  assert_equal(arrays(renewed), arrays(fresh))
  assert_equal(scalars(renewed), scalars(state))  # The counts.


def test_the_moments_of_chosen_places_alone_are_zero(params):
  optimizer = OPTIMIZERS['clipped']
  params, state = train(optimizer, params)
  chosen = jax.tree.map(lambda x: jnp.abs(x) > 0.5, params)
  (_, (adam, *rest)) = state
  (_, (renewed, *rest_renewed)) = renew(optimizer, state, params, chosen)
  for moment in ('mu', 'nu'):
    expected = jax.tree.map(lambda x, c: np.where(c, 0, x), getattr(adam, moment), chosen)
    assert_equal(getattr(renewed, moment), expected)
  assert renewed.count == adam.count == 3
  assert_equal(rest, rest_renewed)


def test_adams_count_is_reset_by_choice_and_a_schedules_never(params):
  optimizer = OPTIMIZERS['scheduled']
  params, state = train(optimizer, params)
  every = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
  adam, schedule = renew(optimizer, state, params, every, reset_count=True)
  assert (adam.count, schedule.count) == (0, 3)
  assert adam.count.dtype == state[0].count.dtype
  plain = OPTIMIZERS['none']
  assert_equal(
    renew(plain, plain.init(params), params, every, reset_count=True), plain.init(params)
  )


def test_a_rate_for_each_part_of_an_actor_critic():
  network = networks.ActorCritic(num_actions=2, hidden_units=(4,))
  params = network.init(jax.random.key(0), np.zeros((1, 1, 3), np.float32))
  optimizer = optimizers.actor_critic_adam()
  params, state = train(optimizer, params)
  chosen = jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.full(x.shape, path[1].key == 'critic_value_0'), params
  )
  renewed = renew(optimizer, state, params, chosen, reset_count=True)
  critic, before = (one.inner_states['critic'].inner_state[0] for one in (renewed, state))
  assert not np.any(critic.mu['params']['critic_value_0']['kernel'])
  assert_equal(critic.mu['params']['critic_value_1'], before.mu['params']['critic_value_1'])
  actor, before = (one.inner_states['actor'].inner_state[0] for one in (renewed, state))
  assert_equal(actor.mu, before.mu)
  assert (critic.count, actor.count) == (0, 0)


def test_the_first_step_after_a_renewal_without_count_is_long():
  """mu/√nu is (1 − β₁)/√(1 − β₂) = √10 once bias correction has worn off, and 1 with it."""
  optimizer, params = optax.adam(1.0, eps=0.0), jnp.ones(2)
  state = optimizer.init(params)
  for _ in range(10_000):
    _, state = jax.jit(optimizer.update)(jnp.ones(2), state)
  for reset, length in ((False, 10**0.5), (True, 1.0)):
    renewed = renew(optimizer, state, params, jnp.array([True, False]), reset)
    changes, _ = optimizer.update(jnp.ones(2), renewed)
    np.testing.assert_allclose(-changes[0], length, rtol=1e-3)

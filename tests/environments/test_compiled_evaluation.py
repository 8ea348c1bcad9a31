"""Evaluations of several policies as one program are the evaluations of each."""

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl.environments.gymnax import GymnaxEnvironment


def act(params, observations, key):
  """Pushes a cart by its pole's angle and speed, at random where `params` says so."""
  lean = observations[:, 0, 2:] @ params['weight']
  random = jax.random.bernoulli(key, params['random'], lean.shape)
  return (random | (lean > 0)).astype(jnp.int32)


def test_each_policy_plays_as_many_rounds_as_alone():
  """A good and two bad policies: the good one is done after the first round, the others later."""
  environment = GymnaxEnvironment('CartPole-v1', num_environments=3)
  weight = jnp.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
  params = {'weight': weight, 'random': jnp.array([0.0, 1.0, 1.0])}
  keys = jax.random.split(jax.random.PRNGKey(1), 3)
  seen = []
  played = environment.evaluate_all(act, params, keys, 100, 60, seen.append)
  lengths = []
  for n, (returns, steps) in enumerate(played):
    own = jax.tree.map(lambda x, n=n: x[n], params)
    expected = environment.evaluate(act, own, keys[n], 100, 60)
    np.testing.assert_array_equal(returns, expected[0])
    np.testing.assert_array_equal(steps, expected[1])
    lengths.append(len(steps))
  assert lengths[0] == 3 < min(lengths[1:])
  assert len(seen) == max(lengths) // 3

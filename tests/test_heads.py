"""Heads: equality with Dopamine's networks, dueling, noise, settings."""

import jax
import numpy as np
import pytest

from implicit_rl import networks
from implicit_rl.heads import C51Head, QHead, QuantileHead
from tests.dopamine_parameters import as_dopamines

KEY = jax.random.PRNGKey(0)
STATE = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
ALL = [
  QHead(dueling=True),
  C51Head(num_atoms=7, v_max=2.0),
  C51Head(num_atoms=7, v_min=-1.0, dueling=True, noisy=True),
  QuantileHead(num_quantiles=5),
]


def dopamine_networks():
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  from dopamine.jax import networks as dopamine

  return dopamine


def test_c51_and_quantile_networks_equal_dopamines():
  """The same parameters give the same distributions, so layout and order of outputs are theirs."""
  dopamine, frames_last = dopamine_networks(), STATE.transpose(0, 2, 3, 1)
  ours = networks.NatureCNN(num_actions=3, head=C51Head(num_atoms=51, v_max=10.0))
  params = ours.init(KEY, STATE)
  found = ours.apply(params, STATE)
  with jax.numpy_rank_promotion('allow'):
    theirs = dopamine.RainbowNetwork(3, 51)
    expected = jax.vmap(lambda s: theirs.apply(as_dopamines(params), s, found.support))(frames_last)
  np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(found.q_values, expected.q_values, rtol=1e-3, atol=1e-4)

  ours = networks.NatureCNN(num_actions=3, head=QuantileHead(num_quantiles=20))
  params = ours.init(KEY, STATE)
  found = ours.apply(params, STATE)
  with jax.numpy_rank_promotion('allow'):
    theirs = dopamine.QuantileNetwork(3, 20)
    expected = jax.vmap(lambda s: theirs.apply(as_dopamines(params), s))(frames_last)
  np.testing.assert_allclose(found.quantiles, expected.logits, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(found.q_values, expected.q_values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('head', ALL)
@pytest.mark.parametrize(
  ('network', 'state'),
  [
    (networks.MinAtarCNN, np.ones((3, 1, 10, 10, 4), np.uint8)),
    (networks.MLP, np.ones((3, 1, 6), np.float32)),
  ],
)
def test_every_network_takes_every_head(network, state, head):
  module = network(num_actions=5, head=head)
  outputs = module.apply(module.init(KEY, state), state)
  assert outputs.q_values.shape == (3, 5)
  assert outputs.features.shape == (3, 128 if network is networks.MinAtarCNN else 64)
  assert np.isfinite(outputs.q_values).all()
  if isinstance(head, C51Head):
    assert outputs.logits.shape == (3, 5, 7)
    assert outputs.support[0] == head.low and outputs.support[-1] == head.v_max


def test_dueling_is_value_plus_centred_advantage():
  module = networks.MLP(num_actions=4, hidden_units=(8,), head=QHead(dueling=True))
  state = np.random.default_rng(0).normal(size=(3, 1, 5)).astype(np.float32)
  params = module.init(KEY, state)
  outputs = module.apply(params, state)
  features, layers = np.asarray(outputs.features), jax.tree.map(np.asarray, params['params'])
  advantage = features @ layers['Dense_1']['kernel'] + layers['Dense_1']['bias']
  value = features @ layers['Dense_2']['kernel'] + layers['Dense_2']['bias']
  expected = value + advantage - advantage.mean(1, keepdims=True)
  np.testing.assert_allclose(outputs.q_values, expected, rtol=1e-4, atol=1e-5)


def test_noise_has_the_variance_of_its_sigma():
  """Over keys a noisy layer's output has the mean layer's mean and Σ(σ·f·f)² + σ_b² as variance."""
  module = networks.MLP(num_actions=2, hidden_units=(), head=QHead(noisy=True))
  state = np.array([[[0.5, -2.0, 1.0]]], np.float32)
  params = module.init(KEY, state)
  draw = jax.vmap(lambda key: module.apply(params, state, rngs={'noise': key}).q_values[0])
  drawn = np.asarray(draw(jax.random.split(KEY, 20_000)), np.float64)
  quiet = module.apply(params, state).q_values[0]
  # f(x) = sign(x)√|x| of a Gaussian has mean 0 and variance E|x| = √(2/π).
  variance = np.sqrt(2 / np.pi)
  sigma = 0.1 / np.sqrt(3)
  expected = sigma**2 * (np.sum(state**2) * variance**2 + variance)
  np.testing.assert_allclose(drawn.mean(0), quiet, atol=0.01)
  np.testing.assert_allclose(drawn.var(0), expected, rtol=0.05)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: C51Head(num_atoms=1), 'C51Head.num_atoms must be at least 2, got 1'),
    (lambda: C51Head(v_max=1.0, v_min=2.0), r'C51Head.v_min \(2.0\) must be below'),
    (lambda: C51Head(v_max=-1.0), 'must be below'),
    (lambda: QuantileHead(num_quantiles=0), 'QuantileHead.num_quantiles must be at least 1'),
  ],
)
def test_settings_out_of_range_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()

"""The soft mixture of experts against NumPy in float64, expert by expert."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from implicit_rl import heads, networks, soft_moe
from implicit_rl.layer_graph import layer_graph

KEY = jax.random.PRNGKey(0)
STATES = np.random.default_rng(0).integers(0, 2, (4, 1, 10, 10, 4)).astype(np.float32)
N, H, P, C = 3, 5, 22, 16  # Experts, their hidden units, slots of each for 64 tokens, channels.
NETWORK = soft_moe.SoftMoE(num_actions=3, num_experts=N, hidden_units=H)


@pytest.fixture(scope='module')
def params():
  """Parameters that have left their initial values, so that biases count."""
  return jax.tree.map(lambda p: p + 0.1, NETWORK.init(KEY, STATES))


def softmax(x, axis):
  x = np.exp(x - x.max(axis, keepdims=True))
  return x / x.sum(axis, keepdims=True)


def test_features_and_values_are_numpys(params):
  outputs = NETWORK.apply(params, STATES)
  own = jax.tree.map(lambda x: np.asarray(x, np.float64), params['params'])
  first, second, head = (own[name] for name in ('Experts_0', 'Experts_1', 'Dense_0'))
  inner_name = list(outputs.layers)[-1]
  for b, tokens in enumerate(np.asarray(outputs.layers['PatchConv_0'].activation, np.float64)):
    tokens = tokens.reshape(64, C)
    logits = tokens @ own['Router']['kernel']  # A column is slot s of expert i: s·N + i.
    dispatch, combine = softmax(logits, axis=0), softmax(logits, axis=1)
    mixed = np.zeros((64, C))
    for i in range(N):
      for s in range(P):
        slot = dispatch[:, s * N + i] @ tokens
        units = slice(i * H, (i + 1) * H)
        before = slot @ first['kernel'][:, units] + first['bias'][units]
        inner = outputs.layers[inner_name].preactivation[b, s, units]
        np.testing.assert_allclose(inner, before, rtol=1e-4, atol=1e-5)
        made = np.maximum(before, 0) @ second['kernel'][units] + second['bias'][i * C : (i + 1) * C]
        mixed += np.outer(combine[:, s * N + i], made)
    np.testing.assert_allclose(outputs.features[b], mixed.ravel(), rtol=1e-4, atol=1e-4)
    q_values = mixed.ravel() @ head['kernel'] + head['bias']
    np.testing.assert_allclose(outputs.q_values[b], q_values, rtol=1e-4, atol=1e-3)


def test_first_and_second_derivatives_are_finite_differences(params):
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    loss = lambda p: NETWORK.apply(p, STATES[:2]).q_values.mean()
    check_grads(jax.jit(loss), (wide,), order=2, atol=1e-4, rtol=1e-4)


HEADS = [
  heads.QHead(dueling=True, noisy=True),
  heads.C51Head(num_atoms=5),
  heads.QuantileHead(num_quantiles=3),
  heads.HLGaussHead(num_bins=5),
]


@pytest.mark.parametrize('head', HEADS)
def test_every_head_fits_and_computes_in_bfloat16(head):
  network = NETWORK.clone(head=head, dtype='bfloat16')
  outputs = jax.jit(network.apply)(jax.jit(network.init)(KEY, STATES), STATES)
  assert outputs.q_values.shape == (4, 3) and outputs.q_values.dtype == np.float32
  assert outputs.features.shape == (4, 64 * C) and np.isfinite(outputs.q_values).all()


def test_frames_of_atari_take_the_convolutions_of_nature_cnn():
  frames = np.zeros((1, 4, 84, 84), np.uint8)
  network = soft_moe.SoftMoE(num_actions=3, num_experts=8, hidden_units=2)
  shapes = jax.eval_shape(network.init, KEY, frames)['params']
  other = jax.eval_shape(networks.NatureCNN(num_actions=3).init, KEY, frames)['params']
  assert {k: v for k, v in shapes.items() if 'Conv' in k} == {
    k: v for k, v in other.items() if 'Conv' in k
  }
  assert shapes['Router']['kernel'].shape == (64, 8 * 16)  # 121 tokens.
  names = networks.hidden_layers(network, frames)
  assert names == ('Conv_0', 'Conv_1', 'Conv_2', 'Experts_0')


def test_the_layer_graph_finds_a_hidden_unit_of_one_expert(params):
  graph = layer_graph(lambda key: NETWORK.init(key, STATES))
  assert graph.layers['Experts_0'].units == N * H
  assert [kernel.path[1] for kernel in graph.heads] == ['Dense_0']
  chosen = {'Experts_0': np.arange(N * H) == H + 2}  # Unit 2 of the second expert.
  into, out_of = graph.masks(chosen, params)
  silenced = jax.tree.map(lambda p, mask: np.where(mask, 0, p), params, into)
  full, less = (
    NETWORK.apply(one, STATES).layers['Experts_0'].activation for one in (params, silenced)
  )
  np.testing.assert_array_equal(less[..., H + 2], 0)
  np.testing.assert_array_equal(np.delete(less, H + 2, -1), np.delete(full, H + 2, -1))
  # Nothing but the outgoing weights reads it.
  deaf = jax.tree.map(lambda p, mask: np.where(mask, 0, p), params, out_of)
  changed = jax.tree.map(lambda p, mask: np.where(mask, p + 1, p), deaf, into)
  q_values = [NETWORK.apply(one, STATES).q_values for one in (deaf, changed, params)]
  np.testing.assert_allclose(q_values[0], q_values[1], rtol=1e-5)
  assert np.abs(q_values[0] - q_values[2]).max() > 1e-3


def test_each_expert_starts_as_a_layer_of_its_own():
  network = soft_moe.SoftMoE(num_actions=3, num_experts=4, hidden_units=512)
  own = jax.jit(network.init)(KEY, STATES)['params']
  for kernel in (own['Experts_0']['kernel'], own['Experts_1']['kernel']):
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (C + 512)), rtol=0.05)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'num_experts': 0}, 'SoftMoE.num_experts must be a whole number of at least 1'),
    ({'activation': 'crelu'}, "SoftMoE.activation must have one output for a unit, got 'crelu'"),
  ],
)
def test_settings_out_of_place_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(NETWORK.clone(**settings).init, KEY, STATES)

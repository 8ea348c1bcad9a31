"""A JAX network that was not trained here is measured right, and nothing is made up."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicit_rl
from implicit_rl import networks
from implicit_rl.diagnostics import Diagnostic
from implicit_rl.types import Layer
from tests.command_line import ROOT
from tests.diagnostics.setting import Setting

RNG = np.random.default_rng(0)
STATES, NEXT = RNG.normal(size=(2, 40, 5)).astype(np.float32)
ACTIONS = RNG.integers(0, 3, 40)
REWARDS = RNG.uniform(-1, 2, 40).astype(np.float32)
TERMINALS = RNG.random(40) < 0.2
RETURNS = np.where(RNG.random(40) < 0.3, np.nan, RNG.normal(size=40)).astype(np.float32)
WEIGHTS = [RNG.normal(size=shape).astype(np.float32) for shape in ((5, 12), (12, 8), (8, 3))]
TARGET = [w + 0.1 for w in WEIGHTS]
GAMMA = 0.9


def apply(params, states):
  hidden = jax.nn.relu(states @ params[0])
  features = jax.nn.relu(hidden @ params[1])
  return {'hidden': hidden, 'phi': features, 'q_values': features @ params[2]}


def pair(params, states):
  layers = apply(params, states)
  return layers['q_values'], layers['phi']


def in_float64(params, states):
  """Φ and Q by NumPy."""
  x = states.astype(np.float64)
  for w in params[:2]:
    x = np.maximum(x @ w.astype(np.float64), 0)
  return x, x @ params[2].astype(np.float64)


def pca_rank(phi):
  shares = np.cumsum(np.linalg.svd(phi, compute_uv=False) ** 2)
  return 1 + np.argmax(shares >= 0.99 * shares[-1])


def dormant(x):
  sizes = np.abs(x).mean(0)
  return np.mean(sizes <= 0.025 * sizes.mean())


def test_measures_are_numpys_in_float64():
  found = implicit_rl.diagnose(
    pair,
    WEIGHTS,
    STATES,
    actions=ACTIONS,
    rewards=REWARDS,
    next_states=NEXT,
    terminals=TERMINALS,
    returns=RETURNS,
    gamma=GAMMA,
    target_params=TARGET,
  )
  phi, q = in_float64(WEIGHTS, STATES)
  values = np.linalg.svd(phi, compute_uv=False)
  shares = np.cumsum(values) / values.sum()
  chosen = q[np.arange(40), ACTIONS]
  known = ~np.isnan(RETURNS)
  target = REWARDS + GAMMA * ~TERMINALS * in_float64(TARGET, NEXT)[1].max(1)
  expected = {
    'srank': 1 + np.argmax(shares >= 0.99),
    'pca_rank': pca_rank(phi),
    'centred_pca_rank': pca_rank(phi - phi.mean(0)),
    'sigma_max': values[0],
    'dormant_units': dormant(phi),
    'q_mean': q.mean(),
    'q_max': q.max(),
    'q_data_gap': np.mean((chosen - RETURNS)[known]),
    'td_error': np.sqrt(np.mean((target - chosen) ** 2)),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
  np.testing.assert_allclose(found.arrays['singular_values'], values, rtol=1e-4, atol=1e-5)
  low, high = found.bounds
  np.testing.assert_allclose((low, high), (REWARDS.min() / 0.1, REWARDS.max() / 0.1), rtol=1e-6)
  assert 'loss' not in found  # Nobody said which one.
  assert dict(found) == dict(found.scalars)


@pytest.mark.parametrize('compiled', [False, True])
def test_a_mapping_of_layers_is_measured_layer_by_layer(compiled):
  named = implicit_rl.diagnose(
    jax.jit(apply) if compiled else apply, WEIGHTS, STATES, features='phi'
  )
  assert set(named.about['layers']) == {'hidden', 'phi'}
  plain = implicit_rl.diagnose(pair, WEIGHTS, STATES)
  assert plain.about['layers'] == ('features',)
  for name in plain.scalars:
    other = named[name.replace('/features', '/phi')]
    np.testing.assert_allclose(other, plain[name], rtol=1e-5, atol=1e-5, err_msg=name)
  hidden = np.maximum(STATES.astype(np.float64) @ WEIGHTS[0], 0)
  np.testing.assert_allclose(named['dormant_units/hidden'], dormant(hidden))


def test_the_last_layer_is_phi_unless_one_is_named():
  last = implicit_rl.diagnose(apply, WEIGHTS, STATES)
  assert last.about['layers'] == ('hidden', 'phi')
  assert last.about['width'] == 8
  assert implicit_rl.diagnose(apply, WEIGHTS, STATES, features='hidden').about['width'] == 12
  with pytest.raises(ValueError, match=r"one of \['hidden', 'phi'\], got 'psi'"):
    implicit_rl.diagnose(apply, WEIGHTS, STATES, features='psi')


def test_a_flax_network_of_ones_own():
  class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Conv(6, (3, 3))(x))
      features = nn.relu(nn.Dense(10)(x.reshape(len(x), -1)))
      return {'conv': x, 'dense': features, 'q_values': nn.Dense(2)(features)}

  network, images = Network(), RNG.integers(0, 255, (16, 6, 6, 1), np.uint8)
  init = lambda key: network.init(key, images[:1] / 255)
  found = implicit_rl.diagnose(
    lambda params, states: network.apply(params, states / 255),
    init(jax.random.PRNGKey(0)),
    images,
    init=init,
  )
  assert found.fresh['srank'] > 1
  assert found.verdicts[0].level == 'good'
  conv = np.asarray(network.apply(init(jax.random.PRNGKey(0)), images / 255)['conv'], np.float64)
  np.testing.assert_allclose(found['dormant_units/conv'], dormant(conv.reshape(-1, 6)))


@dataclasses.dataclass(frozen=True)
class Needs(Diagnostic):
  """Something that only some callers give."""

  what: str

  def measure(self, context, state, batch, key):
    q_values = lambda params, states: jnp.mean(context.apply(params, states).q_values)
    loss = lambda params: context.loss(params, state.target_params, batch, key)[0]
    measures = {
      'params': lambda: optax.tree.norm(state.params),
      'gradient': lambda: optax.tree.norm(jax.grad(q_values)(state.params, batch.state)),
      'next_states': lambda: q_values(state.params, batch.next_state),
      'target_params': lambda: q_values(state.target_params, batch.state),
      'loss': lambda: optax.tree.norm(jax.grad(loss)(state.params)),
      'actions': lambda: jnp.mean(jnp.asarray(batch.action) == 0),
      'init': lambda: optax.tree.norm(context.init(key)),
      'optimizer': lambda: optax.tree.norm(context.optimizer.init(state.params)),
      'optimizer_state': lambda: optax.tree.norm(state.optimizer_state),
      'gamma': lambda: 1.0 * context.discount,
      'q_values': lambda: q_values(state.params, batch.state),
    }
    return {f'of_{self.what}': measures[self.what]()}


ALL = {
  name: Needs(what=name)
  for name in (
    'params gradient next_states target_params loss actions init optimizer optimizer_state gamma '
    'q_values'
  ).split()
}
WHOLE = {
  'actions': ACTIONS,
  'rewards': REWARDS,
  'next_states': NEXT,
  'gamma': GAMMA,
  'target_params': TARGET,
  'init': lambda key: WEIGHTS,
  'optimizer': optax.adam(1e-3),
  'optimizer_state': optax.adam(1e-3).init(WEIGHTS),
}


def test_a_diagnostic_is_taken_if_what_it_needs_was_given_and_else_listed():
  given = implicit_rl.diagnose(pair, WEIGHTS, STATES, diagnostics=ALL, **WHOLE)
  assert set(given.not_measured) == {'q_data_gap'}
  assert {f'of_{name}' for name in ALL} <= set(given)
  assert all(np.isfinite(value) for name, value in given.items() if name.startswith('of_'))
  alone = implicit_rl.diagnose(pair, WEIGHTS, STATES, diagnostics=ALL)
  measured = {name for name in alone if name.startswith('of_')}
  assert measured == {'of_params', 'of_gradient', 'of_q_values'}
  for name in WHOLE.keys() - {'rewards'}:
    assert alone.not_measured[name] == f'give {name}'
  assert 'or a loss' in alone.not_measured['loss']
  without = implicit_rl.diagnose_features({'phi': pair(WEIGHTS, STATES)[1]}, diagnostics=ALL)
  assert not {name for name in without if name.startswith('of_')}
  assert 'diagnose()' in without.not_measured['params']
  assert 'q_values' in without.not_measured['q_values']
  assert not {'q_mean', 'q_max', 'td_error', 'loss', 'q_data_gap'} & set(without)


@pytest.mark.parametrize('name', ['params', 'gradient', 'next_states', 'target_params', 'actions'])
def test_what_computes_on_the_host_is_refused_alike(name):
  class OnTheHost(Needs):
    compiled = False

  found = implicit_rl.diagnose_features(
    {'phi': pair(WEIGHTS, STATES)[1]}, diagnostics={name: OnTheHost(what=name)}
  )
  assert name in found.not_measured
  assert f'of_{name}' not in found


@pytest.mark.parametrize('network', [networks.MLP, networks.MinAtarCNN])
def test_a_network_of_the_project_keeps_its_own_layers(network):
  setting = Setting(network)
  found = implicit_rl.diagnose(setting.context.apply, setting.params, setting.batch.state)
  assert found.about['layers'] == setting.context.layers
  assert {f'dormant_units/{name}' for name in setting.context.layers} <= set(found)


def test_non_finite_features_give_nan():
  broken = [np.full_like(WEIGHTS[0], np.nan), *WEIGHTS[1:]]
  found = implicit_rl.diagnose(apply, broken, STATES, gamma=GAMMA, reward_range=(0, 1))
  assert found.scalars
  assert all(np.isnan(value) for value in found.values()), found
  assert [one.level for one in found.verdicts] == ['bad', 'unknown', 'bad']
  assert set(found.as_dict()['scalars'].values()) == {None}
  infinite = implicit_rl.diagnose(apply, [WEIGHTS[0], WEIGHTS[1] * np.inf, WEIGHTS[2]], STATES)
  assert np.isnan(infinite['srank'])


WRONG = {
  r'^states must have a row for at least one state, got shape \(0, 5\)': dict(states=STATES[:0]),
  r'^actions must have a row for each of 40 states, got shape \(3,\)': dict(actions=ACTIONS[:3]),
  r'^next_states must have .* got shape \(39, 5\)': dict(next_states=NEXT[1:]),
  r'mapping of layers.* it returned \w*Tracer': dict(apply=lambda params, states: states),
  r'mapping of layers.* it returned no layer': dict(apply=lambda params, states: {}),
  r"'features' must have the shape \[B, d\]": dict(
    apply=lambda params, states: (states, states[:, :, None])
  ),
  r"Layer 'x' .* got \(40, 0\)": dict(apply=lambda params, states: {'x': states[:, :0]}),
  r"Layer 'x' must hold floating-point": dict(apply=lambda params, states: {'x': states > 0}),
  r'q_values must have the shape \[40, A\], got \(40,\)': dict(
    apply=lambda params, states: (states[:, 0], states)
  ),
  r'returned 20 rows of features for 40 states': dict(
    apply=lambda params, states: {'x': states[:20]}
  ),
}


@pytest.mark.parametrize('message', WRONG)
def test_wrong_input_is_told_in_one_line(message):
  arguments = {'apply': pair, 'params': WEIGHTS, 'states': STATES} | WRONG[message]
  with pytest.raises(ValueError, match=message) as caught:
    implicit_rl.diagnose(**arguments)
  assert '\n' not in str(caught.value)


def test_layers_may_have_both_sides_of_the_activation():
  def both(params, states):
    hidden = states @ params[0]
    return {'hidden': Layer(hidden, jax.nn.relu(hidden))}

  class Above(Diagnostic):
    def measure(self, context, state, batch, key):
      layer = context.apply(state.params, batch.state).layers['hidden']
      return {'above': jnp.mean(layer.preactivation)}

  found = implicit_rl.diagnose(both, WEIGHTS, STATES, diagnostics={'above': Above()})
  np.testing.assert_allclose(found['above'], np.mean(STATES @ WEIGHTS[0]), rtol=1e-4)
  only = implicit_rl.diagnose(
    lambda params, states: {'hidden': jax.nn.relu(states @ params[0])},
    WEIGHTS,
    STATES,
    diagnostics={'above': Above()},
  )
  assert np.isnan(only['above'])


def test_the_documented_network_is_diagnosed(capsys):
  page = (ROOT / 'docs/diagnose.md').read_text()
  (code,) = re.findall(r'```python\n# my_network.py\n(.*?)```', page, re.DOTALL)
  scope = {'__name__': 'my_network'}
  exec(code, scope)
  found = scope['diagnosis']
  assert found.about['layers'] == ('first', 'second')
  assert [one.level for one in found.verdicts] == ['good', 'good', 'unknown']
  assert 'dormant_units/second' in capsys.readouterr().out

"""Parseval, spectral regularisation and BEER, which read the network's kernels, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import networks
from implicit_rl.context import Context
from implicit_rl.heads import C51Head
from implicit_rl.remedies.beer import BEER
from implicit_rl.remedies.kernels import hidden_kernels
from implicit_rl.remedies.parseval import Parseval
from implicit_rl.remedies.spectral_regularization import SpectralRegularization
from tests.cases import cases
from tests.remedies import setting as settings
from tests.remedies.test_loss_terms import slope

KINDS = ('dqn', 'rainbow', 'qr', 'sac')
each_kind = pytest.mark.parametrize(
  'kind', cases(((kind,) for kind in KINDS), ('rainbow', 'sac').__contains__)
)


@pytest.fixture(scope='module')
def made():
  return {kind: settings.make(kind) for kind in KINDS}


def matrices(setting, params=None):
  """Weights [out, fan_in] of the hidden layers, picked by hand, in float64."""
  params = (setting.params if params is None else params)['params']
  if 'critic_hidden_0' in params:
    layers = [params[f'critic_hidden_{k}'][f'Dense_{i}'] for k in (0, 1) for i in (0, 1)]
    return [np.asarray(layer['kernel'], np.float64).T for layer in layers]
  if 'NoisyDense_0' in params:
    return [np.asarray(params[f'NoisyDense_{i}']['kernel_mu'], np.float64) for i in (0, 1)]
  return [np.asarray(params[f'Dense_{i}']['kernel'], np.float64).T for i in (0, 1)]


@each_kind
def test_parseval_is_the_distance_of_w_wt_to_a_multiple_of_one(made, kind):
  setting = made[kind]
  expected = sum(
    (64 / len(w)) ** 2 * np.sum((w @ w.T - 1.5 * np.eye(len(w))) ** 2) for w in matrices(setting)
  )
  term = setting.term(Parseval(0.1, scale=1.5))[0]
  np.testing.assert_allclose(term, 0.1 * expected, rtol=1e-5)


def test_orthogonal_weights_have_no_parseval_term():
  """And wider ones only what no choice of weights avoids: s² for each row too many."""
  square, wide = (settings.make('dqn', hidden_units=widths) for widths in ((5, 5), (7, 7)))
  for setting, left in ((square, 0), (wide, (64 / 7) ** 2 * 2 * 4)):
    exact, estimate = slope(setting, Parseval(1.0))
    np.testing.assert_allclose(exact, estimate, rtol=1e-4)
    params = jax.tree.map(lambda p: p, setting.params)  # Other dicts.
    for i in (0, 1):
      kernel = params['params'][f'Dense_{i}']['kernel']
      u, _, v = np.linalg.svd(kernel, full_matrices=False)
      params['params'][f'Dense_{i}']['kernel'] = jnp.asarray(np.sqrt(2) * u @ v)
    np.testing.assert_allclose(setting.term(Parseval(1.0), params)[0], left, rtol=1e-5, atol=1e-8)


@each_kind
def test_spectral_regularisation_is_that_of_an_svd(made, kind):
  setting, remedy = made[kind], SpectralRegularization(0.1, exponent=3.0)
  sizes = [np.linalg.svd(w, compute_uv=False)[0] for w in matrices(setting)]
  extra = remedy.init(setting.context, setting.params, jax.random.PRNGKey(0))
  expected = sum((size**3 - 1) ** 2 for size in sizes)
  np.testing.assert_allclose(setting.term(remedy, extra=extra)[0], 0.1 * expected, rtol=1e-3)
  singular = tuple(jnp.asarray(np.linalg.svd(w)[0][:, 0]) for w in matrices(setting))
  exact, estimate = slope(setting, remedy, singular)
  np.testing.assert_allclose(exact, estimate, rtol=1e-4)


def test_the_vectors_follow_weights_that_change(made):
  """Weights jump; within a hundred updates the estimate is the new largest singular value."""
  setting, remedy = made['dqn'], SpectralRegularization(1.0)
  learner = setting.learner({'one': remedy}, optimizer=optax.sgd(0.0), loop='scan')
  state = learner.init(jax.tree.map(jnp.copy, setting.params), jax.random.PRNGKey(0))
  state = state._replace(params=jax.tree.map(lambda p: jnp.flip(p) * 2, state.params))
  moved = jax.tree.map(np.array, state.params)
  batches = jax.tree.map(lambda x: np.stack([x] * 100), setting.batch)
  _, info = learner.update_many(state, batches)
  sizes = [np.linalg.svd(w, compute_uv=False)[0] for w in matrices(setting, moved)]
  expected = sum((size**2 - 1) ** 2 for size in sizes)
  found = info.metrics['Losses/SpectralRegularization']
  np.testing.assert_allclose(found[-1], expected, rtol=1e-4)
  assert abs(found[0] - expected) > 1e-3 * expected


@pytest.mark.parametrize(
  'network, shape, names',
  [
    (networks.NatureCNN(3, 8), (2, 12, 12), ['Conv_0', 'Conv_1', 'Conv_2', 'RowDense_0']),
    (networks.SmallCNN(3, 8, True), (2, 42, 42), ['Conv_0', 'Conv_1', 'Dense_0']),
    (
      networks.MinAtarCNN(3, 8, head=C51Head(True, True, 5)),
      (1, 10, 10, 4),
      ['PatchConv_0', 'NoisyDense_0'],
    ),
  ],
)
def test_kernels_of_every_network_are_what_lies_before_each_unit(network, shape, names):
  """Columns for units: [fan_in, out], a convolution's patch flattened, rows transposed."""
  stack = np.zeros((1, *shape), np.float32)
  init = lambda key: network.init(key, stack)
  layers = networks.hidden_layers(network, stack)
  params = init(jax.random.PRNGKey(0))
  found = hidden_kernels(Context(init=init, layers=layers), params, 'This')
  assert len(found) == len(names)
  for name, kernel in zip(names, found, strict=True):
    own = params['params'][name]
    array = np.asarray(own.get('kernel', own.get('kernel_mu')))
    rows = 'RowDense' in name or 'NoisyDense' in name
    expected = array.T if rows else array.reshape(-1, array.shape[-1])
    np.testing.assert_array_equal(kernel, expected)
    assert kernel.shape[1] == own.get('bias', own.get('bias_mu')).shape[0]


def excess(setting, head_squares):
  """BEER's mean, in NumPy, over the critics."""
  batch, gamma, total = setting.batch, settings.GAMMA, 0.0
  params, target = setting.params, setting.target_params
  features = lambda p, s, a: settings.features(setting, p, s, a)
  now = features(params, batch.state, batch.action)
  following = features(
    params, batch.next_state, settings.next_action(setting, params, batch.next_state)
  )
  old = features(target, batch.next_state, settings.next_action(setting, target, batch.next_state))
  for phi, online, frozen, square in zip(now, following, old, head_squares, strict=True):
    size = lambda x: np.maximum(np.linalg.norm(x, axis=1), 1e-6)
    bound = size(phi) ** 2 + gamma**2 * size(online) ** 2 - batch.reward**2 / square
    bound = bound / (2 * gamma * size(phi) * size(frozen))
    cosine = np.sum(phi * frozen, axis=1) / (size(phi) * size(frozen))
    total += np.mean(batch.discount * np.maximum(0, cosine - bound))
  return total


@each_kind
def test_beer_penalises_what_exceeds_the_bound(made, kind):
  setting = made[kind]
  # Large rewards, so that the bound is passed.
  setting = setting._replace(batch=setting.batch._replace(reward=3 * setting.batch.reward))
  params = setting.params['params']
  heads = {
    'dqn': [['Dense_2']],
    'rainbow': [['NoisyDense_2', 'NoisyDense_3']],
    'qr': [['Dense_2']],
    'sac': [['critic_value_0'], ['critic_value_1']],
  }[kind]
  name = 'kernel_mu' if kind == 'rainbow' else 'kernel'
  squares = [sum(np.sum(np.square(params[one][name])) for one in head) for head in heads]
  expected = excess(setting, squares)
  assert expected > 0.01
  np.testing.assert_allclose(setting.term(BEER(0.5))[0], 0.5 * expected, rtol=1e-4)


def test_beers_gradient_is_the_cosines_alone(made):
  """Differences of the cosine in φ, where the term is active; the bound is held fixed."""
  setting = made['dqn']
  batch = setting.batch._replace(reward=30 * setting.batch.reward)  # The bound is far below −1.
  setting = setting._replace(batch=batch)
  apply = setting.context.apply

  def cosine(params):
    phi = apply(params, batch.state).features
    frozen = apply(setting.target_params, batch.next_state).features
    sizes = [jnp.maximum(jnp.linalg.norm(x, axis=1), 1e-6) for x in (phi, frozen)]
    return jnp.mean(batch.discount * jnp.sum(phi * frozen, axis=1) / (sizes[0] * sizes[1]))

  alive = np.linalg.norm(apply(setting.params, batch.state).features, axis=1) > 1e-6
  assert alive.all()
  expected = jax.grad(cosine)(setting.params)
  found = jax.grad(lambda params: setting.term(BEER(1.0), params)[0])(setting.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_networks_without_layers_are_refused(made):
  setting, key = made['dqn'], jax.random.PRNGKey(0)
  bare = dataclasses.replace(setting.context, layers=())
  for remedy in (Parseval(), SpectralRegularization(), BEER()):
    said = rf'{type(remedy).__name__} needs a network that reports its hidden layers'
    with pytest.raises(ValueError, match=said):
      remedy.init(bare, setting.params, key)
  with pytest.raises(ValueError, match=r'BEER needs Agent\.gamma above 0, got 0'):
    BEER().init(dataclasses.replace(setting.context, discount=0.0), setting.params, key)

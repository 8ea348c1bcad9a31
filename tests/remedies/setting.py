"""Small agents' losses with the context that remedies are given, for tests without an `Agent`."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from implicit_rl import losses, networks
from implicit_rl.agents.checks import batch_shapes
from implicit_rl.context import Context
from implicit_rl.heads import C51Head, QHead, QuantileHead
from implicit_rl.learner import Learner
from implicit_rl.types import Batch

A, B, D = 3, 16, 5  # Actions, batch, observation.
GAMMA = 0.9


class Setting(NamedTuple):
  """A loss and its context; `params` and `target_params` differ."""

  loss: object
  context: Context
  params: dict
  target_params: dict
  batch: Batch

  def learner(self, remedies, **settings):
    return Learner(self.loss, remedies=remedies, context=self.context, **settings)

  def term(self, remedy, params=None, extra=None, target_params=None):
    """The weighted term and its metrics."""
    params = self.params if params is None else params
    target_params = self.target_params if target_params is None else target_params
    return jax.jit(self._term, static_argnums=0)(remedy, params, target_params, self.batch, extra)

  def _term(self, remedy, params, target_params, batch, extra):
    key = jax.random.PRNGKey(5)
    _, aux = self.loss(params, target_params, batch, key)
    return remedy.loss_term(self.context, params, target_params, batch, aux, key, extra)


def make_batch(seed=0, continuous=False):
  """B transitions; a third of them end an episode."""
  rng = np.random.default_rng(seed)
  states = lambda: rng.normal(size=(B, 1, D)).astype(np.float32)
  if continuous:
    actions = lambda: rng.uniform(-1, 1, (B, A)).astype(np.float32)
  else:
    actions = lambda: rng.integers(0, A, B).astype(np.int32)
  return Batch(
    state=states(),
    action=actions(),
    reward=rng.normal(size=B).astype(np.float32),
    next_state=states(),
    next_action=actions(),
    discount=(np.arange(B) % 3 > 0).astype(np.float32),
    weight=np.ones(B, np.float32),
  )


def make(kind='dqn', **network_settings):
  """'dqn', 'rainbow' (dueling, noisy C51), 'qr' or 'sac', on an MLP of widths 8 and 6."""
  continuous = kind == 'sac'
  stack = np.zeros((1, D), np.float32)
  widths = network_settings.pop('hidden_units', (8, 6))
  if continuous:
    network = networks.ActorCritic(A, widths, **network_settings)
    loss = functools.partial(
      losses.sac_loss, apply=network.apply, discount=GAMMA, target_entropy=-A
    )
  else:
    head = {
      'dqn': QHead(),
      'rainbow': C51Head(dueling=True, noisy=True, num_atoms=5, v_max=3.0),
      'qr': QuantileHead(num_quantiles=4),
    }[kind]
    network = networks.MLP(A, widths, head=head, **network_settings)
    settings = {'apply': network.apply, 'discount': GAMMA}
    loss = {
      'dqn': functools.partial(losses.dqn_loss, **settings),
      'rainbow': losses.with_noise(losses.c51_loss, **settings),
      'qr': functools.partial(losses.qr_dqn_loss, **settings),
    }[kind]
  context = Context(
    apply=network.apply,
    init=lambda key: network.init(key, stack[None]),
    loss=loss,
    discount=GAMMA,
    num_actions=A,
    network=network,
    layers=networks.hidden_layers(network, stack[None]),
    batch=batch_shapes(stack, B, (A,) if continuous else ()),
  )
  init = jax.jit(context.init)
  params, target = (jitter(init(jax.random.PRNGKey(i)), i) for i in (1, 2))
  return Setting(loss, context, params, target, make_batch(continuous=continuous))


def jitter(params, seed):
  """Params away from their start, so that no bias is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda p: p + rng.normal(size=p.shape, scale=0.1).astype(np.float32), params)


def critic_features(setting, params, state, action):
  """Φ of each critic, in NumPy float64, from the weights alone."""
  x = np.concatenate([np.reshape(state, (B, -1)), action], axis=-1).astype(np.float64)
  found = []
  for number in range(setting.context.network.num_critics):
    layers = params['params'][f'critic_hidden_{number}']
    found.append(mlp(x, layers)[-1])
  return found


def mlp(x, layers, kernel='kernel', bias='bias', last=None):
  """Activations of relu layers Dense_0, Dense_1, ... (or rows) in NumPy float64."""
  found = []
  for name in sorted(layers):
    if name == last:
      break
    weights = np.asarray(layers[name][kernel], np.float64)
    weights = weights.T if kernel == 'kernel_mu' else weights
    x = np.maximum(x @ weights + np.asarray(layers[name][bias], np.float64), 0)
    found.append(x)
  return found


def features(setting, params, state, action=None):
  """Φ of each critic, or of the value network with mean weights, in NumPy float64."""
  if 'critic_hidden_0' in params['params']:
    return critic_features(setting, params, state, action)
  x = np.reshape(state, (B, -1)).astype(np.float64)
  layers = {k: v for k, v in params['params'].items() if k.endswith(('Dense_0', 'Dense_1'))}
  noisy = 'kernel_mu' in layers[min(layers)]
  names = ('kernel_mu', 'bias_mu') if noisy else ('kernel', 'bias')
  return [mlp(x, layers, *names)[-1]]


def next_action(setting, params, state):
  """The tanh of the policy's mean, in NumPy float64; None of a value network."""
  if 'actor_hidden' not in params['params']:
    return None
  x = mlp(np.reshape(state, (B, -1)).astype(np.float64), params['params']['actor_hidden'])[-1]
  mean = params['params']['actor_mean']
  return np.tanh(x @ np.asarray(mean['kernel'], np.float64) + np.asarray(mean['bias'], np.float64))

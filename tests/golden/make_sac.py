"""Records SAC's and CQL's terms of d3rlpy and Stable-Baselines3 in sac.npz, for the tests.

Both bring PyTorch, so they are in no list of requirements. The arrays came from

    python -m venv peers
    peers/bin/pip install torch==2.13.0 d3rlpy==2.8.1 stable-baselines3==2.9.2
    peers/bin/python tests/golden/make_sac.py

on Linux x86-64, Python 3.11, CPU. It holds the parameters of a policy, two critics and two target
critics, a batch, the normal and uniform numbers that were drawn (given to the libraries in place of
their own), what d3rlpy's `CQLImpl` makes of them (targets with entropy, a learnt multiplier), its
gradients, and the three losses that Stable-Baselines3's `SAC.train` logs.
"""

import pathlib
from unittest import mock

import gymnasium
import numpy as np
import torch
from d3rlpy.algos import CQLConfig
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch
from stable_baselines3 import SAC
from stable_baselines3.common import logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

B, D, A, N, HIDDEN = 16, 5, 3, 4, 12
SETTINGS = {
  'discount': 0.9,
  'temperature': 0.7,
  'weight': 1.9,
  'threshold': 0.5,
  'multiplier': 1.3,
  'target_entropy': -1.1,
}
RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


BATCH = {
  'state': normal(B, D),
  'action': np.tanh(normal(B, A)),
  'reward': normal(B),
  'next_state': normal(B, D),
  'discount': RNG.integers(0, 2, B).astype(np.float32),  # 0 where terminal
}
NOISE = {
  'now': normal(B, A),
  'following': normal(B, A),
  'cql_now': normal(N, B, A),
  'cql_following': normal(N, B, A),
  'cql_uniform': RNG.uniform(-1, 1, (N, B, A)).astype(np.float32),
}


class GivenNumbers:
  """Hands out recorded numbers where PyTorch would draw some."""

  def __init__(self, *arrays):
    self._left = list(arrays)

  def __call__(self, shape, *_, **__):
    given = torch.from_numpy(self._left.pop(0))
    assert tuple(shape) == tuple(given.shape), (shape, given.shape)
    return given


def give(*arrays):
  torch.distributions.normal._standard_normal = GivenNumbers(*arrays)


def column(values):
  return torch.from_numpy(np.asarray(values, np.float32).reshape(B, -1))


def linear_layers(policy, critics):
  """The layers by the names that they have in implicit_rl's ActorCritic."""
  named = {
    'actor_hidden/Dense_0': policy._encoder._layers[0],
    'actor_mean': policy._mu,
    'actor_log_std': policy._logstd,
  }
  for i, critic in enumerate(critics):
    named[f'critic_hidden_{i}/Dense_0'] = critic._encoder._layers[0]
    named[f'critic_value_{i}'] = critic._fc
  return named


def arrays_of(layers, prefix, gradients=False):
  """Kernels [in, out] and biases."""
  found = {}
  for name, layer in layers.items():
    for part, value in (('kernel', layer.weight), ('bias', layer.bias)):
      value = (value.grad if gradients else value.detach()).numpy()
      found[f'{prefix}/{name}/{part}'] = value.T.copy()
  return found


def d3rlpy_terms():
  """(layers online, layers of the target critics, arrays)."""
  encoder = VectorEncoderFactory(hidden_units=[HIDDEN])
  algorithm = CQLConfig(
    actor_encoder_factory=encoder,
    critic_encoder_factory=encoder,
    gamma=SETTINGS['discount'],
    initial_temperature=SETTINGS['temperature'],
    initial_alpha=SETTINGS['multiplier'],
    alpha_threshold=SETTINGS['threshold'],
    conservative_weight=SETTINGS['weight'],
    n_action_samples=N,
    soft_q_backup=True,
    temp_learning_rate=1e-30,  # The losses are wanted, not the steps.
    alpha_learning_rate=1e-30,
  ).create()
  algorithm.create_impl((D,), A)
  modules = algorithm.impl._modules
  layers = linear_layers(modules.policy, modules.q_funcs)
  target_layers = linear_layers(modules.policy, modules.targ_q_funcs)
  with torch.no_grad():
    for layer in {*layers.values(), *target_layers.values()}:
      for parameter in (layer.weight, layer.bias):
        parameter.copy_(torch.from_numpy(0.25 * normal(*parameter.shape)))
    # Narrow, so that Stable-Baselines3's log(1 − a² + 1e-6) is log(1 − a²) to the tests' tolerance.
    modules.policy._logstd.bias -= 1
  batch = TorchMiniBatch(
    observations=column(BATCH['state']),
    actions=column(BATCH['action']),
    rewards=column(BATCH['reward']),
    next_observations=column(BATCH['next_state']),
    next_actions=column(np.zeros((B, A))),
    returns_to_go=column(np.zeros(B)),
    terminals=column(1 - BATCH['discount']),
    intervals=column(np.ones(B)),
    device='cpu',
  )
  flat = torch.from_numpy(NOISE['cql_uniform'].transpose(1, 0, 2).reshape(B * N, A).copy())
  implementation = algorithm.impl
  give(NOISE['following'], NOISE['cql_now'], NOISE['cql_following'], NOISE['now'])
  with mock.patch.object(torch.Tensor, 'uniform_', lambda self, low, high: self.copy_(flat)):
    critics = implementation.compute_critic_loss(batch, implementation.compute_target(batch))
  multiplier_gradient = modules.log_alpha._parameter.grad.numpy().reshape(()).copy()
  critics.critic_loss.backward()
  gradients = arrays_of({k: v for k, v in layers.items() if 'critic' in k}, 'gradient', True)
  for layer in layers.values():
    layer.zero_grad()
  actor = implementation.compute_actor_loss(batch, modules.policy(batch.observations))
  actor.actor_loss.backward()
  gradients |= arrays_of({k: v for k, v in layers.items() if 'actor' in k}, 'gradient', True)
  return (
    layers,
    target_layers,
    {
      'd3rlpy/critic_loss': critics.critic_loss.detach().numpy(),
      'd3rlpy/conservative_loss': critics.conservative_loss.detach().numpy(),
      'd3rlpy/actor_loss': actor.actor_loss.detach().numpy(),
      'd3rlpy/temperature_loss': actor.temp_loss.detach().numpy(),
      'gradient/log_multiplier': multiplier_gradient,
      **gradients,
    },
  )


class NoTask(gymnasium.Env):
  """Spaces alone, which Stable-Baselines3 asks for."""

  observation_space = gymnasium.spaces.Box(-1, 1, (D,))
  action_space = gymnasium.spaces.Box(-1, 1, (A,))


def stable_baselines3_terms(layers, target_layers):
  """Its losses at the same parameters."""
  model = SAC(
    'MlpPolicy',
    NoTask(),
    learning_rate=0.0,
    gamma=SETTINGS['discount'],
    ent_coef=f'auto_{SETTINGS["temperature"]}',
    target_entropy=SETTINGS['target_entropy'],
    policy_kwargs={'net_arch': [HIDDEN]},
    device='cpu',
  )
  theirs = {
    'actor_hidden/Dense_0': model.actor.latent_pi[0],
    'actor_mean': model.actor.mu,
    'actor_log_std': model.actor.log_std,
  }
  pairs = [(theirs[name], layers[name]) for name in theirs]
  for critic, source in ((model.critic, layers), (model.critic_target, target_layers)):
    for i, network in enumerate((critic.qf0, critic.qf1)):
      pairs.append((network[0], source[f'critic_hidden_{i}/Dense_0']))
      pairs.append((network[2], source[f'critic_value_{i}']))
  for to, source in pairs:
    to.load_state_dict(source.state_dict())
  samples = ReplayBufferSamples(
    observations=column(BATCH['state']),
    actions=column(BATCH['action']),
    next_observations=column(BATCH['next_state']),
    dones=column(1 - BATCH['discount']),
    rewards=column(BATCH['reward']),
  )
  model.replay_buffer.sample = lambda *_, **__: samples
  model.set_logger(logger.configure(None, []))
  give(NOISE['now'], NOISE['following'])
  model.train(gradient_steps=1, batch_size=B)
  logged = model.logger.name_to_value
  return {
    f'sb3/{name}': np.float32(logged[f'train/{name}'])
    for name in ('critic_loss', 'actor_loss', 'ent_coef_loss')
  }


if __name__ == '__main__':
  online, target, terms = d3rlpy_terms()
  terms |= stable_baselines3_terms(online, target)
  np.savez_compressed(
    pathlib.Path(__file__).parent / 'sac.npz',
    **{f'setting/{name}': np.float64(value) for name, value in SETTINGS.items()},
    **{f'batch/{name}': value for name, value in BATCH.items()},
    **{f'noise/{name}': value for name, value in NOISE.items()},
    **arrays_of(online, 'params'),
    **arrays_of(target, 'target'),
    **terms,
  )

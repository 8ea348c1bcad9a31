"""Records d3rlpy's discrete CQL loss in d3rlpy_cql.npz; the tests compare ours with it.

d3rlpy brings PyTorch, so it is in no list of requirements. The arrays came from

    python -m venv d3rlpy && d3rlpy/bin/pip install torch==2.13.0 d3rlpy==2.8.1
    d3rlpy/bin/python tests/golden/make_d3rlpy_cql.py

on Linux x86-64, Python 3.11, CPU. For each of d3rlpy's heads, `mean` (one value per action) and
`qr` (quantiles), it holds a random batch, what d3rlpy's own online and target networks say of its
states, the three losses that `DiscreteCQLImpl.compute_loss` returns, and the gradient with respect
to the biases of the last layer, which is the sum over the batch of that to the network's outputs.
"""

import pathlib

import numpy as np
import torch
from d3rlpy.algos import DiscreteCQLConfig
from d3rlpy.models import MeanQFunctionFactory, QRQFunctionFactory, VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch

B, D, A, N = 32, 6, 5, 7
ALPHA, GAMMA, INTERVAL = 1.7, 0.9, 3
HEADS = {'mean': MeanQFunctionFactory(), 'qr': QRQFunctionFactory(n_quantiles=N)}


def record(factory, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """One batch through d3rlpy's discrete CQL."""
  algorithm = DiscreteCQLConfig(
    alpha=ALPHA,
    gamma=GAMMA,
    q_func_factory=factory,
    encoder_factory=VectorEncoderFactory(hidden_units=[16]),
  ).create()
  algorithm.create_impl((D,), A)
  implementation = algorithm.impl
  online, target = implementation._modules.q_funcs[0], implementation._modules.targ_q_funcs[0]
  with torch.no_grad():
    for parameter in (*online.parameters(), *target.parameters()):
      parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape).astype(np.float32)))

  def column(values):
    return torch.from_numpy(np.asarray(values, np.float32).reshape(B, -1))

  action, reward = rng.integers(0, A, B), rng.normal(size=B)
  terminal = rng.integers(0, 2, B)
  batch = TorchMiniBatch(
    observations=column(rng.normal(size=(B, D))),
    actions=column(action).long(),
    rewards=column(reward),
    next_observations=column(rng.normal(size=(B, D))),
    next_actions=column(np.zeros(B)).long(),
    returns_to_go=column(np.zeros(B)),
    terminals=column(terminal),
    intervals=column(np.full(B, INTERVAL)),
    device='cpu',
  )
  losses = implementation.compute_loss(batch, implementation.compute_target(batch))
  losses.loss.backward()

  def outputs(network, states):
    said = network(states)
    chosen = said.q_value if said.quantiles is None else said.quantiles
    return chosen.detach().numpy()

  return {
    'action': action.astype(np.int32),
    'reward': reward.astype(np.float32),
    'terminal': terminal.astype(np.float32),
    'online_tm1': outputs(online, batch.observations),  # [B, A] or [B, A, N]
    'online_t': outputs(online, batch.next_observations),
    'target_t': outputs(target, batch.next_observations),
    'loss': losses.loss.detach().numpy(),
    'td_loss': losses.td_loss.detach().numpy(),
    'conservative_loss': losses.conservative_loss.detach().numpy(),
    'gradient': online._fc.bias.grad.numpy().reshape(A, -1).squeeze(),  # [A] or [A, N]
  }


if __name__ == '__main__':
  generator = np.random.default_rng(0)
  arrays = {'alpha': np.float64(ALPHA), 'discount': np.float64(GAMMA**INTERVAL)}
  for head, made in HEADS.items():
    arrays |= {f'{head}/{name}': value for name, value in record(made, generator).items()}
  np.savez_compressed(pathlib.Path(__file__).parent / 'd3rlpy_cql.npz', **arrays)

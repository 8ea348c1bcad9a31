"""The same update in other libraries, written here for the comparison; PyTorch if it imports."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from implicit_rl.measure_device import workloads
from implicit_rl.measure_device.report import Case, timed
from implicit_rl.measure_device.speed import Scale

GAMMA, RATE, EPSILON = 0.99, 6.25e-5, 1.5e-4


class _Network(nn.Module):
  """The network of `size` in plain Flax: frames last, without features in its outputs."""

  size: workloads.Size

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    atari = self.size.largest == 256
    x = jnp.moveaxis(x, 1, -1) if atari else x[:, 0]
    x = x.astype(jnp.float32) / (self.size.largest - 1)
    layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1)) if atari else ((16, 3, 1),)
    for width, side, stride in layers:
      padding = 'SAME' if atari else 'VALID'
      x = nn.relu(nn.Conv(width, (side, side), stride, padding=padding)(x))
    x = nn.relu(nn.Dense(512 if atari else 128)(x.reshape(len(x), -1)))
    return nn.Dense(self.size.actions)(x)


def cases(scale: Scale) -> Iterator[Case]:
  """Yields updates per second for the base case."""
  for network in scale.networks:
    for name, scanned in (('plain Flax', False), ('all in one scan, as purejaxrl', True)):
      yield f'{network}, {name}', functools.partial(_flax, network, scale, scanned)
  for compiled in (False, True) if scale.torch_compile else (False,):
    for network in scale.networks:
      name = f'{network}, PyTorch{", torch.compile" if compiled else ""}'
      yield name, functools.partial(_torch, network, scale, compiled)


def _flax(network: str, scale: Scale, scanned: bool) -> dict[str, Any]:
  """DQN with Flax and optax: a jitted update for each batch, or K updates in one program."""
  size, (count, _, batch) = workloads.SIZES[network], scale.base.values()
  some = jax.device_put(workloads.batches(size, count, batch))
  module: Any = _Network(size)
  optimizer = optax.adam(RATE, eps=EPSILON)
  target = module.init(jax.random.PRNGKey(0), some.state[0])
  carry = jax.tree.map(jnp.copy, target), optimizer.init(target)

  def update(carry, one):
    params, moments = carry
    wanted = one.reward + GAMMA * one.discount * module.apply(target, one.next_state).max(axis=1)

    def loss(params):
      chosen = module.apply(params, one.state)[jnp.arange(batch), one.action]
      return optax.huber_loss(chosen, wanted).mean()

    changes, moments = optimizer.update(jax.grad(loss)(params), moments)
    return (optax.apply_updates(params, changes), moments), None

  scan = jax.jit(lambda carry: jax.lax.scan(update, carry, some)[0], donate_argnums=0)
  step = jax.jit(lambda carry, one: update(carry, one)[0], donate_argnums=0)
  each = [jax.tree.map(lambda x, k=k: x[k], some) for k in range(count)]
  held = [carry]

  def run() -> Any:
    if scanned:
      held[0] = scan(held[0])
    else:
      for one in each:
        held[0] = step(held[0], one)
    return held

  taken = timed(run, scale.seconds)
  return {'updates/s': count / taken['seconds'], 'compile_s': taken['compile_s']}


def _torch(network: str, scale: Scale, compiled: bool) -> dict[str, Any]:
  """DQN with PyTorch on the same batches; on CUDA compiled updates replay CUDA graphs."""
  if importlib.util.find_spec('torch') is None:
    return {'updates/s': 'not installed'}
  import torch

  from implicit_rl.measure_device import peers_torch

  size, (count, _, batch) = workloads.SIZES[network], scale.base.values()
  drawn = workloads.batches(size, count, batch)
  atari = size.largest == 256
  channels_first = lambda x: x if atari else np.ascontiguousarray(np.moveaxis(x[:, :, 0], -1, 2))
  made = peers_torch.nature(size.actions) if atari else peers_torch.minatar(4, size.actions)
  run = peers_torch.updates(
    made,
    {
      'state': channels_first(drawn.state),
      'next_state': channels_first(drawn.next_state),
      **{name: getattr(drawn, name) for name in ('action', 'reward', 'discount')},
    },
    size.largest - 1,
    GAMMA,
    RATE,
    EPSILON,
    compiled,
  )
  taken = timed(run, scale.seconds)
  return {
    'updates/s': count / taken['seconds'],
    'compile_s': taken['compile_s'],
    'torch': torch.__version__,
  }

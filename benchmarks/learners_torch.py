"""DQN and CQL updates of libraries on PyTorch, and of sbx, on batches that are in memory.

Each takes the convolutions' padding, an endless iterator of batches as `learners.random_batches`
makes them, and their size, and returns what does a number of updates.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ACTIONS, GAMMA, RATE, EPSILON = 18, 0.99, 5e-5, 0.01 / 32
KEPT = 8  # batches that a library is handed again and again, in its own form
Work = Callable[[int], object]
Batches = Iterator[dict[str, np.ndarray]]


def plain(padding: str, batches: Batches, size: int, fast: bool = False) -> Work:
  """DQN in PyTorch as one writes it; `fast` adds channels-last memory and the fused Adam."""
  import torch
  from torch import nn

  from implicit_rl.measure_device import peers_torch

  del size
  online = peers_torch.nature(ACTIONS, padding)
  target = copy.deepcopy(online)
  memory = torch.channels_last if fast else torch.contiguous_format
  online, target = online.to(memory_format=memory), target.to(memory_format=memory)
  optimizer = torch.optim.Adam(online.parameters(), RATE, eps=EPSILON, fused=fast)
  tensors = itertools.cycle(
    [
      {
        name: torch.from_numpy(x).contiguous(memory_format=memory)
        if x.ndim == 4
        else torch.from_numpy(x)
        for name, x in one.items()
      }
      for one in itertools.islice(batches, KEPT)
    ]
  )

  def work(count: int) -> None:
    for b in itertools.islice(tensors, count):
      with torch.no_grad():
        following = target(b['next_state'].float() / 255).max(1).values
        wanted = b['reward'] + GAMMA * (1 - b['terminal']) * following
      q = online(b['state'].float() / 255).gather(1, b['action'].long()[:, None])[:, 0]
      optimizer.zero_grad()
      nn.functional.smooth_l1_loss(q, wanted).backward()
      optimizer.step()

  return work


def d3rlpy(kind: str, padding: str, batches: Batches, size: int) -> Work:
  """Algorithms of d3rlpy, 'DQN', 'CQL' or 'CQL-QR' with 200 quantiles; its batches are float32."""
  import d3rlpy as library
  from d3rlpy import models

  assert padding == 'VALID'
  settings: dict[str, Any] = {
    'batch_size': size,
    'learning_rate': RATE,
    'observation_scaler': library.preprocessing.PixelObservationScaler(),
    'optim_factory': library.optimizers.AdamFactory(eps=EPSILON),
    'target_update_interval': 2000,
  }
  if kind == 'CQL-QR':
    settings['q_func_factory'] = models.QRQFunctionFactory(n_quantiles=200)
  configuration = library.algos.DQNConfig if kind == 'DQN' else library.algos.DiscreteCQLConfig
  algorithm = configuration(**settings).create(device='cpu')
  algorithm.create_impl((4, 84, 84), ACTIONS)
  column = lambda x: np.asarray(x, np.float32)[:, None]
  made = [
    library.dataset.TransitionMiniBatch(
      observations=one['state'].astype(np.float32),
      actions=column(one['action']),
      rewards=column(one['reward']),
      next_observations=one['next_state'].astype(np.float32),
      next_actions=column(one['action']),
      terminals=column(one['terminal']),
      intervals=np.ones((size, 1), np.float32),
      transitions=[],
    )
    for one in itertools.islice(batches, KEPT)
  ]
  endless = itertools.cycle(made)

  def work(count: int) -> None:
    for batch in itertools.islice(endless, count):
      algorithm.update(batch)

  return work


def _frames_task() -> Any:
  """Spaces alone, which the libraries ask for."""
  import gymnasium

  class NoTask(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

  return NoTask()


def _samples(one: dict[str, np.ndarray]) -> Any:
  """A batch as the buffers of Stable-Baselines3 and sbx return it."""
  import torch
  from stable_baselines3.common.type_aliases import ReplayBufferSamples

  column = lambda x: torch.from_numpy(x)[:, None]
  return ReplayBufferSamples(
    observations=torch.from_numpy(one['state']),
    actions=column(one['action']).long(),
    next_observations=torch.from_numpy(one['next_state']),
    dones=column(one['terminal']),
    rewards=column(one['reward']),
    discounts=None,
  )


def _in_memory(model: Any, made: list[Any]) -> Any:
  """A model of Stable-Baselines3's shape, given batches instead of sampling them."""
  from stable_baselines3.common import logger

  endless = itertools.cycle(made)
  model.set_logger(logger.configure(None, []))
  model.replay_buffer.sample = lambda *_, **__: next(endless)
  return model


_MODEL = {
  'policy': 'CnnPolicy',
  'learning_rate': RATE,
  'buffer_size': 100,
}


def stable_baselines3(padding: str, batches: Batches, size: int) -> Work:
  """DQN of Stable-Baselines3."""
  from stable_baselines3 import DQN

  assert padding == 'VALID'
  model = DQN(
    env=_frames_task(),
    batch_size=size,
    policy_kwargs={'optimizer_kwargs': {'eps': EPSILON}},
    device='cpu',
    **_MODEL,
  )
  model = _in_memory(model, [_samples(one) for one in itertools.islice(batches, KEPT)])
  return lambda count: model.train(count, size)


def sbx(padding: str, batches: Batches, size: int) -> Work:
  """DQN of sbx (JAX), whose updates are one scan over a batch for all of them."""
  from sbx import DQN

  assert padding == 'VALID'
  model = DQN(env=_frames_task(), batch_size=size, policy_kwargs={'net_arch': [512]}, **_MODEL)
  together: dict[int, Any] = {}  # of so many updates, their batches in one

  def work(count: int) -> None:
    if count not in together:
      some = list(itertools.islice(batches, count))
      together[count] = _samples(
        {name: np.concatenate([x[name] for x in some]) for name in some[0]}
      )
    _in_memory(model, [together[count]]).train(size, count)

  return work

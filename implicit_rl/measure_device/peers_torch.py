"""DQN in plain PyTorch, uncompiled and compiled. Imports PyTorch, but not JAX."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

# Padding of Flax's 'SAME' for the Nature network's three convolutions: left, right, top, bottom.
_SAME = ((2, 2, 2, 2), (1, 2, 1, 2), (1, 1, 1, 1))
_NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # width, side, stride


def nature(actions: int, padding: str = 'SAME') -> nn.Sequential:
  """Returns the Nature network of frames [B, 4, 84, 84]; `padding` is 'SAME' or 'VALID'."""
  layers: list[nn.Module] = []
  before = 4
  for pad, (width, side, stride) in zip(_SAME, _NATURE, strict=True):
    layers += [nn.ZeroPad2d(pad)] if padding == 'SAME' else []
    layers += [nn.Conv2d(before, width, side, stride), nn.ReLU()]
    before = width
  flat = 7744 if padding == 'SAME' else 3136
  return nn.Sequential(*layers, nn.Flatten(), *_dense(flat, 512, actions))


def minatar(channels: int, actions: int) -> nn.Sequential:
  """Returns MinAtar's network of frames [B, channels, 10, 10]."""
  layers = (nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten())
  return nn.Sequential(*layers, *_dense(16 * 8 * 8, 128, actions))


def _dense(flat: int, hidden: int, actions: int) -> tuple[nn.Module, ...]:
  return nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, actions)


def updates(
  online: nn.Module,
  batches: Mapping[str, np.ndarray],
  scale: float,
  gamma: float,
  rate: float,
  epsilon: float,
  compiled: bool,
) -> Callable[[], list[float]]:
  """Returns a function for K updates of DQN with Adam and the Huber loss, on CUDA if possible.

  Args:
    online: the network; its target network is a fixed copy.
    batches: `state` and `next_state` [K, B, C, H, W], `action`, `reward` and `discount` [K, B].
    scale: observations are divided by it.
    gamma: γ.
    rate: Adam's learning rate.
    epsilon: Adam's ε.
    compiled: whether to use `torch.compile`; on CUDA in the mode that records CUDA graphs.

  Returns:
    A function that returns the loss of each update after all are done: [K].
  """
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  online = online.to(device)
  target = copy.deepcopy(online)
  optimizer = torch.optim.Adam(
    online.parameters(), rate, eps=epsilon, fused=True, capturable=device == 'cuda'
  )
  count = len(batches['reward'])
  each = [
    {name: torch.from_numpy(values[k]).to(device) for name, values in batches.items()}
    for k in range(count)
  ]

  def update(b: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
      following = target(b['next_state'].float() / scale).max(1).values
      wanted = b['reward'] + gamma * b['discount'] * following
    q = online(b['state'].float() / scale).gather(1, b['action'].long()[:, None])[:, 0]
    loss = nn.functional.huber_loss(q, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()

  mode = 'reduce-overhead' if device == 'cuda' else 'default'
  step: Any = torch.compile(update, mode=mode) if compiled else update

  def run() -> list[float]:
    # A compiled update may return its loss in memory that the next one overwrites.
    losses = [step(b).clone() for b in each]
    return torch.stack(losses).tolist()  # Waits for the device.

  return run

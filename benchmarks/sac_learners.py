"""The SAC learners that `sac.py` compares: ours, Stable-Baselines3's, sbx's; and what all need.

All have the same networks (256, 256), batches of 256, Adam with 3e-4, a learnt temperature and
Polyak targets at every update, and draw their batches from as many random transitions.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable

import numpy as np
import turns

OBSERVATION, ACTION = 17, 6  # HalfCheetah's
ROWS = 20_000
CHUNK = 64  # updates in one call, for those that can do several at once

Work = Callable[[int], object]


def random_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Transitions without meaning, a time limit after every thousand."""
  return {
    'observation': rng.normal(size=(ROWS, OBSERVATION)).astype(np.float32),
    'action': rng.uniform(-1, 1, (ROWS, ACTION)).astype(np.float32),
    'reward': rng.normal(size=ROWS).astype(np.float32),
    'end': np.arange(ROWS) % 1000 == 999,
  }


def ours() -> Work:
  """The agent, with its replay, as `run_experiment.py` builds it."""
  import functools

  import optax

  from implicit_rl.agents.sac import SACAgent
  from implicit_rl.data.replay.online_replay import OnlineReplay
  from implicit_rl.learner import Learner
  from implicit_rl.networks import ActorCritic

  agent = SACAgent(
    ACTION,
    (OBSERVATION,),
    np.float32,
    1,
    functools.partial(OnlineReplay, capacity=ROWS),
    network=ActorCritic,
    batch_size=256,
    learner=functools.partial(
      Learner, optimizer=optax.adam(3e-4), target_update_period=1, target_update_rate=0.005
    ),
  )
  rows = random_rows(np.random.default_rng(0))
  for t in range(ROWS):
    end = bool(rows['end'][t])
    agent.source.add(rows['observation'][t], rows['action'][t], rows['reward'][t], False, end)
  return agent.train


def _task():
  """Spaces alone, which the libraries ask for."""
  import gymnasium

  class NoTask(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-10, 10, (OBSERVATION,))
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,))

  return NoTask()


def _peer(kind, **settings) -> Work:
  from stable_baselines3.common import logger

  model = kind(
    'MlpPolicy',
    _task(),
    learning_rate=3e-4,
    buffer_size=ROWS,
    batch_size=256,
    policy_kwargs={'net_arch': [256, 256]},
    **settings,
  )
  model.set_logger(logger.configure(None, []))
  rows = random_rows(np.random.default_rng(0))
  for t in range(ROWS - 1):
    model.replay_buffer.add(
      rows['observation'][t : t + 1],
      rows['observation'][t + 1 : t + 2],
      rows['action'][t : t + 1],
      rows['reward'][t : t + 1],
      rows['end'][t : t + 1],
      [{'TimeLimit.truncated': bool(rows['end'][t])}],
    )

  def work(count: int) -> None:
    for start in range(0, count, CHUNK):
      model.train(min(CHUNK, count - start), 256)

  return work


def stable_baselines3() -> Work:
  """Stable-Baselines3's SAC, on PyTorch."""
  import torch
  from stable_baselines3 import SAC

  torch.set_num_threads(1)
  return _peer(SAC, device='cpu')


def sbx() -> Work:
  """Stable-Baselines-JAX's SAC."""
  from sbx import SAC

  return _peer(SAC)


def products() -> Work:
  """An update's matrix products alone, by NumPy's BLAS: what is left if all else cost nothing.

  Each shape has operands of its own that stay in the cache; the critics' last layers, one wide, are
  left out.
  """
  batch, hidden = 256, 256
  critic, actor = (OBSERVATION + ACTION, hidden, hidden), (OBSERVATION, hidden, hidden, 2 * ACTION)

  def forward(widths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(batch, i, o) for i, o in itertools.pairwise(widths)]

  def to_kernels(widths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(i, batch, o) for i, o in itertools.pairwise(widths)]

  def to_inputs(widths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(batch, o, i) for i, o in itertools.pairwise(widths)]

  critics = forward(critic) + to_kernels(critic) + to_inputs(critic[1:])  # their regression
  critics += forward(critic)  # the targets
  critics += forward(critic) + to_inputs((ACTION, *critic[1:]))  # the policy's actions
  policy = forward(actor)  # in the next states
  policy += forward(actor) + to_kernels(actor) + to_inputs(actor[1:])
  shapes = 2 * critics + policy
  rng = np.random.default_rng(0)
  operands = {
    (n, k, m): (rng.random((n, k), np.float32), rng.random((k, m), np.float32))
    for n, k, m in shapes
  }
  results = {(n, k, m): np.empty((n, m), np.float32) for n, k, m in shapes}

  def work(count: int) -> None:
    for _ in range(count):
      for shape in shapes:
        np.matmul(*operands[shape], out=results[shape])

  return work


LEARNERS = {
  'ours': ours,
  'Stable-Baselines3': stable_baselines3,
  'sbx': sbx,
  'products alone': products,
}
PEERS = {'Stable-Baselines3': 'stable_baselines3', 'sbx': 'sbx'}  # what each must import


if __name__ == '__main__':
  os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})  # One thread at a time.
  if sys.argv[1] == 'ours':
    turns.as_runs_do()
  turns.serve(lambda: (LEARNERS[sys.argv[1]](), None), CHUNK)

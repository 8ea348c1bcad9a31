"""Trains what the core has, where TensorFlow, TFDS and Dopamine can't be imported.

    python -m tests.core_training

prints a line for each training. It is a program of its own, since pytest's process has all three.
"""

from tests import blocked_imports  # Before the rest.

# isort: split
import functools
import sys

import jax
import numpy as np

from implicit_rl.agents.cql import CQLAgent
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.agents.rainbow import RainbowAgent
from implicit_rl.data import source, transitions
from implicit_rl.data.replay.device_replay import DeviceReplay
from implicit_rl.data.store.frame_store import RawFrames
from implicit_rl.diagnostics.churn import Churn
from implicit_rl.environments.gymnax import GymnaxEnvironment
from implicit_rl.environments.minatar import MinAtarEnvironment
from implicit_rl.learner import Learner
from implicit_rl.networks import MLP, MinAtarCNN
from implicit_rl.remedies.l2_init import L2Init
from implicit_rl.remedies.redo import ReDo
from implicit_rl.running import configurables
from implicit_rl.running.compiled_online_loop import LoopReport, OnlineLoop
from implicit_rl.running.vmapped_loops import VmappedLoops

NETWORK = functools.partial(MLP, hidden_units=(16, 16))


def device_data(observation_shape, observation_dtype, **settings):
  """Random episodes of ten steps, in device memory."""
  rng = np.random.default_rng(0)
  rows = 200
  end = np.arange(rows) % 10 == 9
  columns = transitions.make_columns(rng.integers(0, 3, rows), rng.normal(size=rows), end, end)
  frames = rng.integers(0, 2, (rows, *observation_shape)).astype(observation_dtype)
  return source.StoredSource(columns, RawFrames(frames), on_device=True, **settings)


def train_offline(make_agent, network):
  """Six updates from the device store, and one measurement with diagnostics."""
  agent = make_agent(
    3,
    (10, 10, 4),
    np.uint8,
    1,
    device_data,
    network=network,
    batch_size=8,
    learner=functools.partial(
      Learner, penalty_weight=0.001, remedies={'redo': ReDo(period=2), 'l2': L2Init()}
    ),
    diagnostics={'churn': Churn()},
  )
  before = jax.tree.map(np.array, agent.state.params)
  metrics = agent.train(6)
  measured = agent.measure(agent.source.fixed_batch(32))
  report(f'offline {make_agent.__name__}', agent, before, metrics['Losses/Total'])
  assert measured['srank'] >= 1, measured


def online(environment, seed):
  """A compiled loop of an agent that is about to learn."""
  agent = DQNAgent(
    environment.num_actions,
    environment.observation_shape,
    environment.observation_dtype,
    1,
    functools.partial(DeviceReplay, capacity=200, num_environments=4, prioritized=True),
    network=NETWORK,
    batch_size=8,
    updates_per_step=0.5,
    min_replay_history=20,
    seed=seed,
  )
  return agent, OnlineLoop(agent, environment)


def train_online(environment):
  """One seed in the compiled loop."""
  agent, loop = online(environment, 0)
  before = jax.tree.map(np.array, agent.state.params)
  loss = loop.run(60).sums.means()['Losses/Total']
  report(f'online {environment.name}', agent, before, loss)


def train_seeds_online(environment):
  """Two seeds in one vmapped program, then an evaluation."""
  agents, loops = zip(*(online(environment, seed) for seed in range(2)), strict=True)
  before = jax.tree.map(np.array, agents[1].state.params)
  reports = [LoopReport(), LoopReport()]
  VmappedLoops(loops).run(60, lambda steps: None, reports)
  loss = reports[1].sums.means()['Losses/Total']
  report(f'two seeds online {environment.name}', agents[1], before, loss)
  returns, _ = environment.evaluate(
    agents[1].policy, agents[1].state.params, agents[1].evaluation_key, 1, 5
  )
  assert np.isfinite(returns).all()


def report(what, agent, before, loss):
  """Prints how many updates were done; the loss must be finite and the parameters new."""
  changed = jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), before, agent.state.params))
  assert any(map(bool, changed)) and np.isfinite(loss), what
  print(what, agent.updates)


def main():
  """Trains."""
  configurables.load()  # All agents, remedies and diagnostics.
  train_offline(CQLAgent, functools.partial(MinAtarCNN, hidden_units=16))
  train_offline(RainbowAgent, NETWORK)
  train_online(MinAtarEnvironment('Breakout'))
  train_seeds_online(GymnaxEnvironment('CartPole-v1', num_environments=2))
  assert not [name for name in sys.modules if name.partition('.')[0] in blocked_imports.NAMES]


if __name__ == '__main__':
  main()

"""Whole training loops, ours and Dopamine's, for `minatar.py` and `atari_loop.py`.

    python benchmarks/loops.py NAME

A worker of `turns`: a count is a gradient update of an offline loop, sampling included, or an
environment step of an online one, its updates included. Both sides have the same network, settings
and data; Dopamine's side is its own agent with its own replay and train step.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import learners
import numpy as np
import turns

ATARI, MINATAR = 'gin_configs/atari/offline_dqn.gin', 'gin_configs/minatar/offline_dqn.gin'
ONLINE = 'gin_configs/minatar/online_dqn.gin'
HISTORY = 1000  # environment steps before the first update of an online loop
CAPACITY = 100_000

Work = Callable[[int], object]


def _runner(files: Sequence[str], bindings: Sequence[str] = ()) -> Any:
  from implicit_rl.running import experiment

  experiment.parse_gin(files, bindings)
  return experiment.create_runner(tempfile.mkdtemp(prefix='implicit_rl_bench_'), 0)


def ours_offline(file: str, penalty: bool) -> Work:
  """`Agent.train`, as a training phase calls it, on the embedded data."""
  agent = _runner([file, *([learners.PENALTY] if penalty else [])])._agent

  def work(count: int) -> None:
    agent.train(count)

  return work


def ours_online(rate: float) -> Work:
  """The compiled loop that the online runner calls, penalty on."""
  from implicit_rl.running import compiled_online_loop

  bindings = [f'OnlineRunner.updates_per_step = {rate}', f'Agent.min_replay_history = {HISTORY}']
  runner = _runner([ONLINE, learners.PENALTY], bindings)
  return compiled_online_loop.OnlineLoop(runner._agent, runner._environment).run


def logged(file: str) -> Iterator[tuple]:
  """The embedded data, (frame, action, reward, terminal, episode_end) by step."""
  source = _runner([file])._agent.source
  columns = source._columns
  for first in range(0, len(columns.action), 1024):
    rows = np.arange(first, min(first + 1024, len(columns.action)))
    for row, frame in zip(rows, source._frames.take(rows), strict=True):
      yield (
        frame,
        int(columns.action[row]),
        float(columns.reward[row]),
        bool(columns.terminal[row]),
        bool(columns.episode_end[row]),
      )


def minatar_network() -> Any:
  """Our MinAtar network as Dopamine's agents call one: on one state, frames last."""
  import jax
  import jax.numpy as jnp
  from dopamine.discrete_domains import atari_lib
  from flax import linen as nn

  from implicit_rl import networks

  class Network(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
      outputs = networks.MinAtarCNN(num_actions=self.num_actions)(jnp.moveaxis(x, -1, 0)[None])
      return atari_lib.DQNNetworkType(outputs.q_values)

  return Network


def dopamine_agent(size: str, actions: int, update_period: int, history: int) -> Any:
  """Dopamine's JaxDQNAgent with our settings."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  import gin

  with gin.unlock_config():  # Dopamine's modules add to it when they are imported.
    from dopamine.jax.agents.dqn import dqn_agent

    gin.bind_parameter('ReplayBuffer.max_capacity', CAPACITY)
    gin.bind_parameter('ReplayBuffer.batch_size', 32)
  settings: dict[str, Any] = {}
  if size == 'MinAtar':
    settings = {
      'observation_shape': (10, 10, 4),
      'stack_size': 1,
      'network': minatar_network(),
      'epsilon_train': 0.1,
      'epsilon_decay_period': 100_000,
    }
  return dqn_agent.JaxDQNAgent(
    actions,
    update_period=update_period,
    target_update_period=1000,
    min_replay_history=history,
    loss_type='huber',
    seed=0,
    **settings,
  )


def dopamine_offline(size: str) -> Work:
  """Its train step on its own buffer, which the embedded data was added to."""
  import jax

  steps = list(logged(ATARI if size == 'Atari' else MINATAR))
  agent = dopamine_agent(size, 6 if size == 'Atari' else 3, update_period=1, history=0)
  for frame, action, reward, terminal, end in steps:
    agent._store_transition(frame, action, reward, terminal, episode_end=end)

  def work(count: int) -> None:
    for _ in range(count):
      agent._train_step()
    jax.block_until_ready(agent.online_params)

  return work


def dopamine_logs() -> Work:
  """Its train function on its circular buffer, loaded from files in DQN Replay's format."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  import gin
  import jax

  with gin.unlock_config():
    from dopamine.jax.agents.dqn import dqn_agent
    from dopamine.tf.replay_memory import circular_replay_buffer

  steps = list(logged(ATARI))
  make = functools.partial(
    circular_replay_buffer.OutOfGraphReplayBuffer, (84, 84), 4, len(steps) + 10_000, 32
  )
  with tempfile.TemporaryDirectory() as folder:
    buffer = make()
    for frame, action, reward, terminal, end in steps:
      buffer.add(frame, action, reward, terminal, episode_end=end)
    buffer.save(folder, 0)
    buffer = make()
    buffer.load(folder, '0')
  agent = dopamine_agent('Atari', 6, 1, 0)

  def work(count: int) -> None:
    for _ in range(count):
      state, action, reward, following, _, _, terminal, _ = buffer.sample_transition_batch()
      agent.optimizer_state, agent.online_params, _ = dqn_agent.train(
        agent.network_def,
        agent.online_params,
        agent.target_network_params,
        agent.optimizer,
        agent.optimizer_state,
        state,
        action,
        following,
        reward,
        terminal,
        agent.cumulative_gamma,
        'huber',
      )
    jax.block_until_ready(agent.online_params)

  return work


def dopamine_online(rate: float) -> Work:
  """Its agent in the MinAtar of Young and Tian (PyPI's `MinAtar`), step by step."""
  import jax
  from minatar import Environment

  environment = Environment('breakout')
  environment.seed(0)
  agent = dopamine_agent('MinAtar', environment.num_actions(), round(1 / rate), HISTORY)
  action = None

  def work(count: int) -> None:
    nonlocal action
    for _ in range(count):
      if action is None:
        environment.reset()
        action = agent.begin_episode(environment.state())
      reward, terminal = environment.act(int(action))
      if terminal:
        agent.end_episode(reward, True)
        action = None
      else:
        action = agent.step(reward, environment.state())
    jax.block_until_ready(agent.online_params)

  return work


def ours_evaluating(file: str, limit: int | None) -> Work:
  """The runner's evaluation; returns how many environment steps it counts.

  Episodes are cut after `limit` steps, or the count: a network without training may play for long.
  """
  runner = _runner([file])

  def work(count: int) -> int:
    from dopamine.discrete_domains import iteration_statistics

    statistics = iteration_statistics.IterationStatistics()
    runner._evaluation_steps, runner._max_steps_per_episode = count, limit or count
    runner._evaluate(0, statistics)
    return int(sum(statistics.data_lists['eval_episode_lengths']))

  return work


def dopamine_evaluating(size: str) -> Work:
  """Its agent in its environment, one step after the other, as its runner plays."""
  agent = dopamine_agent(size, 6, 1, 0)
  agent.eval_mode = True
  if size == 'Atari':
    from dopamine.discrete_domains import atari_lib

    environment = atari_lib.create_atari_environment('Pong', sticky_actions=True)
    reset, step = environment.reset, lambda action: environment.step(action)[:3]
  else:
    from minatar import Environment

    environment = Environment('breakout')

    def reset() -> np.ndarray:
      environment.reset()
      return environment.state()

    def step(action: int) -> tuple:
      reward, terminal = environment.act(action)
      return environment.state(), reward, terminal

  def work(count: int) -> None:
    terminal = True
    for _ in range(count):
      if terminal:
        action = agent.begin_episode(reset())
      observation, reward, terminal = step(int(action))
      if terminal:
        agent.end_episode(reward, terminal)
      else:
        action = agent.step(reward, observation)

  return work


class Loop(NamedTuple):
  """A loop to time.

  Attributes:
    make: of what does a count.
    against: the loop of ours that it is compared with.
    in_a_round: how much a round does.
    warm_up: how much before: compiles, and fills an online loop's memory.
  """

  make: Callable[[], Work]
  against: str
  in_a_round: int
  warm_up: int


def _pair(name: str, ours: Callable, peers: Mapping[str, Callable], *counts: int) -> dict:
  """A loop of ours and those of Dopamine's: how much ours does, warms up with, and theirs."""
  found = {name: Loop(ours, name, *counts[:2])}
  return found | {peer: Loop(make, name, *counts[2:]) for peer, make in peers.items()}


LOOPS: dict[str, Loop] = {
  **_pair(
    'ours, Atari',
    functools.partial(ours_offline, ATARI, True),
    {
      'Dopamine, Atari': functools.partial(dopamine_offline, 'Atari'),
      'Dopamine, Atari, logs': dopamine_logs,
    },
    *(16, 16, 16, 4),
  ),
  **_pair(
    'ours, MinAtar',
    functools.partial(ours_offline, MINATAR, True),
    {'Dopamine, MinAtar': functools.partial(dopamine_offline, 'MinAtar')},
    *(512, 512, 128, 8),
  ),
}
for _n in (0.25, 1.0):
  LOOPS |= _pair(
    f'ours, MinAtar online, n = {_n:g}',
    functools.partial(ours_online, _n),
    {f'Dopamine, MinAtar online, n = {_n:g}': functools.partial(dopamine_online, _n)},
    *(4000, 4000, 128, HISTORY + 32),
  )


# As many steps in Atari as it takes to keep all the games that are played side by side busy.
for _size, _file, _limit, _ours in (
  ('Atari', ATARI, 1000, 8000),
  ('MinAtar', MINATAR, None, 4000),
):
  LOOPS |= _pair(
    f'ours, {_size} evaluation',
    functools.partial(ours_evaluating, _file, _limit),
    {f'Dopamine, {_size} evaluation': functools.partial(dopamine_evaluating, _size)},
    *(_ours, _ours, 256, 8),
  )


def measure(names: Sequence[str], rounds: int, minatar: str | None = None) -> turns.Results:
  """Lets loops take turns on one core; `minatar` is the folder that MinAtar is in."""
  processes = []
  for name in names:
    command = [sys.executable, __file__, name, *([minatar] if minatar else [])]
    processes.append(turns.Process(name, command, turns.threads(1)))
    print(f'{name}: ready in {processes[-1].ready["first_batch_s"]:.0f} s', file=sys.stderr)
  return turns.take_turns(processes, {n: LOOPS[n].in_a_round for n in names}, rounds)


def compare(names: Sequence[str], unit: str, rounds: int, minatar: str | None = None) -> str:
  """The table of what `measure` found."""
  results = measure(names, rounds, minatar)
  return turns.table(results, {name: LOOPS[name].against for name in names}, unit=unit)


if __name__ == '__main__':
  turns.pin(1)
  sys.path[:0] = sys.argv[2:]  # Where MinAtar lies, before the script here of the same name.
  loop = LOOPS[sys.argv[1]]
  if loop.against == sys.argv[1]:
    turns.as_runs_do()
  turns.serve(lambda: (loop.make(), None), loop.warm_up)

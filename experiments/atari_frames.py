"""Logs an Atari game while a DQN learns it: every frame, action, reward and end, in one file.

    python experiments/atari_frames.py --game=Seaquest --steps=100000 --replay=seaquest.npz

The agent is this package's DQN with double Q-learning and 3-step returns on a small network, so
that a CPU suffices. The file holds the frames in the order they were seen; `embedded_pong.py` cuts
the embedded sample from one, and `benchmarks/data.py` measures the frame stores on them.
"""

import functools

import numpy as np
import optax
from absl import app, flags
from tqdm import tqdm

from implicit_rl import cpu
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data.replay.online_replay import OnlineReplay
from implicit_rl.environments.atari import AtariEnvironment
from implicit_rl.learner import Learner
from implicit_rl.networks import SmallCNN

FLAGS = flags.FLAGS
flags.DEFINE_string('game', 'Pong', "ALE's name of the game.")
flags.DEFINE_string('replay', 'replay.npz', 'The file to write.')
flags.DEFINE_integer('steps', 100_000, 'Environment steps of training.', lower_bound=1)
flags.DEFINE_float('updates_per_step', 0.25, 'Gradient updates per environment step.')
flags.DEFINE_integer('seed', 0, 'Seed of the agent and of the game.')


def make_agent(num_actions: int) -> DQNAgent:
  """Returns the agent; its replay keeps every step of the run."""
  return DQNAgent(
    num_actions,
    source=functools.partial(OnlineReplay, capacity=FLAGS.steps),
    network=SmallCNN,
    update_horizon=3,
    double=True,
    updates_per_step=FLAGS.updates_per_step,
    min_replay_history=5_000,
    epsilon_decay_period=FLAGS.steps // 5,
    epsilon_train=0.02,
    learner=functools.partial(
      Learner, optimizer=optax.adam(2.5e-4, eps=1.5e-4), target_update_period=1000
    ),
    seed=FLAGS.seed,
  )


def main(_: list[str]) -> None:
  """Trains for --steps environment steps and saves everything that was seen."""
  cpu.use_kernels()
  environment = AtariEnvironment(FLAGS.game, seed=FLAGS.seed)
  agent = make_agent(environment.num_actions)
  returns: list[float] = []
  with tqdm(total=FLAGS.steps, unit=' steps', mininterval=30, desc=FLAGS.game) as bar:
    while bar.n < FLAGS.steps:
      action, total, start = agent.begin_episode(environment.reset()), 0.0, bar.n
      for _ in range(min(environment.max_steps_per_episode, FLAGS.steps - start)):
        observation, reward, terminal, _ = environment.step(action)
        total += reward
        bar.update()
        if terminal or bar.n == FLAGS.steps:
          break
        action = agent.step(np.clip(reward, -1, 1), observation)
      agent.end_episode(np.clip(reward, -1, 1), terminal)
      returns.append(total)
      bar.set_postfix({'return (last 10)': f'{np.mean(returns[-10:]):.1f}'})
  assert isinstance(agent.source, OnlineReplay)
  np.savez_compressed(FLAGS.replay, allow_pickle=False, **agent.source.state_dict())


if __name__ == '__main__':
  app.run(main)

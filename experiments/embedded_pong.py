"""Makes the embedded Pong sample: trains an online DQN, then keeps whole episodes of its replay.

    python experiments/embedded_pong.py train --replay=pong_replay.npz      (about an hour, 1 core)
    python experiments/embedded_pong.py write --replay=pong_replay.npz

The agent is this package's DQN with double Q-learning and 3-step returns on a small network, so
that a CPU suffices. The sample is not the paper's data; it has its format: episodes of several
stages of one training run, one split `checkpoint_XX` a stage, exploration included.
"""

import functools

import numpy as np
import optax
from absl import app, flags
from flax import linen as nn
from tqdm import tqdm

from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data import tfds_writer
from implicit_rl.data.online_replay import OnlineReplay
from implicit_rl.data.tfds_replay import EMBEDDED
from implicit_rl.environments.atari import AtariEnvironment
from implicit_rl.learner import Learner
from implicit_rl.types import QOutputs

FLAGS = flags.FLAGS
flags.DEFINE_string('replay', 'pong_replay.npz', 'The replay: written by train, read by write.')
flags.DEFINE_string('output', str(EMBEDDED), 'Directory that write puts the dataset in.')
flags.DEFINE_integer('steps', 300_000, 'Environment steps of training.')
flags.DEFINE_integer('seed', 0, 'Seed of the agent and of the game.')


_STAGES = 4


class SmallCNN(nn.Module):
  """Two convolutions on the frame at half its size: a tenth of NatureCNN's work."""

  num_actions: int

  @nn.compact
  def __call__(self, state):
    """State [B, 4, 84, 84] uint8 -> QOutputs."""
    batch, stack = state.shape[:2]
    x = state.reshape(batch, stack, 42, 2, 42, 2).max((3, 5))
    x = x.transpose(0, 2, 3, 1).astype(np.float32) / 255.0
    x = nn.relu(nn.Conv(16, (6, 6), (3, 3), padding='VALID')(x))
    x = nn.relu(nn.Conv(32, (4, 4), (2, 2), padding='VALID')(x))
    features = nn.relu(nn.Dense(256)(x.reshape(x.shape[0], -1)))
    return QOutputs(nn.Dense(self.num_actions)(features), features)


def train() -> None:
  """Trains for --steps environment steps and saves everything that was seen."""
  environment = AtariEnvironment('Pong', seed=FLAGS.seed)
  agent = DQNAgent(
    environment.num_actions,
    source=functools.partial(OnlineReplay, capacity=FLAGS.steps),
    network=SmallCNN,
    update_horizon=3,
    double=True,
    updates_per_step=0.5,
    min_replay_history=5_000,
    epsilon_decay_period=60_000,
    epsilon_train=0.02,
    learner=functools.partial(
      Learner, optimizer=optax.adam(2.5e-4, eps=1.5e-4), target_update_period=1000
    ),
    seed=FLAGS.seed,
  )
  returns: list[float] = []
  with tqdm(total=FLAGS.steps, unit=' steps', mininterval=30) as bar:
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


def write() -> None:
  """Writes the first episode begun in each stage of training as the dataset in the package."""
  with np.load(FLAGS.replay) as file:
    replay = {name: file[name] for name in ('observation', 'action', 'reward', 'terminal')}
    ends = np.flatnonzero(file['episode_end']) + 1
  starts = np.append(0, ends[:-1])
  first = [int(np.flatnonzero(starts >= stage * ends[-1] / _STAGES)[0]) for stage in range(_STAGES)]
  print('stage, first step, steps, return:')
  for stage, i in enumerate(first):
    total = int(replay['reward'][starts[i] : ends[i]].sum())
    print(f'{stage}, {starts[i]}, {ends[i] - starts[i]}, {total}')
  episodes = (
    (stage, {name: values[starts[i] : ends[i]] for name, values in replay.items()})
    for stage, i in enumerate(first)
  )
  print(
    tfds_writer.write_dataset(
      FLAGS.output, tfds_writer.ATARI, 'Pong_run_1', episodes, overwrite=True
    )
  )


if __name__ == '__main__':
  app.run(lambda argv: {'train': train, 'write': write}[argv[1]]())

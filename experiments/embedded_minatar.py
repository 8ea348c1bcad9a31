"""Makes the embedded MinAtar-Breakout data: 5% of the whole replay of an online DQN.

    python experiments/embedded_minatar.py train --replay=breakout_replay.npz      (minutes, 1 core)
    python experiments/embedded_minatar.py write --replay=breakout_replay.npz

Eight games advance side by side; acting, storing and learning run in one compiled loop. `train`
keeps every step of every game; `write` draws 5% of the episodes uniformly. The whole replay of any
game, of which `TFDSReplay.fraction` then takes a part:

    python experiments/embedded_minatar.py train --game=Asterix --replay=asterix.npz
    python experiments/embedded_minatar.py write --game=Asterix --replay=asterix.npz --fraction=1 \
      --output=runs/minatar_data
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from tqdm import tqdm

from implicit_rl import cpu
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.data import subsets
from implicit_rl.data.formats import tfds_writer
from implicit_rl.data.sources.tfds_replay import EMBEDDED
from implicit_rl.environments.minatar import MinAtarEnvironment
from implicit_rl.learner import make_update
from implicit_rl.networks import MinAtarCNN
from implicit_rl.types import Batch, LearnerState

_EMBEDDED_FRACTION = 0.05

FLAGS = flags.FLAGS
flags.DEFINE_string('replay', 'breakout_replay.npz', 'Whole replay: written by train.')
flags.DEFINE_string('output', str(EMBEDDED), 'Directory that write puts the dataset in.')
flags.DEFINE_float('fraction', _EMBEDDED_FRACTION, 'Share of the steps that write draws.')
flags.DEFINE_string('game', 'Breakout', 'MinAtar game.')
flags.DEFINE_integer('steps', 500_000, 'Environment steps, all games together.')
flags.DEFINE_integer('seed', 0, 'Seed of the agent and of the games.')

_GAMES_AT_ONCE = 8
_UPDATES_PER_STEP = 0.5
_CAPACITY = 100_000 // _GAMES_AT_ONCE  # steps a game, as in Young and Tian (2019)
_WARMUP = 5_000 // _GAMES_AT_ONCE
_EPSILON = (1.0, 0.01, 100_000 // _GAMES_AT_ONCE)  # from, to, over steps a game
_CHUNK = 500
_CHECKPOINTS = 50  # As in DQN Replay: stages of equal length.


class Carry(NamedTuple):
  """What the compiled loop carries: games, ring buffer [capacity, E, ...], learner, time."""

  moments: Any
  ages: jax.Array  # [E] steps since the episode's start
  memory: dict[str, jax.Array]
  learner: LearnerState
  t: jax.Array


def make_loop(environment: MinAtarEnvironment, agent: DQNAgent, key: jax.Array):
  """Returns (first carry, compiled function that advances it by _CHUNK steps a game)."""
  update = make_update(
    agent.make_loss(), optax.adam(2.5e-4, eps=0.01 / 32), target_update_period=1000
  )
  copies, shape = _GAMES_AT_ONCE, environment.observation_shape
  updates = int(copies * _UPDATES_PER_STEP)

  def zeros(dtype, *trailing):
    return jnp.zeros((_CAPACITY, copies, *trailing), dtype)

  def sample(memory, filled, key) -> Batch:
    t_key, e_key = jax.random.split(key)
    t = jax.random.randint(t_key, (agent.batch_size,), 0, filled)
    e = jax.random.randint(e_key, (agent.batch_size,), 0, copies)
    rows = {name: values[t, e] for name, values in memory.items()}
    return Batch(
      state=rows['observation'][:, None],
      action=rows['action'],
      reward=rows['reward'],
      next_state=rows['next_observation'][:, None],
      next_action=jnp.zeros_like(rows['action']),
      discount=1.0 - rows['terminal'],
      weight=jnp.ones_like(rows['reward']),
    )

  def one_step(carry: Carry, _):
    act_key, step_key, start_key, sample_key = jax.random.split(jax.random.fold_in(key, carry.t), 4)
    first, last, period = _EPSILON
    epsilon = jnp.maximum(last, first - (first - last) * carry.t / period)
    observation = carry.moments.observation
    action = agent.select_actions(carry.learner.params, observation[:, None], act_key, epsilon)
    moments, reward, terminal = jax.vmap(environment.rules.advance)(
      carry.moments, action, jax.random.split(step_key, copies)
    )
    ages = carry.ages + 1
    ended = terminal | (ages >= environment.max_steps_per_episode)
    row = {
      'observation': observation,
      'action': action,
      'reward': reward,
      'terminal': terminal.astype(jnp.float32),
      'next_observation': moments.observation,
    }
    memory = {
      name: jax.lax.dynamic_update_index_in_dim(
        carry.memory[name], row[name], carry.t % _CAPACITY, axis=0
      )
      for name in row
    }
    fresh = jax.vmap(environment.rules.start)(jax.random.split(start_key, copies))
    moments = jax.tree.map(
      lambda new, old: jnp.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old),
      fresh,
      moments,
    )
    filled = jnp.minimum(carry.t + 1, _CAPACITY)

    def learn(learner):
      def one(learner, k):
        return update(learner, sample(memory, filled, jax.random.fold_in(sample_key, k)))[0], None

      return jax.lax.scan(one, learner, jnp.arange(updates))[0]

    learner = jax.lax.cond(carry.t >= _WARMUP, learn, lambda learner: learner, carry.learner)
    logged = {name: row[name] for name in ('observation', 'action', 'reward')}
    logged |= {'terminal': terminal, 'episode_end': ended}
    return Carry(moments, jnp.where(ended, 0, ages), memory, learner, carry.t + 1), logged

  first = Carry(
    moments=jax.vmap(environment.rules.start)(
      jax.random.split(jax.random.fold_in(key, 2**31), copies)
    ),
    ages=jnp.zeros(copies, jnp.int32),
    memory={
      'observation': zeros(jnp.uint8, *shape),
      'action': zeros(jnp.int32),
      'reward': zeros(jnp.float32),
      'terminal': zeros(jnp.float32),
      'next_observation': zeros(jnp.uint8, *shape),
    },
    learner=agent.state._replace(
      optimizer_state=optax.adam(2.5e-4, eps=0.01 / 32).init(agent.state.params)
    ),
    t=jnp.int32(0),
  )
  advance = jax.jit(lambda carry: jax.lax.scan(one_step, carry, length=_CHUNK), donate_argnums=0)
  return first, advance


def train() -> None:
  """Trains for --steps environment steps and saves every step of every game."""
  cpu.use_kernels()
  environment = MinAtarEnvironment(FLAGS.game, seed=FLAGS.seed)
  agent = DQNAgent(
    environment.num_actions,
    environment.observation_shape,
    environment.observation_dtype,
    environment.stack_size,
    network=MinAtarCNN,
    seed=FLAGS.seed,
  )
  carry, advance = make_loop(environment, agent, jax.random.PRNGKey(FLAGS.seed))
  chunks: list[dict[str, np.ndarray]] = []
  with tqdm(total=FLAGS.steps, unit=' steps') as bar:
    while bar.n < FLAGS.steps:
      carry, logged = advance(carry)
      chunks.append(jax.tree.map(np.asarray, logged))
      ends = max(int(chunks[-1]['episode_end'].sum()), 1)
      bar.update(_CHUNK * _GAMES_AT_ONCE)
      bar.set_postfix({'reward an episode': f'{chunks[-1]["reward"].sum() / ends:.2f}'})
  whole = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
  whole['episode_end'][-1] = True  # The run's end cuts the episodes that are still going.
  # Game after game: [T, E, ...] -> [E·T, ...]
  whole = {name: np.swapaxes(v, 0, 1).reshape(-1, *v.shape[2:]) for name, v in whole.items()}
  whole['step'] = np.tile(np.arange(len(chunks) * _CHUNK), _GAMES_AT_ONCE) * _GAMES_AT_ONCE
  np.savez_compressed(FLAGS.replay, allow_pickle=False, **whole)


def write() -> None:
  """Draws episodes that hold --fraction of the steps and writes them as a dataset."""
  if FLAGS.output == str(EMBEDDED) and FLAGS.fraction != _EMBEDDED_FRACTION:
    raise SystemExit(
      f'write: --fraction={FLAGS.fraction} would replace the data inside the package; name another '
      'place with --output.'
    )
  with np.load(FLAGS.replay) as file:
    replay = {name: file[name] for name in file.files}
  ends = np.flatnonzero(replay['episode_end']) + 1
  starts = np.append(0, ends[:-1])
  order = np.argsort(replay['step'][starts], kind='stable')  # As they were begun.
  starts, ends = starts[order], ends[order]
  checkpoints = replay['step'][starts] * _CHECKPOINTS // (replay['step'].max() + 1)
  chosen = subsets.random_episodes(
    subsets.Episodes(ends - starts, checkpoints), fraction=FLAGS.fraction, seed=FLAGS.seed
  )
  chosen = chosen[np.cumsum(ends - starts) - 1]  # [N] -> [episodes]

  def episodes():
    for start, end, checkpoint in zip(
      starts[chosen], ends[chosen], checkpoints[chosen], strict=True
    ):
      names = ('observation', 'action', 'reward', 'terminal')
      yield int(checkpoint), {name: replay[name][start:end] for name in names}

  path = tfds_writer.write_dataset(
    FLAGS.output, tfds_writer.MINATAR, f'{FLAGS.game}_run_1', episodes(), overwrite=True
  )
  steps, rewards = (ends - starts)[chosen], np.add.reduceat(replay['reward'], np.sort(starts))
  print(f'{path}: {chosen.sum()} of {len(chosen)} episodes, {steps.sum()} of {ends.max()} steps')
  print(f'mean return of all episodes {rewards.mean():.2f}')


if __name__ == '__main__':
  app.run(lambda argv: {'train': train, 'write': write}[argv[1]]())

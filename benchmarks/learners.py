"""The learners that `learner.py` compares, each doing updates on batches that are in memory.

    python benchmarks/learners.py NAME PADDING BATCH THREADS DEVICE

A worker of `turns`. All have the network of Mnih et al. (2015), 84×84×4 uint8 states, 18 actions
and Adam; PADDING is that of its convolutions.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import learners_torch
import numpy as np
import turns

ACTIONS, GAMMA, RATE, EPSILON = 18, 0.99, 5e-5, 0.01 / 32
BATCHES = 8  # in memory; also how many our learner is given in one call
CONFIGS = 'gin_configs/atari/'
PENALTY = 'gin_configs/penalties/lp.gin'
FULL = tuple(f'rainbow.RainbowAgent.{part} = True' for part in ('double', 'dueling', 'noisy'))
QR = ("cql.CQLAgent.head = 'quantile'",)

Work = Callable[[int], object]


def random_batches(batch: int, count: int = BATCHES) -> Iterator[dict[str, np.ndarray]]:
  """Transitions without meaning, frames first, as a source serves them; repeated for ever."""
  rng = np.random.default_rng(0)
  frames = lambda: rng.integers(0, 256, (batch, 4, 84, 84), np.uint8)
  made = [
    {
      'state': frames(),
      'action': rng.integers(0, ACTIONS, batch).astype(np.int32),
      'reward': rng.normal(size=batch).astype(np.float32),
      'next_state': frames(),
      'terminal': (rng.random(batch) < 0.01).astype(np.float32),
    }
    for _ in range(count)
  ]
  return itertools.cycle(made)


def our_agent(
  gin_file: str, bindings: tuple[str, ...], penalty: bool, padding: str, batch: int
) -> tuple[Any, Any]:
  """An agent as `run_experiment.py` builds it, and `BATCHES` batches for its learner."""
  import gin

  from implicit_rl import types
  from implicit_rl.running import experiment

  files = [CONFIGS + gin_file, *([PENALTY] if penalty else [])]
  if padding == 'VALID':
    files.append('gin_configs/networks/nature_valid.gin')
  experiment.parse_gin(files, bindings)
  agent = gin.query_parameter('Experiment.agent').scoped_configurable_fn(ACTIONS, source=None)
  some = list(itertools.islice(random_batches(batch), BATCHES))
  stacked = {name: np.stack([one[name] for one in some]) for name in some[0]}
  terminal = stacked.pop('terminal')
  batches = types.Batch(
    **stacked, next_action=stacked['action'], discount=1 - terminal, weight=np.ones_like(terminal)
  )
  return agent, batches


def ours(
  gin_file: str, bindings: tuple[str, ...], penalty: bool, padding: str, batch: int, device: str
) -> Work:
  """Our agent's learner, and its metrics read as `run_experiment.py` does."""
  import jax

  from implicit_rl.logs.running_means import RunningMeans

  agent, batches = our_agent(gin_file, bindings, penalty, padding, batch)
  if device == 'gpu':
    batches = jax.device_put(batches)
  state = agent.state

  def work(count: int) -> None:
    nonlocal state
    sums = RunningMeans()
    for start in range(0, count, BATCHES):
      state, info = agent.learner.update_many(state, batches)
      sums.add(info.metrics, BATCHES, start)
    jax.block_until_ready(state)

  return work


def _channels_last(batch: int) -> Iterator[dict[str, np.ndarray]]:
  """As Dopamine's and Flax's networks read them, for it is how Dopamine's replay serves them."""
  made = itertools.islice(random_batches(batch), BATCHES)
  turn = lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1))
  return itertools.cycle(
    [{name: turn(x) if x.ndim == 4 else x for name, x in one.items()} for one in made]
  )


def _looped(one: Callable[[dict[str, np.ndarray]], Any], batches: Iterator[dict]) -> Work:
  """Calls `one` on batch after batch and waits for the last."""
  import jax

  def work(count: int) -> None:
    for batch in itertools.islice(batches, count):
      result = one(batch)
    jax.block_until_ready(result)

  return work


def _on(device: str, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict]:
  if device != 'gpu':
    return batches
  import jax

  return itertools.cycle([jax.device_put(one) for one in itertools.islice(batches, BATCHES)])


def _transition(b: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
  """A batch in the order in which Dopamine's train functions take it."""
  return b['state'], b['action'], b['next_state'], b['reward'], b['terminal']


def dopamine_dqn(batch: int, device: str) -> Work:
  """Dopamine's `dqn_agent.train`, which returns no metrics but the loss."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  import jax
  from dopamine.jax import networks
  from dopamine.jax.agents.dqn import dqn_agent

  network = networks.NatureDQNNetwork(num_actions=ACTIONS)
  params = network.init(jax.random.PRNGKey(0), np.zeros((84, 84, 4)))
  optimizer = dqn_agent.create_optimizer('adam', RATE, eps=EPSILON)
  held = [optimizer.init(params), params, None]

  def one(b: dict[str, np.ndarray]) -> Any:
    held[:] = dqn_agent.train(
      network,
      held[1],
      params,
      optimizer,
      held[0],
      *_transition(b),
      GAMMA,
      'huber',
    )
    return held

  return _looped(one, _on(device, _channels_last(batch)))


def dopamine_full_rainbow(batch: int, device: str) -> Work:
  """Dopamine's `full_rainbow_agent.train`: double, dueling, noisy, distributional."""
  from implicit_rl.compat import dopamine_compat  # noqa: F401

  # isort: split
  import jax
  import jax.numpy as jnp
  from dopamine.jax import networks
  from dopamine.jax.agents.dqn import dqn_agent
  from dopamine.jax.agents.full_rainbow import full_rainbow_agent

  network = networks.FullRainbowNetwork(num_actions=ACTIONS, num_atoms=51)
  support = jnp.linspace(-10.0, 10.0, 51)
  rng = jax.random.PRNGKey(0)
  params = network.init(rng, x=np.zeros((84, 84, 4)), support=support, key=rng)
  optimizer = dqn_agent.create_optimizer('adam', RATE, eps=EPSILON)
  held = [optimizer.init(params), params, None, None, rng]
  weights = np.ones(batch, np.float32)

  def one(b: dict[str, np.ndarray]) -> Any:
    held[:] = full_rainbow_agent.train(
      network,
      held[1],
      params,
      optimizer,
      held[0],
      *_transition(b),
      weights,
      support,
      GAMMA**3,
      True,
      True,
      False,
      held[4],
    )
    return held

  return _looped(one, _on(device, _channels_last(batch)))


def plain_flax(padding: str, batch: int, device: str) -> Work:
  """The shortest DQN update one would write: Flax, optax, one jitted function that donates."""
  import jax
  import jax.numpy as jnp
  import optax
  from flax import linen as nn

  class Network(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      x = x.astype(jnp.float32) / 255.0
      for width, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = nn.relu(nn.Conv(width, (size, size), stride, padding=padding)(x))
      return nn.Dense(ACTIONS)(nn.relu(nn.Dense(512)(x.reshape(len(x), -1))))

  network, optimizer = Network(), optax.adam(RATE, eps=EPSILON)
  target = network.init(jax.random.PRNGKey(0), np.zeros((1, 84, 84, 4), np.uint8))
  held = [jax.tree.map(jnp.copy, target), optimizer.init(target)]

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, moments, target, b):
    q = network.apply(target, b['next_state']).max(axis=1)
    wanted = b['reward'] + GAMMA * (1 - b['terminal']) * q

    def loss(params):
      chosen = network.apply(params, b['state'])[jnp.arange(batch), b['action']]
      return optax.huber_loss(chosen, wanted).mean()

    changes, moments = optimizer.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, changes), moments

  def one(b: dict[str, np.ndarray]) -> Any:
    held[:] = update(*held, target, b)
    return held

  return _looped(one, _on(device, _channels_last(batch)))


def matrix_products(side: int = 1536) -> Work:
  """Products of square float32 matrices, the most that the machine does: a count is one GFLOP."""
  import jax
  import jax.numpy as jnp

  a = jax.random.normal(jax.random.PRNGKey(0), (side, side))
  multiply = jax.jit(jnp.matmul)

  def work(count: int) -> None:
    for _ in range(max(1, round(count * 1e9 / (2 * side**3)))):
      result = multiply(a, a)
    jax.block_until_ready(result)

  return work


class Row(NamedTuple):
  """A learner in the table.

  Attributes:
    make: called with padding, batch size and device.
    against: the row of ours that does the same work.
    paddings: which it can do.
    package: what its interpreter must import; None is this project.
    in_a_round: updates at batch 32, so that a round takes half a second or so.
  """

  make: Callable[[str, int, str], Work]
  against: str
  paddings: tuple[str, ...]
  package: str | None = None
  in_a_round: int = BATCHES


BOTH, OURS = ('SAME', 'VALID'), 'ours, DQN + penalty'
CQL, CQL_QR = 'ours, CQL + penalty', 'ours, CQL-QR + penalty'
RAINBOW = 'ours, full Rainbow + penalty'


def _our_row(name: str, file: str, bindings: tuple[str, ...] = (), penalty: bool = True) -> Row:
  make = lambda padding, batch, device: ours(file, bindings, penalty, padding, batch, device)
  return Row(make, name, BOTH)


def _torch_row(kind: Callable, against: str, paddings: tuple[str, ...], package: str) -> Row:
  def make(padding: str, batch: int, device: str) -> Work:
    if device != 'cpu':
      raise SystemExit('--device=gpu compares JAX alone.')
    return kind(padding, random_batches(batch), batch)

  return Row(make, against, paddings, package)


LEARNERS: Mapping[str, Row] = {
  OURS: _our_row(OURS, 'offline_dqn.gin'),
  'ours, DQN': _our_row(OURS, 'offline_dqn.gin', penalty=False),
  'Dopamine, DQN': Row(lambda _, *rest: dopamine_dqn(*rest), OURS, ('SAME',)),
  'plain Flax': Row(plain_flax, OURS, BOTH),
  'PyTorch': _torch_row(learners_torch.plain, OURS, BOTH, 'torch'),
  'PyTorch, channels last, fused Adam': _torch_row(
    functools.partial(learners_torch.plain, fast=True), OURS, BOTH, 'torch'
  ),
  'd3rlpy, DQN': _torch_row(
    functools.partial(learners_torch.d3rlpy, 'DQN'), OURS, ('VALID',), 'd3rlpy'
  ),
  'Stable-Baselines3, DQN': _torch_row(
    learners_torch.stable_baselines3, OURS, ('VALID',), 'stable_baselines3'
  ),
  'sbx, DQN': _torch_row(learners_torch.sbx, OURS, ('VALID',), 'sbx')._replace(in_a_round=2),
  CQL: _our_row(CQL, 'offline_cql.gin'),
  'd3rlpy, CQL': _torch_row(
    functools.partial(learners_torch.d3rlpy, 'CQL'), CQL, ('VALID',), 'd3rlpy'
  ),
  CQL_QR: _our_row(CQL_QR, 'offline_cql.gin', QR),
  'd3rlpy, CQL-QR': _torch_row(
    functools.partial(learners_torch.d3rlpy, 'CQL-QR'), CQL_QR, ('VALID',), 'd3rlpy'
  )._replace(in_a_round=4),
  'ours, Rainbow + penalty': _our_row('ours, Rainbow + penalty', 'offline_rainbow.gin'),
  RAINBOW: _our_row(RAINBOW, 'offline_rainbow.gin', FULL),
  'Dopamine, full Rainbow': Row(lambda _, *rest: dopamine_full_rainbow(*rest), RAINBOW, ('SAME',)),
}
GEMM = 'matrix products'


if __name__ == '__main__':
  name, padding, batch, cores, device = sys.argv[1:]
  if device == 'cpu':
    turns.pin(int(cores))
  if name.startswith('ours'):
    turns.as_runs_do()
  if name == GEMM:
    turns.serve(lambda: (matrix_products(), None), 2)
  else:
    row = LEARNERS[name]
    turns.serve(lambda: (row.make(padding, int(batch), device), None), row.in_a_round)

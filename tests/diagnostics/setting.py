"""What tests of diagnostics share: a small network, a loss, a batch, a learner's state."""

import functools

import jax
import numpy as np
import optax

from implicit_rl import losses
from implicit_rl.context import Context, named_key
from implicit_rl.diagnostics import measurements
from implicit_rl.learner import init_state
from implicit_rl.networks import hidden_layers
from implicit_rl.types import Batch

SHAPES = {'MLP': (1, 6), 'MinAtarCNN': (1, 10, 10, 4)}
KEY = jax.random.PRNGKey(7)


class Setting:
  """A DQN learner's parts on random transitions.

  Args:
    network: a network's class.
    size: transitions.
    **settings: of the network.
  """

  num_actions = 3
  discount = 0.9

  def __init__(self, network, size=64, **settings):
    rng = np.random.default_rng(0)
    shape = (size, *SHAPES[network.__name__])
    draw = lambda: rng.integers(0, 2, shape).astype(np.float32)
    if network.__name__ == 'MLP':
      draw = lambda: rng.normal(size=shape).astype(np.float32)
    self.batch = Batch(
      state=draw(),
      action=rng.integers(0, self.num_actions, size).astype(np.int32),
      reward=rng.normal(size=size).astype(np.float32),
      next_state=draw(),
      next_action=rng.integers(0, self.num_actions, size).astype(np.int32),
      discount=rng.integers(0, 2, size).astype(np.float32),
      weight=np.ones(size, np.float32),
      return_to_go=rng.normal(size=size).astype(np.float32),
    )
    self.network = network(num_actions=self.num_actions, **settings)
    self.init = lambda key: self.network.init(key, self.batch.state[:1])
    self.params = jax.jit(self.init)(jax.random.PRNGKey(1))
    self.use(self.network.apply)
    self.state = init_state(self.params, KEY, self.context.optimizer)

  def use(self, apply):
    """Has the context run another function as the network."""
    self.context = Context(
      apply=apply,
      init=self.init,
      loss=functools.partial(losses.dqn_loss, apply=apply, discount=self.discount),
      optimizer=optax.adam(1e-3),
      discount=self.discount,
      num_actions=self.num_actions,
      network=self.network,
      layers=hidden_layers(self.network, self.batch.state[:1]),
    )

  def measurements(self, diagnostic):
    """Takes measurements of one diagnostic."""
    return measurements.Measurements({'one': diagnostic}, self.context)

  def key_of(self, name):
    """The key that a diagnostic of this name is given."""
    return named_key(jax.random.fold_in(self.state.key, measurements.KEYS), name)

  def measure(self, diagnostic, state=None):
    """What a diagnostic measures at first."""
    found = self.measurements(diagnostic).take(0, state or self.state, self.batch)
    return jax.tree.map(np.asarray, found)

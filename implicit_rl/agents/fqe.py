"""Fitted Q-evaluation: the value of the policy that made the data, or of a saved agent."""

from __future__ import annotations

import functools
import pathlib

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from implicit_rl.agents.base import Agent
from implicit_rl.compat.settings import check_number
from implicit_rl.heads import Head, QHead
from implicit_rl.logs import checkpoints
from implicit_rl.losses import fqe_loss, policy_probabilities
from implicit_rl.losses.evaluation import Policy
from implicit_rl.types import Apply, Array, Loss, Params


@gin.configurable
class FQEAgent(Agent):
  """Minimises the error of r + γⁿ·E_{a∼π} Q_target(s', a) − Q(s, a).

  Args:
    *args: `Agent`'s.
    policy_dir: `--base_dir` of the run whose newest checkpoint is π; None evaluates the policy that
      made the data, of which the logged next action is a sample.
    policy: 'greedy', 'epsilon_greedy' or 'softmax', with respect to the saved values.
    policy_epsilon: for 'epsilon_greedy'.
    policy_temperature: for 'softmax', above 0.
    policy_head: the head of the saved agent's network, such as `@C51Head()`; None is one value per
      action. The rest of its network is that of `Agent.network`.
    error_loss: 'mse', whose minimum is the policy's value, or 'huber'.
    **kwargs: `Agent`'s; bind them as `Agent.*`.

  Raises:
    FileNotFoundError: if `policy_dir` holds no checkpoint.
    ValueError: for a setting that is out of range, or a checkpoint of another network.
  """

  reads = ('value_head', 'target_range')

  def __init__(
    self,
    *args,
    policy_dir: str | None = None,
    policy: str = 'greedy',
    policy_epsilon: float = 0.001,
    policy_temperature: float = 1.0,
    policy_head: Head | None = None,
    error_loss: str = 'mse',
    **kwargs,
  ):
    check_number('FQEAgent.policy_epsilon', policy_epsilon, least=0, most=1)
    check_number('FQEAgent.policy_temperature', policy_temperature, above=0)
    self._policy_dir, self._policy_head = policy_dir, policy_head
    self._probabilities = functools.partial(
      policy_probabilities, kind=policy, epsilon=policy_epsilon, temperature=policy_temperature
    )
    self._probabilities(jnp.zeros((1, 1)))  # Raises for an unknown kind of policy.
    self._error_loss = error_loss
    super().__init__(*args, **kwargs)

  def make_loss(self) -> Loss:
    """Returns the loss of FQE for the chosen policy with this agent's γⁿ."""
    return functools.partial(
      fqe_loss,
      apply=self.apply,
      discount=self.gamma_n,
      policy=None if self._policy_dir is None else self._saved_policy(self._policy_dir),
      error_loss=self._error_loss,
      target_range=self.target_range,
    )

  def _saved_policy(self, directory: str) -> Policy:
    network = self.network.clone(head=self._policy_head or QHead())
    apply: Apply = network.apply
    params = load_params(directory, network, self._stack[None])

    def policy(states: Array) -> jax.Array:
      return self._probabilities(apply(params, states).q_values)

    return policy


def load_params(directory: str, network: nn.Module, state: Array) -> Params:
  """Returns a run's newest saved online parameters, checked to be those of `network`.

  Args:
    directory: the run's `--base_dir`.
    network: the network that the parameters must belong to.
    state: [1, S, ...], a state for finding their shapes.

  Returns:
    The parameters.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if they are another network's.
  """
  found = checkpoints.load_newest(pathlib.Path(directory).expanduser() / 'checkpoints')
  if found is None:
    raise FileNotFoundError(f'{directory} holds no checkpoint; give the --base_dir of a run.')
  params = found[1]['agent']['learner']['params']
  expected = jax.eval_shape(network.init, jax.random.PRNGKey(0), state)
  if _shapes(params) != _shapes(expected):
    raise ValueError(
      f'The checkpoint in {directory} is of a different network than {type(network).__name__} with '
      f'{network.head}: bind FQEAgent.policy_head and Agent.network to what that run had.'
    )
  return jax.tree.map(jnp.asarray, params)


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every array of a tree, by its path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}

"""The plasticity probe: how well a network learns a new target, compared with a fresh network."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp
import optax

from implicit_rl.context import Context
from implicit_rl.diagnostics.base import Diagnostic, first, q_values
from implicit_rl.types import Batch, LearnerState, Params, PRNGKey


def learning_error(
  context: Context,
  params: Params,
  batch: Batch,
  key: PRNGKey,
  *,
  steps: int,
  learning_rate: float,
  batch_size: int,
) -> jax.Array:
  """Returns the mean squared error of a network while it learns a random change: [], 1 at first.

  The change is the centred output of a fresh network, scaled to variance 1, and the network learns
  to add it to its current output. So every network starts at the same error, and large values that
  must be unlearnt first do not count as lost plasticity.

  Args:
    context: see `Context`.
    params: parameters of the network that learns.
    batch: its states, and actions for critics.
    key: draws the fresh network and the minibatches.
    steps: of Adam.
    learning_rate: of Adam.
    batch_size: states in a step.
  """
  fresh_key, rows_key = jax.random.split(key)
  change = q_values(context, context.init(fresh_key), batch)
  change = change - jnp.mean(change, axis=0, keepdims=True)
  change = change / jnp.sqrt(jnp.mean(jnp.square(change)))
  begin = q_values(context, params, batch)
  scale = jnp.maximum(jnp.max(jnp.abs(begin)), 1.0)  # In float32 a change of 1 is lost in 1e8.
  target = jnp.where(scale < 1e6, begin + change, jnp.nan)
  optimizer = optax.adam(learning_rate)

  def error(params: Params, rows: jax.Array) -> jax.Array:
    some = jax.tree.map(lambda x: jnp.asarray(x)[rows], batch)
    return jnp.mean(jnp.square(q_values(context, params, some) - target[rows]))

  def step(carry, key):
    params, optimizer_state = carry
    rows = jax.random.randint(key, (batch_size,), 0, len(batch.reward))
    value, gradient = jax.value_and_grad(error)(params, rows)
    changes, optimizer_state = optimizer.update(gradient, optimizer_state)
    return (optax.apply_updates(params, changes), optimizer_state), value

  keys = jax.random.split(rows_key, steps)
  # The mean over all steps, not the last error, which may be almost 0.
  return jnp.mean(jax.lax.scan(step, (params, optimizer.init(params)), keys)[1])


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PlasticityProbe(Diagnostic):
  """The errors of the trained network divided by those of fresh ones; 1 is as good as new.

  In the spirit of Lyle et al. (2022) and Moalla et al. (2024), who fit random networks' outputs.

  Attributes:
    period: iterations between two measurements.
    tasks: number of random changes to learn; the ratio is the geometric mean over them.
    steps: of Adam, for each.
    learning_rate: of Adam.
    batch_size: states in a step.
    states: number of states that the changes are learnt on.
  """

  period: int = 1
  tasks: int = 3
  steps: int = 200
  learning_rate: float = 1e-3
  batch_size: int = 32
  states: int = 256

  def measure(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> dict[str, jax.Array]:
    """Returns `plasticity_error_ratio`, and `plasticity_error` of the trained network."""
    some = first(batch, self.states)

    def error(params: Params, key: PRNGKey) -> jax.Array:
      return learning_error(
        context,
        params,
        some,
        key,
        steps=self.steps,
        learning_rate=self.learning_rate,
        batch_size=self.batch_size,
      )

    def task(key: PRNGKey) -> tuple[jax.Array, jax.Array]:
      fresh = context.init(jax.random.fold_in(key, 1))
      return error(state.params, key), error(fresh, key)

    trained, fresh = jax.lax.map(task, jax.random.split(key, self.tasks))
    return {
      'plasticity_error_ratio': jnp.exp(jnp.mean(jnp.log(trained / fresh))),
      'plasticity_error': jnp.mean(trained),
    }

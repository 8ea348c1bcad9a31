"""Types shared by all modules: batches, outputs of networks and losses, a learner's state.

Shapes: B batch, S frames in a state stack, A actions (their number, or the length of a continuous
one), d features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = Any  # A pytree of arrays.
PRNGKey = jax.Array


class Batch(NamedTuple):
  """Transitions from time t-1 to time t-1+n, where n is the update horizon.

  Rewards are already summed over the horizon, so a one-step batch is the case n = 1. The discount
  factor γⁿ belongs to the agent; `discount` only tells whether the episode continues.

  Attributes:
    state: [B, S, *observation_shape], the dataset's own dtype; frames oldest first, frames before
      the episode's start are zero.
    action: the action taken in `state`: [B] int32, or [B, A] float32 in [−1, 1].
    reward: [B] float32, Σ_{i<n} γ^i r_{t+i}; the sum stops at a terminal step.
    next_state: [B, S, *observation_shape], n steps later; meaningless if `discount` is 0.
    next_action: like `action`, the action taken in `next_state`; meaningless if `discount` is 0.
    discount: [B] float32, 0 if the episode terminated within the horizon, else 1.
    weight: [B] float32, importance weights of the sampling; 1 for uniform sampling.
    return_to_go: [B] float32, Σ_{i≥0} γ^i r_{t+i} to the episode's end; None unless the source is
      set to compute it.
  """

  state: Array
  action: Array
  reward: Array
  next_state: Array
  next_action: Array
  discount: Array
  weight: Array
  return_to_go: Array | None = None


class Layer(NamedTuple):
  """One hidden layer of a network on a batch.

  Attributes:
    preactivation: [B, ...] float32, the activation function's input: after layer normalisation,
      if the network has it.
    activation: [B, ...] float32, the activation function's output; [B, H, W, C] for a convolution.
  """

  preactivation: jax.Array
  activation: jax.Array


Layers = Mapping[str, Layer]


class QOutputs(NamedTuple):
  """What a value network returns.

  Attributes:
    q_values: [B, A] float32.
    features: [B, d] float32, the penultimate layer after its activation: Φ in the paper.
    layers: every hidden layer, from input to output. A key is the layer's path in the parameters,
      such as 'Conv_0' or 'RowDense_0'. JAX sorts the keys whenever a dict crosses `jit`, `vmap` or
      `scan`: `networks.hidden_layers` returns them in order. None if the network reports none.
  """

  q_values: jax.Array
  features: jax.Array
  layers: Layers | None = None


class CategoricalOutputs(NamedTuple):
  """What a network with a C51 head returns: a distribution over K fixed returns per action.

  Attributes:
    q_values: [B, A] float32, the distributions' means.
    features: [B, d] float32, see `QOutputs`.
    logits: [B, A, K] float32.
    support: [K] float32, the returns, evenly spaced and increasing.
    layers: see `QOutputs`.
  """

  q_values: jax.Array
  features: jax.Array
  logits: jax.Array
  support: jax.Array
  layers: Layers | None = None


class HistogramOutputs(NamedTuple):
  """What a network with an HL-Gauss head returns: a histogram over K bins of values per action.

  Attributes:
    q_values: [B, A] float32, the histograms' means, each bin at its centre.
    features: [B, d] float32, see `QOutputs`.
    logits: [B, A, K] float32.
    edges: [K + 1] float32, the bins' edges, evenly spaced and increasing.
    sigma: [] float32, the standard deviation of the Gaussian that smooths a target.
    layers: see `QOutputs`.
  """

  q_values: jax.Array
  features: jax.Array
  logits: jax.Array
  edges: jax.Array
  sigma: jax.Array
  layers: Layers | None = None


class QuantileOutputs(NamedTuple):
  """What a network with a quantile head returns: N quantiles of the return per action.

  Attributes:
    q_values: [B, A] float32, the quantiles' means.
    features: [B, d] float32, see `QOutputs`.
    quantiles: [B, A, N] float32, at the levels (i + ½)/N.
    layers: see `QOutputs`.
  """

  q_values: jax.Array
  features: jax.Array
  quantiles: jax.Array
  layers: Layers | None = None


class CriticOutputs(NamedTuple):
  """What the critics of an actor-critic network return for states and continuous actions.

  Attributes:
    q_values: [B, K] float32, one for each of K critics.
    features: K arrays [B, d] float32, each critic's penultimate layer, see `QOutputs`.
    layers: the critics' hidden layers, such as 'critic_hidden_0/Dense_1', one critic after the
      other; see `QOutputs`.
  """

  q_values: jax.Array
  features: tuple[jax.Array, ...]
  layers: Layers | None = None


class GaussianOutputs(NamedTuple):
  """What an actor returns: a Gaussian with independent components, before it is squashed by tanh.

  Attributes:
    mean: [B, A] float32.
    log_std: [B, A] float32, log of the standard deviation.
    layers: the policy's hidden layers, such as 'actor_hidden/Dense_0'; see `QOutputs`.
  """

  mean: jax.Array
  log_std: jax.Array
  layers: Layers | None = None


class LossAux(NamedTuple):
  """What a loss returns besides its value.

  Attributes:
    outputs: the network's outputs on `batch.state`, differentiable; the learner reads `features`.
    td_error: [B] float32, target minus prediction; [B, K] for K critics, with a `priority`.
    metrics: scalars to log by name.
    priority: [B] float32, each transition's priority in prioritised replay; None is its absolute
      TD error.
  """

  outputs: Any
  td_error: jax.Array
  metrics: Mapping[str, jax.Array]
  priority: jax.Array | None = None


class Loss(Protocol):
  """A pure loss, the only difference between agents."""

  def __call__(
    self, params: Params, target_params: Params, batch: Batch, key: PRNGKey
  ) -> tuple[jax.Array, LossAux]:
    """Returns the scalar loss to minimise and its by-products."""
    ...


class LearnerState(NamedTuple):
  """Everything an update reads and writes.

  Attributes:
    params: the online network's parameters.
    target_params: the target network's parameters.
    optimizer_state: optax state.
    key: PRNG key; update u uses `fold_in(key, u)`, so a resumed run draws the same.
    updates: [] int32, gradient updates done.
    extra: the states of the remedies that have one, by name.
  """

  params: Params
  target_params: Params
  optimizer_state: Any
  key: PRNGKey
  updates: jax.Array
  extra: Mapping[str, Any] = {}  # Never written to.


Metrics = Mapping[str, jax.Array]


class UpdateInfo(NamedTuple):
  """What a gradient update reports; for K updates, every array has a leading axis [K].

  Attributes:
    metrics: scalars by name.
    priority: [B] float32, at least 0: see `LossAux.priority`.
  """

  metrics: Metrics
  priority: jax.Array


Apply = Callable[..., Any]

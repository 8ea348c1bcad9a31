"""Plasticity injection: a frozen head keeps the learnt values, a fresh one learns changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import traverse_util

from implicit_rl.compat.settings import check_number
from implicit_rl.context import Context
from implicit_rl.heads import numbers_of, with_numbers
from implicit_rl.layer_graph import Path, layer_graph
from implicit_rl.remedies import moments
from implicit_rl.remedies.base import Remedy
from implicit_rl.remedies.beer import BEER
from implicit_rl.remedies.pruning import MagnitudePruning
from implicit_rl.remedies.resets import HeadReset, ShrinkAndPerturb
from implicit_rl.remedies.weight_clipping import WeightClipping
from implicit_rl.types import Array, Batch, LearnerState, Metrics, Params, PRNGKey

_FROZEN = 'injection'  # Flax's collection; the optimiser moves 'params' alone.


class InjectedNetwork:
  """A network whose values are h(x) + h_old(x) − h_new(x), the last two of them frozen.

  h is the network's head, trained and stored as without the remedy. Until the injection the frozen
  heads have no effect. The encoder's gradient passes through all three heads, as in the paper. All
  outputs except the values, including the features, are those of h.

  Args:
    network: a Flax module with a head of `implicit_rl.heads`, or an `ActorCritic`, whose critics
      are used.
    state: [1, S, ...].
    hidden_layers: how many hidden layers belong to a head.

  Raises:
    ValueError: if the network has fewer hidden layers.
  """

  def __init__(self, network: Any, state: Array, hidden_layers: int):
    self._network = network
    init = lambda key: network.init(key, state)
    shapes = jax.eval_shape(init, jax.random.key(0))
    marks = traverse_util.flatten_dict(layer_graph(init).last(hidden_layers, shapes))
    is_policy = lambda path: path[1].startswith('actor')  # As in `ActorCritic`: it has no values.
    self.paths = [path for path, last in marks.items() if last and not is_policy(path)]

  def __getattr__(self, name: str) -> Any:
    return getattr(self._network, name)

  def init(self, key: PRNGKey, state: Array) -> Params:
    """Returns fresh parameters before an injection."""
    params = self._network.init(key, state)
    old, new = (jax.tree.map(jnp.zeros_like, self.head(params)) for _ in range(2))
    return {**params, _FROZEN: {'old': old, 'new': new, 'done': jnp.zeros(())}}

  def head(self, params: Params) -> dict[str, jax.Array]:
    """Returns the arrays of h, by path."""
    flat = traverse_util.flatten_dict(params)
    return {'/'.join(path): flat[path] for path in self.paths}

  def with_head(self, params: Params, head: dict[str, Any]) -> Params:
    """Returns parameters with another head."""
    flat: dict[Path, Any] = traverse_util.flatten_dict(params)
    flat |= {path: head['/'.join(path)] for path in self.paths}
    return traverse_util.unflatten_dict(flat)

  def apply(self, params: Params, *inputs: Any, method: Any = None, **settings: Any) -> Any:
    """See `nn.Module.apply`; only values change."""
    frozen = jax.lax.stop_gradient(params[_FROZEN])
    own = {name: arrays for name, arrays in params.items() if name != _FROZEN}
    if method not in (None, 'critics'):
      return self._network.apply(own, *inputs, method=method, **settings)
    heads = jax.tree.map(lambda *x: jnp.stack(x), self.head(own), frozen['old'], frozen['new'])
    outputs = jax.vmap(  # The encoder's parameters have no such axis, so it runs once.
      lambda head: self._network.apply(
        self.with_head(own, head), *inputs, method=method, **settings
      )
    )(heads)
    learnt, old, new = (jax.tree.map(lambda x, n=n: x[n], outputs) for n in range(3))
    kept = jnp.where(frozen['done'] > 0, numbers_of(old) - numbers_of(new), 0)
    return with_numbers(learnt, numbers_of(learnt) + kept)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PlasticityInjection(Remedy):
  """Freezes the head after one update; a fresh head learns the changes of its values.

  From then on values are h_old(x) + h(x) − h_new(x) (Nikishin et al., 2023): h is fresh, with
  fresh moments, and h_new is a frozen copy of it, so no value changes at that update. The
  target network does the same with its own head. Features are those of h, and other remedies act
  on h. In an actor-critic this applies to the critics. PlasticityInjection/Done is 1 from then on.

  Attributes:
    after: gradient updates of the run after which it acts, once; None removes it from the program.
    hidden_layers: how many belong to the head, at least 1; a head without hidden layers would learn
      as before.
    reset_count: set Adam's step count to 0; see `moments.renew`.

  Raises:
    ValueError: for a setting out of its range; from `wrap` if the network has fewer layers.
  """

  after: int | None = 3_125_000
  hidden_layers: int = 1
  reset_count: bool = False

  def __post_init__(self):
    """Checks the settings."""
    check_number('PlasticityInjection.after', self.after, least=1, whole=True, optional=True)
    check_number('PlasticityInjection.hidden_layers', self.hidden_layers, least=1, whole=True)

  @property
  def active(self) -> bool:
    """Whether `after` is set."""
    return self.after is not None

  def conflict(self, other: Remedy) -> str | None:
    """See `Remedy.conflict`."""
    if isinstance(other, HeadReset | ShrinkAndPerturb):
      return 'a reset head would be added to what the frozen heads say'
    if isinstance(other, MagnitudePruning | WeightClipping):
      return 'weights would change in the new head and not in its frozen copy, and values with them'
    if isinstance(other, BEER):
      return 'values would no longer be the product of features and weights that its bound is of'
    return None

  def wrap(self, network: Any, state: Array) -> InjectedNetwork:
    """See `Remedy.wrap`."""
    try:
      return InjectedNetwork(network, state, self.hidden_layers)
    except ValueError as error:
      raise ValueError(
        f'PlasticityInjection.hidden_layers is {self.hidden_layers}: {error}'
      ) from error

  def init(self, context: Context, params: Params, key: PRNGKey) -> Any:
    """Checks that the network has frozen heads; returns no state.

    Raises:
      ValueError: if it has none.
    """
    if not isinstance(context.network, InjectedNetwork):
      raise ValueError(
        'PlasticityInjection needs a network with frozen heads, which an Agent makes: else pass '
        'Context(network=PlasticityInjection(...).wrap(network, state), ...).'
      )

  def after_update(
    self, context: Context, state: LearnerState, batch: Batch, key: PRNGKey
  ) -> tuple[LearnerState, Metrics]:
    """See `Remedy.after_update`."""
    state = jax.lax.cond(
      state.updates == self.after, lambda: self._inject(context, state, key), lambda: state
    )
    return state, {'PlasticityInjection/Done': state.params[_FROZEN]['done']}

  def _inject(self, context: Context, state: LearnerState, key: PRNGKey) -> LearnerState:
    network: InjectedNetwork = context.network
    fresh = network.head(context.init(key))

    def injected(params: Params) -> Params:
      frozen = {'old': network.head(params), 'new': fresh, 'done': jnp.ones(())}
      return {**network.with_head(params, fresh), _FROZEN: frozen}

    params = injected(state.params)
    unchosen = jax.tree.map(lambda _: False, params)
    chosen = network.with_head(unchosen, dict.fromkeys(fresh, True))
    optimizer_state = moments.renew(
      context.optimizer, state.optimizer_state, params, chosen, self.reset_count
    )
    return state._replace(
      params=params,
      target_params=injected(state.target_params),
      optimizer_state=optimizer_state,
    )

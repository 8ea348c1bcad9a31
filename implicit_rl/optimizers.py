"""Optimisers for gin: those of optax by name, chains of them, and a rate for each network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType

import gin
import jax
import optax

from implicit_rl.compat.settings import check_number
from implicit_rl.types import Params


def _register(library: ModuleType) -> None:
  """Registers optax's optimisers, transformations and schedules with gin, as `optax.NAME`."""
  made = (optax.GradientTransformation, optax.GradientTransformationExtraArgs, optax.Schedule)
  for name, function in vars(library).items():
    if name.startswith('_') or not inspect.isfunction(function):
      continue
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):  # Gin binds by name; see `chain`.
      continue
    if function.__annotations__.get('return') in made:
      gin.external_configurable(function, name, module=library.__name__)


for _library in (optax, optax.contrib):
  _register(_library)


@gin.configurable
def chain(
  transformations: Sequence[optax.GradientTransformation] = gin.REQUIRED,
) -> optax.GradientTransformationExtraArgs:
  """Applies transformations in sequence, as `optax.chain`.

  Args:
    transformations: in order, such as `[@optax.clip(), @optax.lion()]`.

  Raises:
    ValueError: if one is not a transformation.
  """
  for number, one in enumerate(transformations):
    if not isinstance(one, optax.GradientTransformation):
      raise ValueError(
        f'chain.transformations[{number}] must be an optax transformation, got {one!r}; in gin it '
        'is written with parentheses: @optax.lion().'
      )
  return optax.chain(*transformations)


@gin.configurable
def with_weight_decay(
  optimizer: optax.GradientTransformation = gin.REQUIRED, rate: float = 1e-5
) -> optax.GradientTransformationExtraArgs:
  """Also subtracts rate·θ from every kernel θ at a step (Loshchilov and Hutter, 2019).

  With Adam this is AdamW; the rate is then AdamW's learning rate times its weight decay. Biases,
  gains and scalars, which have fewer than two dimensions, do not decay.

  Args:
    optimizer: such as `@optax.adam()`.
    rate: share subtracted at each update, in [0, 1].

  Raises:
    ValueError: if the optimiser is not a transformation, or the rate is out of range.
  """
  if not isinstance(optimizer, optax.GradientTransformation):
    raise ValueError(
      'with_weight_decay.optimizer must be an optax transformation, such as @optax.adam() with its '
      f'parentheses, got {optimizer!r}.'
    )
  check_number('with_weight_decay.rate', rate, least=0, most=1)
  kernels = lambda params: jax.tree.map(lambda x: x.ndim >= 2, params)
  return optax.chain(optimizer, optax.add_decayed_weights(-rate, mask=kernels))


@gin.configurable
def actor_critic_adam(
  actor_rate: float = 3e-4,
  critic_rate: float = 3e-4,
  scalar_rate: float | None = None,
) -> optax.GradientTransformation:
  """Adam with separate learning rates for an `ActorCritic`'s policy, critics and learnt scalars.

  Args:
    actor_rate: of the policy.
    critic_rate: of the critics.
    scalar_rate: of temperature and multiplier; None is the policy's.
  """
  rates = {
    'actor': actor_rate,
    'critic': critic_rate,
    'log': actor_rate if scalar_rate is None else scalar_rate,
  }

  def labels(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: _part(path), params)

  return optax.partition({name: optax.adam(rate) for name, rate in rates.items()}, labels)


def _part(path: tuple) -> str:
  """Returns a parameter's part of the network: the first word of its module's name."""
  if path[0].key != 'params':
    return 'critic'  # In a collection that the learner does not update any label works.
  return str(path[1].key).partition('_')[0]

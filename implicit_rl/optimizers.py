"""Optimisers by gin: optax's own under their names, chains of them, and a rate for each network."""

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
  """Gives gin the library's optimisers, transformations and schedules, as `optax.NAME`."""
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
  """Applies transformations one after another, as `optax.chain`.

  Args:
    transformations: in order, such as `[@optax.clip(), @optax.lion()]`.

  Raises:
    ValueError: for one that is no transformation.
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
  """Takes rate·θ off every kernel θ beside an optimiser's step (Loshchilov and Hutter, 2019).

  With Adam it is AdamW, of which the rate is the learning rate times its weight decay. Biases,
  gains and scalars, which have fewer than two dimensions, are left alone.

  Args:
    optimizer: such as `@optax.adam()`.
    rate: share taken off at each update, in [0, 1].

  Raises:
    ValueError: for no transformation, or a rate out of its range.
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
  """Adam with a learning rate each for an `ActorCritic`'s policy, critics and learnt scalars.

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
  """Which part a parameter belongs to: the first word of its module's name below 'params'."""
  if path[0].key != 'params':
    return 'critic'  # Of a collection that the learner does not move: any will do.
  return str(path[1].key).partition('_')[0]

"""A caller's arguments on a network, and defaults for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from implicit_rl.context import NotGivenError


class NotGiven:
  """Replaces a missing argument: any use of it raises NotGivenError.

  Args:
    what: the argument to give.
  """

  def __init__(self, what: str):
    vars(self)['what'] = what

  def _fail(self, *args: Any, **kwargs: Any) -> NoReturn:
    del args, kwargs
    raise NotGivenError(f'give {vars(self)["what"]}')

  def __len__(self) -> int:
    return self._fail()

  __getattr__ = __getitem__ = __iter__ = __bool__ = __call__ = _fail
  __array__ = __jax_array__ = __float__ = __index__ = __add__ = __mul__ = __rmul__ = _fail


# A search for arrays in it is a use, too.
jax.tree_util.register_pytree_node(NotGiven, NotGiven._fail, NotGiven._fail)


class NotGivenRows(NotGiven):
  """Replaces a missing part of the batch; other parts can be sliced and stacked.

  Args:
    what: the argument to give.
    size: the number of states.
  """

  ndim = 1  # Actions are discrete.

  def __init__(self, what: str, size: int):
    super().__init__(what)
    vars(self)['size'] = size

  def __len__(self) -> int:
    return vars(self)['size']


jax.tree_util.register_pytree_node(
  NotGivenRows, lambda one: ((), tuple(vars(one).values())), lambda about, _: NotGivenRows(*about)
)


def or_missing(value: Any, what: str) -> Any:
  """Returns the value, or its default if it is None."""
  return NotGiven(what) if value is None else value


def rows_or_missing(name: str, value: Any, size: int) -> Any:
  """Returns `rows`, or a placeholder if the value is None."""
  return NotGivenRows(name, size) if value is None else rows(name, value, size)


def is_missing(value: Any) -> bool:
  """Whether a value was not given."""
  return isinstance(value, NotGiven)


def compiled_call(function: Callable[..., Any], *args: Any) -> Any:
  """Returns `jax.jit(function)(*args)`; parts of the arguments may be missing."""
  leaves, tree = jax.tree.flatten(args, is_leaf=is_missing)

  @jax.jit
  def call(given: list[Any]) -> Any:
    rest = iter(given)
    return function(*jax.tree.unflatten(tree, [x if is_missing(x) else next(rest) for x in leaves]))

  return call([x for x in leaves if not is_missing(x)])


def rows(name: str, value: Any, size: int | None = None) -> Any:
  """Returns a pytree of arrays whose first axis is over states.

  Args:
    name: of the argument.
    value: arrays that `jnp.asarray` accepts, which include PyTorch's tensors on the CPU.
    size: the number of states; None accepts any except 0.

  Raises:
    ValueError: for other values; the error has the name and the shape.
  """

  def read(one: Any) -> jax.Array:
    try:
      array = jnp.asarray(one)
    except (TypeError, ValueError, RuntimeError) as error:
      raise ValueError(f'{name} cannot be read: {" ".join(str(error).split())}') from error
    if not array.ndim or not array.shape[0] or size not in (None, array.shape[0]):
      least = 'at least one state' if size is None else f'each of {size} states'
      raise ValueError(f'{name} must have a row for {least}, got shape {array.shape}.')
    return array

  return jax.tree.map(read, value)

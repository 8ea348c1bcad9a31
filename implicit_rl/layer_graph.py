"""Finds the weights into and out of each hidden unit, from a trace of the network.

A unit is an output of a dense layer or a channel of a convolution. Its incoming weights are one
column of its layer's kernel, or one row of a kernel [out, in]. Its outgoing weights are in the
kernels of the next layers:

    input j of the next layer comes from unit j mod C

for C units. This also holds after a convolution is flattened, [H, W, C] -> H·W·C, and after an
activation that puts several functions of a unit on the last axis, such as crelu.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.extend as jex
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from implicit_rl.types import Params, PRNGKey

Path = tuple[str, ...]  # Path of an array in the parameters: ('params', 'Dense_0', 'kernel').


class Kernel(NamedTuple):
  """The weights of a dense layer or a convolution.

  Attributes:
    path: their path in the parameters.
    rows: whether they are [out, in], as in `RowDense` and `NoisyDense`, rather than [..., in, out].
  """

  path: Path
  rows: bool

  def matrix(self, kernel: jax.Array) -> jax.Array:
    """Returns a kernel as a matrix [fan_in, out]; merges a convolution's positions and inputs."""
    return kernel.T if self.rows else kernel.reshape(-1, kernel.shape[-1])

  def fan_in(self, shape: tuple[int, ...]) -> int:
    """Returns how many weights of a kernel of this shape lead into each output."""
    return math.prod(shape) // shape[0 if self.rows else -1]

  def into(self, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts a value for each output [out] to its incoming weights: -> `shape`."""
    return _along(values, 0 if self.rows else -1, shape)

  def out_of(self, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts a value for each unit [C] to its outgoing weights: -> `shape`."""
    axis = self.input_axis
    return _along(jnp.tile(values, shape[axis] // len(values)), axis, shape)

  def by_unit(self, kernel: jax.Array, units: int) -> jax.Array:
    """Returns the outgoing weights of each of C units, as rows [C, ·]."""
    inputs = jnp.moveaxis(kernel, self.input_axis, 0)
    return jnp.moveaxis(inputs.reshape(-1, units, *inputs.shape[1:]), 1, 0).reshape(units, -1)

  @property
  def input_axis(self) -> int:
    """The axis of the inputs: the last of rows, else the last but one."""
    return -1 if self.rows else -2


class HiddenLayer(NamedTuple):
  """A hidden layer's parameters, and the kernels that read its units.

  Attributes:
    name: its key in the outputs' `layers`, such as 'Conv_0' or 'critic_hidden_1/Dense_0'.
    units: C.
    incoming: the kernels whose outputs are its units. Two for noisy layers: mean and noise.
    vectors: paths of parameters with one number per unit: biases, a normalisation's gains.
    outgoing: the kernels whose inputs are its units. Several for dueling heads and noisy layers.
  """

  name: str
  units: int
  incoming: tuple[Kernel, ...]
  vectors: tuple[Path, ...]
  outgoing: tuple[Kernel, ...]


class LayerGraph(NamedTuple):
  """A network's weights and units.

  Attributes:
    kernels: all of them, in the order in which they are used.
    layers: the hidden layers by name, from input to output; for critics, one critic after another.
    heads: the kernels that no other kernel follows. Two for a dueling head.
  """

  kernels: tuple[Kernel, ...]
  layers: dict[str, HiddenLayer]
  heads: tuple[Kernel, ...]

  def masks(self, chosen: Mapping[str, jax.Array], params: Params) -> tuple[Params, Params]:
    """Marks all parameters of some units.

    Args:
      chosen: a mask [C] of the units by layer; layers that are not named have none.
      params: the network's parameters.

    Returns:
      Two trees of bool arrays like `params`: incoming weights, including biases and normalisation,
      and outgoing weights.
    """
    shapes = {path: x.shape for path, x in traverse_util.flatten_dict(params).items()}
    into, out_of = ({path: jnp.zeros(shapes[path], bool) for path in shapes} for _ in range(2))
    for name, units in chosen.items():
      layer = self.layers[name]
      for path in layer.vectors:
        into[path] |= units
      for kernel in layer.incoming:
        into[kernel.path] |= kernel.into(units, shapes[kernel.path])
      for kernel in layer.outgoing:
        out_of[kernel.path] |= kernel.out_of(units, shapes[kernel.path])
    return traverse_util.unflatten_dict(into), traverse_util.unflatten_dict(out_of)

  def last(self, hidden: int, params: Params) -> Params:
    """Marks the heads and the hidden layers before them, with all their parameters.

    Args:
      hidden: how many hidden layers before each head; 0 marks only the heads.
      params: the network's parameters.

    Returns:
      A tree like `params` of Python bools, one for each array.

    Raises:
      ValueError: if there are fewer hidden layers before a head.
    """
    modules, vectors = {kernel.path[:-1] for kernel in self.heads}, set[Path]()
    for _ in range(hidden):
      before = [
        layer
        for layer in self.layers.values()
        if any(kernel.path[:-1] in modules for kernel in layer.outgoing)
        and not all(kernel.path[:-1] in modules for kernel in layer.incoming)
      ]
      if not before:
        raise ValueError(f'There are no {hidden} hidden layers before the head.')
      modules |= {kernel.path[:-1] for layer in before for kernel in layer.incoming}
      vectors |= {path for layer in before for path in layer.vectors}
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
      {path: path[:-1] in modules or path in vectors for path in flat}
    )


@functools.lru_cache(maxsize=16)  # A trace takes a tenth of a second, and every remedy needs one.
def layer_graph(init: Callable[[PRNGKey], Params]) -> LayerGraph:
  """Reads the graph of a network from a trace of its initialisation; nothing is computed.

  A layer is a Flax module with its own parameters: a kernel, or only vectors as in normalisations.
  A module whose kernel is [out, in] sets `rows = True`. Channels must be the last axis.

  Args:
    init: `init(key) -> params`, not compiled: `Context.init`.

  Raises:
    ValueError: if the number of a kernel's inputs is not a multiple of the units that it reads.
  """
  calls: list[_Call] = []
  activations: dict[str, jax.Array] = {}
  within: list[str] = []

  def note(method, arguments, settings, context):
    module = context.module
    if not module.path:
      within.append(context.method_name)
    outputs = method(*arguments, **settings)
    if not module.path:
      within.pop()
      layers = getattr(outputs, 'layers', None) or {}
      activations.update({name: layer.activation for name, layer in layers.items()})
    elif context.method_name == '__call__':
      own = module.variables.get('params', {})
      ranks = {name: x.ndim for name, x in own.items() if isinstance(x, jax.Array)}
      if any(ranks.values()):
        ends = jax.tree.leaves((arguments, settings)), jax.tree.leaves(outputs)
        rows = getattr(module, 'rows', False)
        calls.append(_Call(module.path, within[-1], ranks, rows, *ends))
    return outputs

  def trace(key):
    with nn.intercept_methods(note):
      init(key)
    return [(call.inputs, call.outputs) for call in calls], activations

  key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
  jaxpr, shapes = jax.make_jaxpr(trace, return_shape=True)(key)
  variables = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.jaxpr.outvars)
  ends, names = variables
  calls = [call._replace(inputs=i, outputs=o) for call, (i, o) in zip(calls, ends, strict=True)]
  return _read(jaxpr.jaxpr, calls, {name: names[name] for name in activations})


def array_at(params: Params, path: Path) -> jax.Array:
  """Returns the array at a path in the parameters, or in a tree like them."""
  return functools.reduce(lambda tree, key: tree[key], path, params)


class _Call(NamedTuple):
  """One traced call of a module with its own parameters.

  Attributes:
    path: the module's.
    method: the network's method that made the call, such as 'critics'.
    ranks: number of dimensions of its parameters, by name.
    rows: whether its kernels are [out, in].
    inputs: the trace's variables of all its inputs.
    outputs: the trace's variables of all its outputs.
  """

  path: tuple[str, ...]
  method: str
  ranks: Mapping[str, int]
  rows: bool
  inputs: list[Any]
  outputs: list[Any]

  @property
  def kernels(self) -> tuple[Kernel, ...]:
    return tuple(Kernel(path, self.rows) for path in self._paths(lambda rank: rank > 1))

  @property
  def vectors(self) -> tuple[Path, ...]:
    return tuple(self._paths(lambda rank: rank == 1))

  def _paths(self, takes: Callable[[int], bool]) -> Iterator[Path]:
    return (('params', *self.path, name) for name, rank in self.ranks.items() if takes(rank))


def _read(jaxpr: Any, calls: list[_Call], activations: dict[str, Any]) -> LayerGraph:
  """Returns the graph of a trace, given the variables of its calls and of the activations."""
  sources = _sources(jaxpr, calls, activations)
  read = [_union(sources.near.get(one) for one in call.inputs) for call in calls]

  def through_norms(marks: frozenset) -> tuple[frozenset, frozenset]:
    """Returns the marks with normalisations replaced by their inputs, and these normalisations."""
    norms = frozenset(mark for mark in marks if mark not in activations and not calls[mark].kernels)
    if not norms:
      return marks, norms
    found, others = through_norms((marks - norms) | _union(read[norm] for norm in norms))
    return found, norms | others

  def made_by_calls(marks: frozenset) -> frozenset:
    """Returns the calls that marks lead to through activations and normalisations."""
    found = through_norms(marks)[0]
    names = found & activations.keys()
    return (found - names) | _union(made_by_calls(sources.of[name]) for name in names)

  made_of = {name: through_norms(sources.of[name]) for name in activations}
  summed = _union(found & activations.keys() for found, _ in made_of.values())
  layers = {}
  for name, (found, norms) in made_of.items():
    if not found or found & activations.keys() or name in summed:
      continue  # A sum with an earlier layer, or part of one, is not the only path for its units.
    made_by = [calls[number] for number in sorted(found)]
    readers = [
      call
      for call, marks in zip(calls, read, strict=True)
      if call.kernels and name in through_norms(marks)[0]
    ]
    units = made_by[0].outputs[0].aval.shape[-1]
    for call in readers:
      width = math.prod(call.inputs[0].aval.shape[1:])
      if width % units:
        raise ValueError(
          f'{"/".join(call.path)} has {width} inputs from the {units} units of {name}, '
          'which is not a multiple: channels must be on the last axis.'
        )
    vectors = [path for call in made_by for path in call.vectors]
    vectors += [path for number in sorted(norms) for path in calls[number].vectors]
    layers[name] = HiddenLayer(name, units, _kernels(made_by), tuple(vectors), _kernels(readers))
  followed = {
    number
    for call, marks in zip(calls, read, strict=True)
    for number in made_by_calls(marks)
    if call.kernels and call.method == calls[number].method  # Critics follow the actor's action.
  }
  heads = _kernels(call for number, call in enumerate(calls) if number not in followed)
  return LayerGraph(_kernels(calls), layers, heads)


class _Sources(NamedTuple):
  """Dependencies in a trace. A mark is a call's number, for its outputs, or a layer's name.

  Attributes:
    near: marks that a variable is computed from, through no other mark.
    of: the same for variables that have a mark themselves.
  """

  near: dict[Any, frozenset]
  of: dict[Any, frozenset]


def _sources(jaxpr: Any, calls: list[_Call], activations: dict[str, Any]) -> _Sources:
  """Follows the marks through a trace, from its first equation to its last."""
  marks: dict[Any, list] = collections.defaultdict(list)
  for number, call in enumerate(calls):
    for variable in call.outputs:
      marks[variable].append(number)
  casts = {
    one.outvars[0]: one.invars[0]
    for one in jaxpr.eqns
    if one.primitive.name == 'convert_element_type'
  }
  for name, variable in activations.items():  # A network's outputs may be copies in float32.
    marks[casts.get(variable, variable)].append(name)
  near: dict[Any, frozenset] = {}
  of: dict[Any, frozenset] = {}
  for equation in jaxpr.eqns:
    found = _union(near.get(one) for one in equation.invars if isinstance(one, jex.core.Var))
    for variable in equation.outvars:
      near[variable] = found
      for mark in marks[variable]:
        of[mark] = of.get(mark, frozenset()) | near[variable]
        near[variable] = frozenset([mark])
  return _Sources(near, of)


def _along(values: jax.Array, axis: int, shape: tuple[int, ...]) -> jax.Array:
  """Broadcasts values, one for each position on an axis, to an array's shape."""
  ones = [1] * len(shape)
  ones[axis] = -1
  return jnp.broadcast_to(values.reshape(ones), shape)


def _kernels(calls: Iterable[_Call]) -> tuple[Kernel, ...]:
  return tuple(kernel for call in calls for kernel in call.kernels)


def _union(sets: Iterable[frozenset | None]) -> frozenset:
  return frozenset().union(*(one or () for one in sets))

"""Merges functions that differ only in numbers, such as updates of several settings.

Each function is traced. Where all traces agree, the merged function does the same. Where they have
different numbers, such as a learning rate or a period, it uses that of the chosen function. With
`jax.vmap` over the function's index, runs of different settings are one program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Calls that their bodies can replace, since merged functions are not differentiated.
_CALLS = {'jit': 'jaxpr', 'closed_call': 'call_jaxpr', 'custom_jvp_call': 'call_jaxpr'}


class DifferentProgramsError(ValueError):
  """The functions differ in more than numbers."""


def merge(functions: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
  """Returns `merged(number, *arguments)`, which computes `functions[number](*arguments)`.

  Args:
    functions: pure, of the same arguments; N of them. Their constants may differ.

  Returns:
    The merged function; `number` is an int32 in [0, N), and may be traced. The function can be
    vmapped, but not differentiated. When it is traced, it raises DifferentProgramsError if the
    functions differ in more than numbers: if one has a term that another lacks, or arrays of other
    shapes.
  """

  def merged(number: jax.Array, *arguments: Any) -> Any:
    traced = [jax.make_jaxpr(one, return_shape=True)(*arguments) for one in functions]
    programs = [program for program, _ in traced]
    results = _run(programs, number, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(traced[0][1]), results)

  return merged


def _run(programs: Sequence[Any], number: jax.Array, arguments: Sequence[Any]) -> list[Any]:
  """Evaluates closed jaxprs in step: the equations of the first, with the numbers of all."""
  value: dict[Any, Any] = {}  # Values of the first program's variables.
  name: list[dict[Any, Any]] = [{} for _ in programs]  # Each one's variables by the first's.

  def define(variables: Sequence[Any], values: Sequence[Any]) -> None:
    value.update(zip(variables[0], values, strict=True))
    for names, own in zip(name, variables, strict=True):
      _check(len(own) == len(variables[0]), 'the number of variables')
      names.update(zip(own, variables[0], strict=True))

  def read(atoms: Sequence[Any]) -> Any:
    if all(isinstance(atom, core.Literal) for atom in atoms):
      return _chosen([atom.val for atom in atoms], atoms[0].aval.dtype, number)
    _check(not any(isinstance(atom, core.Literal) for atom in atoms), 'a number that one computes')
    named = {names[atom] for names, atom in zip(name, atoms, strict=True)}
    _check(len(named) == 1, 'what is computed from what')
    return value[named.pop()]

  bodies = [program.jaxpr for program in programs]
  define([body.invars for body in bodies], arguments)
  for constants in zip(*(program.consts for program in programs), strict=True):
    _check(len({np.shape(constant) for constant in constants}) == 1, 'the shape of a constant')
  define(
    [body.constvars for body in bodies],
    [
      _chosen(constants, jnp.result_type(constants[0]), number)
      for constants in zip(*(program.consts for program in programs), strict=True)
    ],
  )
  _check(len({len(body.eqns) for body in bodies}) == 1, 'the number of operations')
  for equations in zip(*(body.eqns for body in bodies), strict=True):
    _check_alike(equations)
    inputs = [read(atoms) for atoms in zip(*(one.invars for one in equations), strict=True)]
    define([one.outvars for one in equations], _do(equations, number, inputs))
  return [read(atoms) for atoms in zip(*(body.outvars for body in bodies), strict=True)]


def _do(equations: Sequence[Any], number: jax.Array, inputs: Sequence[Any]) -> list[Any]:
  """Returns the results of one operation of all programs."""
  first = equations[0]
  kind = first.primitive.name
  inner = [_inner(one) for one in equations]  # [programs][jaxprs]
  if all(_equal(jaxprs) for jaxprs in zip(*inner, strict=True)):
    settings = first.primitive.get_bind_params(first.params)
    results = first.primitive.bind(*inputs, **settings)
    return list(results) if first.primitive.multiple_results else [results]
  if kind == 'cond':
    branches = zip(*(one.params['branches'] for one in equations), strict=True)
    return jax.lax.switch(
      inputs[0],
      [lambda *given, same=same: _run(same, number, given) for same in branches],
      *inputs[1:],
    )
  if kind in _CALLS:
    return _run([one.params[_CALLS[kind]] for one in equations], number, inputs)
  raise DifferentProgramsError(f'they differ within an operation {kind!r}')


def _chosen(numbers: Sequence[Any], dtype: Any, number: jax.Array) -> Any:
  """Returns the chosen one of all programs' constants; the first if they are equal."""
  if _are_equal(numbers):
    return numbers[0]
  return jnp.stack([jnp.asarray(one, dtype) for one in numbers])[number]


def _check_alike(equations: Sequence[Any]) -> None:
  """Raises DifferentProgramsError unless one operation of each program is the same."""
  first = equations[0]
  for one in equations[1:]:
    _check(one.primitive is first.primitive, f'{first.primitive} is {one.primitive} in another')
    _check(
      [v.aval for v in one.outvars] == [v.aval for v in first.outvars]
      and len(one.invars) == len(first.invars),
      f'the shapes of {first.primitive}',
    )
    for key, setting in first.params.items():
      same = bool(_jaxprs(setting)) or _text(setting) == _text(one.params[key])
      _check(same, f'{key} of {first.primitive}')


def _equal(jaxprs: Sequence[Any]) -> bool:
  """Whether programs are equal, including their numbers."""
  texts = set(map(_text, jaxprs))
  constants = zip(*(one.consts for one in jaxprs), strict=len(texts) == 1)
  return len(texts) == 1 and all(_are_equal(values) for values in constants)


def _text(what: Any) -> str:
  """Returns a value's text, without memory addresses."""
  return re.sub('0x[0-9a-f]+', '', str(what))


def _are_equal(values: Sequence[Any]) -> bool:
  first = values[0]
  return all(one is first or np.array_equal(one, first, equal_nan=True) for one in values)


def _inner(equation: Any) -> list[Any]:
  return [jaxpr for setting in equation.params.values() for jaxpr in _jaxprs(setting)]


def _jaxprs(setting: Any) -> list[Any]:
  """Returns the closed jaxprs in a parameter of an operation."""
  found = setting if isinstance(setting, tuple | list) else [setting]
  return [one for one in found if isinstance(one, core.ClosedJaxpr)]


def _check(alike: bool, what: str) -> None:
  if not alike:
    raise DifferentProgramsError(f'they differ in {what}')

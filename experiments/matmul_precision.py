"""Trains offline DQN on MinAtar with products rounded as TF32 and bfloat16 round them.

    python experiments/matmul_precision.py --output=runs/matmul_precision

A CPU multiplies in float32. Here the operands of every product and convolution of an update,
forward and backward, are first cut to the mantissa of the narrower type (10 bits of TF32, 7 of
bfloat16) and the products summed in float32, as accelerators do. Products that ask for the highest
precision, the penalty's, are left alone. Acting and measuring are in float32; `srank, rounded` is
that of the last features when the network's own products are rounded too.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

MANTISSAS = {'float32': None, 'TF32': 10, 'bfloat16': 7}  # bits
GIN = 'gin_configs/minatar/offline_dqn.gin'
_PRODUCTS = ('dot_general', 'conv_general_dilated')


def rounded(function: Callable[..., Any], mantissa: int) -> Callable[..., Any]:
  """Returns a pure function whose products round their float32 operands to `mantissa` bits."""

  @functools.wraps(function)
  def wrapped(*arguments: Any) -> Any:
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    values = _evaluate(program, jax.tree.leaves(arguments), mantissa)
    return jax.tree.unflatten(jax.tree.structure(shapes), values)

  return wrapped


def _evaluate(program: Any, arguments: Sequence[Any], mantissa: int) -> list[Any]:
  """Evaluates a closed jaxpr, operation by operation, with rounded products."""
  jaxpr = program.jaxpr
  known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments], strict=True))
  read = lambda x: x.val if isinstance(x, core.Literal) else known[x]
  for equation in jaxpr.eqns:
    values, name = [read(x) for x in equation.invars], equation.primitive.name
    if name in _PRODUCTS and 'HIGHEST' not in str(equation.params['precision']):
      values = [_cut(x, mantissa) for x in values]
    if name in ('custom_jvp_call', 'custom_vjp_call'):  # Derivatives have been taken already.
      inner = equation.params.get('call_jaxpr', equation.params.get('fun_jaxpr'))
      results = _evaluate(inner, values, mantissa)
    else:
      params = {key: _converted(value, mantissa) for key, value in equation.params.items()}
      results = equation.primitive.bind(*values, **params)
      results = results if equation.primitive.multiple_results else [results]
    known.update(zip(equation.outvars, results, strict=True))
  return [read(x) for x in jaxpr.outvars]


def _converted(value: Any, mantissa: int) -> Any:
  """A parameter of an operation: programs within it are rounded too."""
  if isinstance(value, core.ClosedJaxpr):
    inner = lambda *arguments: _evaluate(value, arguments, mantissa)
    return jax.make_jaxpr(inner)(*value.in_avals)
  if type(value) is tuple:  # Not a NamedTuple.
    return tuple(_converted(one, mantissa) for one in value)
  return value


def _cut(x: Any, mantissa: int) -> Any:
  return jax.lax.reduce_precision(x, 8, mantissa) if x.dtype == 'float32' else x


def run(directory: pathlib.Path, name: str, seed: int, iterations: int) -> dict[str, Any]:
  """Does or resumes one run; returns its last iteration's measures."""
  from implicit_rl import rank
  from implicit_rl.running import experiment

  mantissa = MANTISSAS[name]
  experiment.parse_gin([GIN], [f'OfflineRunner.num_iterations = {iterations}'])
  runner = experiment.create_runner(str(directory), seed)
  agent = runner.agent
  if mantissa is not None:
    agent.learner.pure_update = rounded(agent.learner.pure_update, mantissa)
  runner.run_experiment()
  rows = [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]
  batch = agent.source.fixed_batch(2048)
  apply = agent.apply if mantissa is None else rounded(agent.apply, mantissa)
  features = apply(agent.state.params, batch.state).features
  measured = {key: rows[-1][key] for key in ('srank', 'centred_srank', 'eval_return', 'q_mean')}
  return {**measured, 'srank, rounded': float(rank.srank(features))}


def main() -> None:
  """Does all runs and prints the table, every seed of it."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/matmul_precision'))
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--iterations', type=int, default=10, help='of 2,000 gradient updates')
  options = parser.parse_args()
  from implicit_rl.cpu import launcher

  launcher.prepare()
  found: dict[str, list[dict[str, Any]]] = {name: [] for name in MANTISSAS}
  for seed in range(options.seeds):
    for name, rows in found.items():
      rows.append(run(options.output / name / f'seed_{seed}', name, seed, options.iterations))
  print(table(found))


def table(found: dict[str, list[dict[str, Any]]]) -> str:
  """The Markdown table: mean ± standard deviation over seeds, then each seed's number."""
  names = list(next(iter(found.values()))[0])
  lines = [f'| products in | {" | ".join(names)} |', f'| --- |{" --- |" * len(names)}']
  for precision, rows in found.items():
    cells = []
    for name in names:
      values = [row[name] for row in rows]
      spread = statistics.stdev(values) if len(values) > 1 else 0.0
      each = ', '.join(f'{value:.3g}' for value in values)
      cells.append(f'{statistics.mean(values):.3g} ± {spread:.2g} ({each})')
    lines.append(f'| {precision} | {" | ".join(cells)} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  main()

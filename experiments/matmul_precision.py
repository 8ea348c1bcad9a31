"""Trains offline DQN on CartPole with products rounded as TF32 and bfloat16 round them.

    python experiments/matmul_precision.py          (runs, then the table; resumes where it stopped)
    python experiments/matmul_precision.py report --results=docs/results/matmul_precision

The regime is the one of `implicit_rl.demo`, where values diverge and rank is lost. Any other
offline gin file will do, such as --gin_file=gin_configs/minatar/offline_dqn.gin.

A CPU multiplies in float32. Here the operands of every product and convolution of an update,
forward and backward, are first cut to the mantissa of the narrower type (10 bits of TF32, 7 of
bfloat16) and the products summed in float32, as accelerators do. Products that ask for the highest
precision, the penalty's, are left alone. Acting and measuring are in float32; `srank, rounded` is
that of the last features when the network's own products are rounded too.

Training amplifies any rounding, so two runs differ even where precision is irrelevant. The control
shows by how much: its operands keep 22 of float32's 23 bits. An effect of a precision on a measure
is claimed only if its differences from float32, seed by seed, all have the same sign, and their
mean is larger than the control's largest difference.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.extend import core

from implicit_rl import rank
from implicit_rl.analysis import runs, style, tables

CONTROL = 'control, 22 bits'
MANTISSAS = {'float32': None, CONTROL: 22, 'TF32': 10, 'bfloat16': 7}  # bits
GIN = 'gin_configs/regimes/cartpole.gin'
ITERATIONS = 10  # of 1,000 gradient updates in that regime
LAST = 3  # iterations whose returns are averaged
_PRODUCTS = ('dot_general', 'conv_general_dilated')
# Columns of the committed table.
_KEPT = (
  'variant game seed iteration updates eval_return srank centred_srank effective_rank '
  'centred_effective_rank td_error q_mean'
).split()
_ROUNDED = 'srank, rounded'


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


def run(
  directory: pathlib.Path, gin_file: str, name: str, seed: int, iterations: int
) -> pd.DataFrame:
  """Does or resumes one run; returns a row for each iteration."""
  from implicit_rl.running import experiment

  mantissa = MANTISSAS[name]
  bindings = [f'OfflineRunner.num_iterations = {iterations}', 'Diagnostics.plasticity = None']
  experiment.parse_gin([gin_file], bindings)
  runner = experiment.create_runner(str(directory), seed)
  agent = runner.agent
  if mantissa is not None:
    agent.learner.pure_update = rounded(agent.learner.pure_update, mantissa)
  runner.run_experiment()
  loaded = runs.read(directory)
  rows = runs.frame({name: [loaded]})[_KEPT]
  apply = agent.apply if mantissa is None else rounded(agent.apply, mantissa)
  features = apply(agent.state.params, agent.source.fixed_batch(2048).state).features
  rows.loc[rows.index[-1], _ROUNDED] = float(rank.srank(features))
  return rows.assign(revision=str(loaded.start['git_revision'])[:7])


def ends(rows: pd.DataFrame) -> pd.DataFrame:
  """What is compared of each run: ranks and Q at the end, the mean return of the last iterations.

  Args:
    rows: of all runs, as `run` returns them.

  Returns:
    A row for each variant and seed, a column for each measure.
  """
  by_run = rows.sort_values(['variant', 'seed', 'iteration']).groupby(['variant', 'seed'])
  measures = ['srank', 'centred_srank', 'effective_rank', 'centred_effective_rank', 'q_mean']
  last = by_run[[*measures, _ROUNDED]].last()
  returns = by_run['eval_return'].apply(lambda values: values.tail(LAST).mean())
  return last.assign(**{'return': returns})


def tables_of(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
  """Returns each variant's measures, every seed of them, and the differences from float32."""
  found = ends(rows)
  names = [name for name in MANTISSAS if name in found.index.get_level_values('variant')]
  each = lambda values: ', '.join(f'{value:.4g}' for value in values)
  measured, compared = [], []
  for name in names:
    own = found.loc[name]
    cells = {
      key: f'{tables.mean_and_spread(own[key].to_numpy(), 2)} ({each(own[key])})' for key in found
    }
    measured.append({'products in': name, **cells})
  for key in found:
    moved = {name: (found.loc[name] - found.loc['float32'])[key].to_numpy() for name in names}
    chaos = np.abs(moved[CONTROL]).max()
    for name in names[1:]:
      own = moved[name]
      one_sign = bool((own > 0).all() or (own < 0).all())
      effect = 'yes' if one_sign and abs(own.mean()) > chaos else 'no'
      compared.append(
        {'measure': key, 'products in': name, 'mean difference from float32': f'{own.mean():.3g}'}
        | {'each seed': each(own), 'effect': '' if name == CONTROL else effect}
      )
  return pd.DataFrame(measured), pd.DataFrame(compared)


def main() -> None:
  """Does all runs, writes their rows and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('step', nargs='?', choices=['report'], help='only the tables')
  parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/matmul_precision'))
  parser.add_argument(
    '--results', type=pathlib.Path, help='directory of runs.csv; by default --output'
  )
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--iterations', type=int, default=ITERATIONS)
  parser.add_argument('--gin_file', default=GIN, help='of offline training')
  options = parser.parse_args()
  path = (options.results or options.output) / 'runs.csv'
  if options.step != 'report':
    from implicit_rl.running import launch

    os.environ.update(launch.environment(one_thread=True))
    launch.start_jax()
    jax.config.update('jax_compilation_cache_dir', str(options.output / 'programs'))
    parts = []
    for seed in range(options.seeds):
      for name in MANTISSAS:
        folder = options.output / name.partition(',')[0] / f'seed_{seed}'
        parts.append(run(folder, options.gin_file, name, seed, options.iterations))
    path.parent.mkdir(parents=True, exist_ok=True)
    style.write_csv(pd.concat(parts, ignore_index=True), path)
  for table in tables_of(pd.read_csv(path)):
    print(f'{tables.markdown(table)}\n')


if __name__ == '__main__':
  main()

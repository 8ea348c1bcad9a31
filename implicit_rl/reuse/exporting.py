"""Command line: `implicit-rl export RUN` writes a policy to a file that needs only JAX.

exported = jax.export.deserialize(open('policy.jaxexport', 'rb').read())
actions, q_values = exported.call(states)  # [E, S, *observation_shape], any E
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from implicit_rl import cpu
from implicit_rl.losses import tanh_gaussian
from implicit_rl.reuse import options as run_options
from implicit_rl.running.loading import LoadedRun
from implicit_rl.types import Array

PLATFORMS = ('cpu', 'cuda', 'tpu')


def exported(run: LoadedRun, platforms: Sequence[str] = PLATFORMS) -> bytes:
  """Returns the greedy policy with its parameters, serialised by `jax.export`.

  Its `call` takes states [E, S, *observation_shape] in the observations' dtype, for any E, frames
  oldest first, and returns (actions [E] int32, Q-values [E, A] float32); with continuous actions
  (actions [E, A] float32 in [−1, 1],).

  Args:
    run: from `load_run`.
    platforms: on which it can be called.
  """
  agent, params = run.agent, run.params

  def act(states: Array) -> tuple[jax.Array, ...]:
    if agent.action_shape:
      return (tanh_gaussian.mode(agent.apply(params, states, method='actor')),)
    q_values = agent.apply(params, states).q_values
    return jnp.argmax(q_values, axis=-1).astype(jnp.int32), q_values

  (many,) = jax.export.symbolic_shape('E')
  state = agent.blank_state
  shape = jax.ShapeDtypeStruct((many, *state.shape), state.dtype)
  before = cpu.kernels_in_use()
  cpu.use_kernels(False)  # They work only on one platform.
  try:
    return bytes(jax.export.export(jax.jit(act), platforms=platforms)(shape).serialize())
  finally:
    cpu.use_kernels(before)


def save(run: LoadedRun, path: str | os.PathLike) -> pathlib.Path:
  """Writes the exported policy to a file, completely or not at all.

  Raises:
    OSError: if it cannot be written.
  """
  output = pathlib.Path(path).expanduser()
  unfinished = output.with_name(f'.{output.name}.unfinished')
  try:
    unfinished.write_bytes(exported(run))
    os.replace(unfinished, output)
  finally:
    unfinished.unlink(missing_ok=True)
  return output


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='implicit-rl export',
    description='Writes the greedy policy of a trained run to one file, which jax.export reads.',
  )
  run_options.add(parser)
  parser.add_argument('--output', required=True, metavar='PATH', help='such as policy.jaxexport')
  options = parser.parse_args(arguments)
  try:
    run = run_options.load(options)
    path = save(run, options.output)
  except (OSError, ValueError) as error:
    print(f'implicit-rl export: {error}', file=sys.stderr)
    return 1
  shape = ', '.join(map(str, run.agent.blank_state.shape))
  print(
    f'{path}: iteration {run.iteration}, {path.stat().st_size:,} bytes; takes states '
    f'[E, {shape}] {run.agent.blank_state.dtype}'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())

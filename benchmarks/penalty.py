"""Times what the rank penalty and the metrics add to an update, on one core.

    python benchmarks/penalty.py

The same update in four versions that take turns in one process: with the penalty, without it, and
without it and without `Gradient/Norm`, or without any metrics, which XLA then leaves out. Then the
penalty's gradient alone, by each solver of the Gram matrix's eigenproblem and from an SVD, and what
it and its relatives consist of (`--sizes` without a size: these alone). Batches are in memory.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import learners
import machine
import numpy as np
import turns

GIN = {
  'Atari': ('gin_configs/atari/offline_dqn.gin', (4, 84, 84), np.uint8),
  'MinAtar': ('gin_configs/minatar/offline_dqn.gin', (1, 10, 10, 4), np.uint8),
}
WITH, WITHOUT = 'with the penalty', 'without'
AGAINST = {WITH: WITHOUT, 'without Gradient/Norm': WITHOUT, 'without any metrics': WITHOUT}
SVD = 'from an SVD'
LOOP = 64  # runs of a piece in a compiled loop


def agent_and_batches(
  size: str,
  together: int,
  batch: int = 32,
  bindings: Sequence[str] = (),
  mix_ins: Sequence[str] = (learners.PENALTY,),
) -> tuple[Any, Any]:
  """The agent of a gin file with mix-ins, and batches [together, batch, ...] on the device."""
  import gin
  import jax

  from implicit_rl import types
  from implicit_rl.running import experiment

  file, shape, dtype = GIN[size]
  rng = np.random.default_rng(0)
  lead = (together, batch)
  frames = lambda: rng.integers(0, 256 if size == 'Atari' else 2, (*lead, *shape)).astype(dtype)
  batches = types.Batch(
    state=frames(),
    action=rng.integers(0, 3, lead).astype(np.int32),
    reward=rng.normal(size=lead).astype(np.float32),
    next_state=frames(),
    next_action=np.zeros(lead, np.int32),
    discount=np.ones(lead, np.float32),
    weight=np.ones(lead, np.float32),
  )
  experiment.parse_gin([file, *mix_ins], bindings)
  make = gin.query_parameter('Experiment.agent').scoped_configurable_fn
  agent = make(learners.ACTIONS, shape[1:], dtype, shape[0], source=None, batch_size=batch)
  return agent, jax.device_put(batches)


def versions(size: str, together: int) -> dict[str, Callable[[int], Any]]:
  """The versions of an update, each a function of how many calls of `together` updates it does."""
  made = functools.partial(updates_of, size, together)
  return {
    WITH: made(),
    WITHOUT: made(mix_ins=()),
    'without Gradient/Norm': made(mix_ins=(), dropped=lambda name: name == 'Gradient/Norm'),
    'without any metrics': made(mix_ins=(), dropped=lambda name: True),
  }


def updates_of(
  size: str,
  together: int,
  dropped: Callable[[str], bool] = lambda name: False,
  **settings: Any,
) -> Callable[[int], Any]:
  """A function of how many calls of `together` updates it does, compiled as a run compiles them.

  Args:
    size: 'Atari' or 'MinAtar'.
    together: updates in a call; 1 of Atari.
    dropped: which metrics are left out.
    **settings: for `agent_and_batches`.
  """
  import jax

  agent, batches = agent_and_batches(size, together, **settings)
  jit = functools.partial(jax.jit, donate_argnums=0)

  def update(state: Any, batch: Any) -> Any:
    state, info = agent.learner.pure_update(state, batch)
    return state, {name: value for name, value in info.metrics.items() if not dropped(name)}

  if size == 'Atari':  # As the learner runs them: convolutions outside a loop.
    compiled = jit(update)
    batches = jax.tree.map(lambda x: x[0], batches)
  else:
    compiled = jit(lambda s, b: jax.lax.scan(update, s, b))
  held = [agent.state]

  def work(count: int) -> None:
    for _ in range(count):
      held[0], _ = compiled(held[0], batches)
    jax.block_until_ready(held)

  return work


def alone() -> dict[str, Callable[[int], Any]]:
  """The penalty's gradient at the paper's 32 × 512."""
  import jax
  import jax.numpy as jnp

  from implicit_rl import rank
  from implicit_rl.eigensolvers import SOLVERS

  def from_svd(features: jax.Array) -> jax.Array:
    sigma = jnp.linalg.svd(features, full_matrices=False, compute_uv=True)[1]
    return sigma[0] ** 2 - sigma[-1] ** 2

  features = jnp.maximum(jax.random.normal(jax.random.PRNGKey(0), (32, 512)), 0)

  def gradient(penalty: Callable[[jax.Array], jax.Array]) -> Callable[[int], Any]:
    compiled = jax.jit(jax.grad(penalty))
    return lambda count: [jax.block_until_ready(compiled(features)) for _ in range(count)] and None

  solvers = {
    f'solver {name}': gradient(functools.partial(rank.lp_penalty, solver=name)) for name in SOLVERS
  }
  return {**solvers, SVD: gradient(from_svd)}


def pieces() -> dict[str, Callable[[int], Any]]:
  """What penalties by the Gram matrix consist of, for MinAtar's 32 × 128, in a compiled loop."""
  import jax
  import jax.numpy as jnp

  from implicit_rl import rank
  from implicit_rl.eigensolvers import SOLVERS
  from implicit_rl.remedies.feature_terms import NuclearNorm

  features = jnp.maximum(jax.random.normal(jax.random.PRNGKey(0), (LOOP, 32, 128)), 0)
  grams = jax.vmap(lambda x: x @ x.T)(features)

  def looped(work: Callable[[jax.Array], Any], inputs: jax.Array) -> Callable[[int], Any]:
    def step(total: jax.Array, one: jax.Array) -> tuple[jax.Array, None]:
      done = jax.lax.optimization_barrier(jax.tree.leaves(work(one)))
      return total + sum(x.ravel()[0] for x in done), None

    compiled = jax.jit(lambda inputs: jax.lax.scan(step, jnp.zeros(()), inputs)[0])
    return lambda count: [jax.block_until_ready(compiled(inputs)) for _ in range(count)] and None

  return {
    'Gram matrix': looped(lambda x: x @ x.T, features),
    "its tridiagonal form (LAPACK's sytrd)": looped(
      lambda g: jax.lax.linalg.tridiagonal(g, lower=True), grams
    ),
    'its two eigenpairs, with that': looped(SOLVERS['auto'], grams),
    "all its eigenpairs (LAPACK's syevd)": looped(jnp.linalg.eigh, grams),
    'gradient of L_p': looped(jax.grad(rank.lp_penalty), features),
    'gradient of the stable rank': looped(jax.grad(rank.stable_rank), features),
    'gradient of the nuclear norm': looped(jax.grad(NuclearNorm().of_features), features),
  }


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=11)
  parser.add_argument('--sizes', nargs='*', default=list(GIN), choices=list(GIN))
  parser.add_argument('--calls', type=int, default=6, help='in a round: 64 updates each in MinAtar')
  options = parser.parse_args()
  os.environ.update(turns.threads(1))
  turns.as_runs_do()
  turns.pin(1)
  for size in options.sizes:
    together = 1 if size == 'Atari' else 64
    results = turns.in_turn(versions(size, together), options.calls, options.rounds)
    each = {
      name: [{**r, 'cpu': r['cpu'] / together, 'wall': r['wall'] / together} for r in rounds]
      for name, rounds in results.items()
    }
    print(f'### {size}\n\n{turns.table(each, AGAINST)}\n', flush=True)
  results = turns.in_turn(alone(), 100 * options.calls, options.rounds)
  shown = turns.table(results, dict.fromkeys(results, SVD))
  print(f'### Gradient of the penalty of 32 × 512 features\n\n{shown}')
  results = turns.in_turn(pieces(), 10 * options.calls, options.rounds)
  rows = [[name, f'{1e6 * turns.middle(results, name) / LOOP:.1f}'] for name in results]
  print(f'\n### Pieces of 32 × 128 features\n\n{turns.markdown(["", "CPU µs"], rows)}')
  print(f'\nMedians (least to most) of {options.rounds} rounds, one thread; {machine.line()}.')


if __name__ == '__main__':
  main()

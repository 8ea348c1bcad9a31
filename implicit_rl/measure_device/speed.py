"""Speeds of the device: updates, environment steps, products, decompositions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_rl import rank
from implicit_rl.measure_device import workloads
from implicit_rl.measure_device.report import Case, timed
from implicit_rl.remedies import beer, c_chain, dr3, l2_init, parseval, pfo, redo, weight_clipping
from implicit_rl.running.compiled_online_loop import LoopReport
from implicit_rl.running.vmapped_loops import VmappedLoops

PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')
REMEDIES = {
  'ReDo': redo.ReDo,
  'L2 init': l2_init.L2Init,
  'DR3': dr3.DR3,
  'BEER': beer.BEER,
  'Parseval': parseval.Parseval,
  'PFO': pfo.PFO,
  'C-CHAIN': c_chain.CChain,
  'weight clipping': weight_clipping.WeightClipping,
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """The size of the measurements.

  Attributes:
    networks: keys of `workloads.SIZES`.
    updates: K, number of updates in a call.
    seeds: number of seeds in one program.
    batch: B.
    seconds: how long a case is repeated after compilation.
    product: side of the square matrices whose product is timed.
    matrix: rows and features of the matrix whose srank is timed.
    checked: rows and features of the matrices whose srank is checked.
    environments: E of the compiled online loops.
    steps: environment steps of a call.
    store: rows of the device store.
    torch_compile: whether PyTorch's compiled update is timed too, which takes half a minute.
    atari_rows: the most states of all seeds, seeds × batch, for Atari's network; None is any.
  """

  networks: tuple[str, ...] = ('Atari', 'MinAtar')
  updates: tuple[int, ...] = (64, 1, 8, 256)  # The first is the base of the other tables.
  seeds: tuple[int, ...] = (1, 4, 16, 64)
  batch: tuple[int, ...] = (32, 256)
  seconds: float = 0.3
  product: int = 8192
  matrix: tuple[int, int] = (2048, 512)
  checked: tuple[int, int] = (2048, 512)
  environments: int = 128
  steps: int = 16_384
  store: int = 20_000
  torch_compile: bool = True
  atari_rows: int | None = None

  @property
  def base(self) -> dict[str, int]:
    """Returns the case that the other tables vary."""
    return {'updates': self.updates[0], 'seeds': self.seeds[0], 'batch': self.batch[0]}

  def fits(self, network: str, seeds: int, batch: int) -> bool:
    """Whether an update is small enough to be timed here."""
    return network != 'Atari' or self.atari_rows is None or seeds * batch <= self.atari_rows


def updates(
  network: str, scale: Scale, data: str = 'device', *, precision: str | None = None, **settings: Any
) -> dict[str, Any]:
  """Times calls of K updates.

  Args:
    network: a key of `workloads.SIZES`.
    scale: see `Scale`.
    data: 'device', batches in its memory; 'host', batches in the host's; 'store', rows of a store.
    precision: of products; None is JAX's default.
    **settings: `updates`, `seeds` and `batch`, by default the scale's; others are the learner's.
  """
  size, case = workloads.SIZES[network], {**scale.base}
  for name in case:
    case[name] = settings.pop(name, case[name])
  lead = (case['updates'], *([case['seeds']] if case['seeds'] > 1 else []), case['batch'])
  learner = workloads.learner(network, case['batch'], **settings)
  held = [workloads.states(network, learner, case['seeds'])]
  learner = learner if case['seeds'] == 1 else learner.over_seeds(case['seeds'])
  if data == 'store':
    store, cut = workloads.store(size, scale.store), workloads.fetch(size)
    rows = workloads.complete_rows(size, scale.store, *lead)
    call = lambda state: learner.update_from(cut, state, store, jnp.asarray(rows))
  else:
    some: Any = workloads.batches(size, *lead)
    some = some if data == 'host' else jax.device_put(some)
    call = lambda state: learner.update_many(state, some)

  def run() -> Any:
    held[0], info = call(held[0])
    return held, info

  with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
    taken = timed(run, scale.seconds)
  count = case['updates'] * case['seeds']
  return {
    'K': case['updates'],
    'seeds': case['seeds'],
    'batch': case['batch'],
    'updates/s': count / taken['seconds'],
    'µs an update of all seeds': 1e6 * taken['seconds'] / case['updates'],
    'GFLOP/s': 1e-9 * count * workloads.operations(network, case['batch']) / taken['seconds'],
    'compile_s': taken['compile_s'],
    **memory(),
  }


def memory() -> dict[str, float]:
  """Returns the process's peak device memory in MiB; nothing if it is unknown."""
  found = jax.devices()[0].memory_stats() or {}
  return {'peak MiB': found['peak_bytes_in_use'] / 2**20} if 'peak_bytes_in_use' in found else {}


def throughput(scale: Scale) -> Iterator[Case]:
  """Yields updates per second by network, K, seeds and batch: single changes, then combinations."""
  axes: dict[str, tuple[int, ...]] = {
    'updates': scale.updates,
    'seeds': scale.seeds,
    'batch': scale.batch,
  }
  wanted = [scale.base]
  wanted += [{**scale.base, name: value} for name, values in axes.items() for value in values[1:]]
  wanted += [
    {'updates': k, 'seeds': n, 'batch': b}
    for n in scale.seeds
    for b in scale.batch
    for k in scale.updates
  ]
  for case in {tuple(one.items()): one for one in wanted}.values():
    settings: dict[str, Any] = dict(case)
    for network in scale.networks:
      if not scale.fits(network, case['seeds'], case['batch']):
        continue
      name = ', '.join(f'{key} {value}' for key, value in case.items())
      yield f'{network}, {name}', functools.partial(updates, network, scale, **settings)


def variants(scale: Scale) -> Iterator[Case]:
  """Yields the base case with each penalty solver and each remedy, and with several seeds."""
  some = scale.seeds[min(2, len(scale.seeds) - 1)]
  for network in scale.networks:
    for seeds in dict.fromkeys((1, some)):
      if not scale.fits(network, seeds, scale.base['batch']):
        continue
      for name, settings in workloads.penalties().items():
        case = functools.partial(updates, network, scale, seeds=seeds, **settings)
        yield f'{network}, {name}', case
  for network in scale.networks:
    for name, make in REMEDIES.items():
      yield f'{network}, {name}', functools.partial(_remedy, network, scale, name, make)


def _remedy(network: str, scale: Scale, name: str, make: Any) -> dict[str, Any]:
  return updates(network, scale, remedies={name: make()})


def precisions(scale: Scale) -> Iterator[Case]:
  """Yields the base case with products of each precision."""
  for network in scale.networks:
    for precision in PRECISIONS:
      case = functools.partial(updates, network, scale, precision=precision)
      yield f'{network}, {precision}', case


def data_paths(scale: Scale) -> Iterator[Case]:
  """Yields the base case with batches on the device, from a store there, or on the host."""
  for network in scale.networks:
    for data in ('device', 'store', 'host'):
      yield f'{network}, {data}', functools.partial(updates, network, scale, data)


def products(scale: Scale) -> Iterator[Case]:
  """Yields square products by precision, to which the shares of the chip's rate refer."""

  def product(precision: str) -> dict[str, float]:
    a = jax.random.normal(jax.random.PRNGKey(0), (scale.product, scale.product))
    taken = timed(
      functools.partial(jax.jit(functools.partial(jnp.matmul, precision=precision)), a, a),
      scale.seconds,
    )
    return {'side': scale.product, 'GFLOP/s': 2e-9 * scale.product**3 / taken['seconds']}

  for precision in PRECISIONS:
    yield precision, functools.partial(product, precision)


def decompositions(scale: Scale) -> Iterator[Case]:
  """Yields milliseconds of the penalty's gradient by solver, and of all ranks of an iteration."""
  rng = np.random.default_rng(0)
  small = jnp.asarray(np.maximum(rng.normal(size=(32, scale.matrix[1])), 0), jnp.float32)
  large = jnp.asarray(np.maximum(rng.normal(size=scale.matrix), 0), jnp.float32)

  def case(function: Any, x: jax.Array) -> dict[str, float]:
    taken = timed(functools.partial(jax.jit(function), x), scale.seconds)
    return {'ms': 1e3 * taken['seconds'], 'compile_s': taken['compile_s']}

  for name in rank.SOLVERS:
    gradient = jax.grad(functools.partial(rank.lp_penalty, solver=name))
    yield f'penalty gradient by {name}', functools.partial(case, gradient, small)
    side = jax.vmap(gradient)
    many = jnp.broadcast_to(small[None], (16, *small.shape))
    yield f'16 penalty gradients by {name}', functools.partial(case, side, many)
  yield f'srank of {scale.matrix}', functools.partial(case, rank.srank, large)
  yield f'all ranks of {scale.matrix}', functools.partial(case, rank.rank_metrics, large)


def online(scale: Scale) -> Iterator[Case]:
  """Yields environment steps per second of compiled loops in MinAtar's Breakout, also vmapped."""

  def case(seeds: int, rate: float) -> dict[str, float]:
    loops = [
      workloads.online_loop('Breakout', scale.environments, rate, seed) for seed in range(seeds)
    ]
    together = VmappedLoops(loops)

    def run() -> Any:
      if seeds == 1:
        loops[0].run(scale.steps)
      else:
        together.run(scale.steps, lambda done: None, [LoopReport() for _ in loops])
      return [loop.state for loop in loops]

    taken = timed(run, scale.seconds)
    return {
      'seeds': seeds,
      'environments': scale.environments,
      'updates a step': rate,
      'steps/s': seeds * scale.steps / taken['seconds'],
      'updates/s': seeds * rate * scale.steps / taken['seconds'],
      'compile_s': taken['compile_s'],
      **memory(),
    }

  for seeds in scale.seeds:
    for rate in (0.25, 1.0):
      yield f'{seeds} seeds, n = {rate}', functools.partial(case, seeds, rate)

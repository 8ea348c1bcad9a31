"""Times five seeds one after the other, as one vmapped program, and as processes side by side.

    python benchmarks/seeds.py

Updates of DQN at three sizes, the networks of Atari, MinAtar and the gridworld, with batches that
are there already; and compiled online loops of MinAtar's Breakout, gymnax's CartPole and the
gridworld, eight games side by side, one update for each environment step. One after the other and
vmapped use all cores.
The processes have a thread each: one for each seed, all at once, or one for each core, which does
its share in turn. The ways take turns; the table has the median over the rounds. It is what
`seeds_as = 'auto'` follows. The last of the ways is none but a limit: a process a core, were five
seeds shared evenly by the cores. Then follow the wall time of one update of one seed, vmapped and
as processes, with the median and the range over the rounds of their ratio; and the processor's time
of one update of one seed.

    python benchmarks/seeds.py --brief --sizes 'online minatar' 'online gymnax'

leaves the process a core and its limit out: about four minutes on two free cores.

    python benchmarks/seeds.py --processor_time

measures that time alone, of one seed and of five vmapped on one thread. Processes with a thread
each take as much as one seed alone.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import machine
import numpy as np

from implicit_rl.cpu import cores

# Name: state shape without the batch, its dtype, batch size, actions, updates of a seed in a round.
SIZES: dict[str, tuple[tuple[int, ...], type, int, int, int]] = {
  'atari': ((4, 84, 84), np.uint8, 32, 6, 16),
  'minatar': ((1, 10, 10, 4), np.bool_, 32, 6, 512),
  'gridworld': ((1, 64), np.float32, 128, 5, 2048),
}
# Compiled online loops. Name: gin file, updates of a seed in a round.
LOOPS: dict[str, tuple[str, int]] = {
  'online minatar': ('gin_configs/minatar/online_dqn.gin', 512),
  'online gymnax': ('gin_configs/gymnax/online_dqn.gin', 1024),
  'online gridworld': ('gin_configs/gridworld/online_dqn.gin', 1024),
}
SEEDS = 5
HISTORY = 200  # environment steps before the first update
A_CORE, EVEN = 'a process a core', 'even shares'
COMPARED = ('vmapped', 'processes')


def _prepare(size: str, seeds: int, updates: int) -> Callable[[], None]:
  """Compiles the updates of `seeds` seeds side by side, or of one; returns what does them."""
  return (_prepare_loops if size in LOOPS else _prepare_updates)(size, seeds, updates)


def _prepare_loops(size: str, seeds: int, updates: int) -> Callable[[], None]:
  """Compiled online loops, past their first environment steps."""
  from implicit_rl.running import experiment, vmapped_loops
  from implicit_rl.running.compiled_online_loop import LoopReport

  gin_file, _ = LOOPS[size]
  bindings = [
    'OnlineRunner.updates_per_step = 1',
    'OnlineRunner.log_replay = False',
    f'Agent.min_replay_history = {HISTORY}',
  ]
  experiment.parse_gin([gin_file], bindings)
  loops = [
    experiment.create_runner(tempfile.mkdtemp(prefix='implicit_rl_bench_'), seed)._compiled_loop
    for seed in range(seeds)
  ]
  together = vmapped_loops.VmappedLoops(loops)

  def play(steps: int) -> None:
    if seeds == 1:
      loops[0].run(steps)
    else:
      together.run(steps, lambda done: None, [LoopReport() for _ in loops])

  play(HISTORY)
  play(updates)  # Compiles.
  return lambda: play(updates)


def _prepare_updates(size: str, seeds: int, updates: int) -> Callable[[], None]:
  """Updates on batches that are there already."""
  import jax
  import jax.numpy as jnp

  from implicit_rl import losses, networks, types
  from implicit_rl.learner import Learner

  shape, dtype, batch_size, actions, _ = SIZES[size]
  network: Any = {
    'atari': networks.NatureCNN,
    'minatar': networks.MinAtarCNN,
    'gridworld': functools.partial(networks.MLP, hidden_units=(64, 64)),
  }[size](num_actions=actions)
  rng = np.random.default_rng(0)
  lead = (updates, batch_size) if seeds == 1 else (updates, seeds, batch_size)

  def frames() -> np.ndarray:
    return rng.integers(0, 2 if dtype == np.bool_ else 256, (*lead, *shape)).astype(dtype)

  batches = types.Batch(
    state=frames(),
    action=rng.integers(0, actions, lead).astype(np.int32),
    reward=rng.normal(size=lead).astype(np.float32),
    next_state=frames(),
    next_action=np.zeros(lead, np.int32),
    discount=np.ones(lead, np.float32),
    weight=np.ones(lead, np.float32),
  )
  learner = Learner(functools.partial(losses.dqn_loss, apply=network.apply, discount=0.99))
  keys = jax.random.split(jax.random.PRNGKey(0), seeds)

  def state(key: jax.Array) -> types.LearnerState:
    return learner.init(network.init(key, np.zeros((1, *shape), dtype)), key)

  if seeds == 1:
    states = state(keys[0])
  else:
    states = jax.tree.map(lambda *x: jnp.stack(x), *map(state, keys))
    learner = learner.over_seeds(seeds)
  held = [states]

  def run() -> None:
    held[0], _ = learner.update_many(held[0], batches)
    jax.block_until_ready(held[0])

  run()  # Compiles.
  return run


def _serve(pipe: Any, size: str, seeds: int, updates: int) -> None:
  """In a process of its own: prepares, then runs and answers each time that it is asked."""
  from implicit_rl.running import launch

  launch.start_jax()
  run = _prepare(size, seeds, updates)
  pipe.send('ready')
  while times := pipe.recv():
    before = time.process_time()
    for _ in range(times):
      run()
    pipe.send(time.process_time() - before)


class Workers:
  """Processes that do the same work at once.

  Args:
    count: of processes.
    one_thread: whether each computes on one.
    *work: what `_serve` takes.
  """

  def __init__(self, count: int, one_thread: bool, *work: Any):
    from implicit_rl.running import launch

    context = multiprocessing.get_context('spawn')
    before = dict(os.environ)
    os.environ.update(launch.environment(one_thread=one_thread))
    self._pipes = []
    for _ in range(count):
      here, there = context.Pipe()
      context.Process(target=_serve, args=(there, *work), daemon=True).start()
      self._pipes.append(here)
    os.environ.clear()
    os.environ.update(before)
    for pipe in self._pipes:
      pipe.recv()

  def seconds(self, times: Sequence[int]) -> tuple[float, float]:
    """Wall time until each has done it as often as `times` says, and the processor's, of all."""
    began = time.monotonic()
    for pipe, own in zip(self._pipes, times, strict=True):
      pipe.send(own)
    used = sum(pipe.recv() for pipe in self._pipes)
    return time.monotonic() - began, used

  def stop(self) -> None:
    """Ends them."""
    for pipe in self._pipes:
      pipe.send(0)


def measure(
  size: str, rounds: int, updates: int, brief: bool
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
  """Seconds of all seeds' updates, by way and round, with `EVEN`; then the processor's."""
  used = min(cores.count(), SEEDS)
  queues = [len(range(core, SEEDS, used)) for core in range(used)]  # seeds that each core does
  ways = {
    'sequential': (Workers(1, False, size, 1, updates), [SEEDS]),
    'vmapped': (Workers(1, False, size, SEEDS, updates), [1]),
    'processes': (Workers(SEEDS, True, size, 1, updates), [1] * SEEDS),
    **({} if brief else {A_CORE: (Workers(used, True, size, 1, updates), queues)}),
  }
  walls: dict[str, list[float]] = {name: [] for name in (*ways, *([] if brief else [EVEN]))}
  cpus: dict[str, list[float]] = {name: [] for name in ways}
  for _ in range(rounds):
    for name, (workers, times) in ways.items():
      wall, cpu = workers.seconds(times)
      walls[name].append(wall)
      cpus[name].append(cpu)
    if not brief:
      walls[EVEN].append(ways[A_CORE][0].seconds([SEEDS] * used)[0] / used)
  for workers, _ in ways.values():
    workers.stop()
  return walls, cpus


def processor_time(size: str, rounds: int, updates: int) -> tuple[float, float, float]:
  """Measures one seed and all vmapped in this process, on one thread, in turns.

  Returns:
    CPU milliseconds of an update of one seed, alone and vmapped, and the median of their ratio.
  """
  works = {count: _prepare(size, count, updates) for count in (1, SEEDS)}
  used: dict[int, list[float]] = {count: [] for count in works}
  for _ in range(rounds):
    for count, work in works.items():
      before = time.process_time()
      work()
      used[count].append((time.process_time() - before) / (count * updates))
  alone, together = (1000 * statistics.median(used[count]) for count in works)
  ratio = statistics.median(a / b for a, b in zip(used[1], used[SEEDS], strict=True))
  return alone, together, ratio


def print_processor_time(sizes: Sequence[str], rounds: int, updates: int | None) -> None:
  """Prints the table of `processor_time`."""
  from implicit_rl.running import launch

  os.environ.update(launch.environment(one_thread=True))
  launch.start_jax()
  print(f'| network | CPU ms an update of one seed: alone | {SEEDS} vmapped | alone / vmapped |')
  print('|---|---|---|---|')
  for size in sizes:
    count = updates or {**SIZES, **LOOPS}[size][-1]
    alone, together, ratio = processor_time(size, rounds, count)
    print(f'| {size} | {alone:.3g} | {together:.3g} | {ratio:.2f} |', flush=True)
  print(f'\n{rounds} rounds, one thread; {machine.line()}.')


def _of_an_update(seconds: Sequence[float], updates: int) -> str:
  """Milliseconds of one update of one seed: the median over the rounds."""
  return f'{1000 * statistics.median(seconds) / (SEEDS * updates):.3g}'


def main() -> None:
  """Measures and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=7)
  sizes = [*SIZES, *LOOPS]
  parser.add_argument('--sizes', nargs='*', default=sizes, choices=sizes)
  parser.add_argument('--brief', action='store_true', help='leave the process a core out')
  parser.add_argument('--updates', type=int, help='of each seed in a round; by default by size')
  parser.add_argument(
    '--processor_time',
    action='store_true',
    help='only the time of the processor, on one thread: for a machine with other work',
  )
  options = parser.parse_args()
  if options.processor_time:
    print_processor_time(options.sizes, options.rounds, options.updates)
    return
  names = [
    'network',
    'sequential, updates/s',
    *COMPARED,
    *([] if options.brief else [A_CORE, EVEN]),
  ]
  names += ['wall ms an update of one seed: vmapped', 'processes', 'vmapped / processes (range)']
  names += ['CPU ms an update: sequential', *COMPARED]
  print(f'| {" | ".join(names)} |\n' + '|---' * len(names) + '|')
  for size in options.sizes:
    updates = options.updates or {**SIZES, **LOOPS}[size][-1]
    found, used = measure(size, options.rounds, updates, options.brief)
    speed = SEEDS * updates / statistics.median(found['sequential'])
    ratios = [
      statistics.median(
        base / own for base, own in zip(found['sequential'], found[way], strict=True)
      )
      for way in list(found)[1:]
    ]
    cells = [f'{ratio:.2f}×' for ratio in ratios]
    cells += [_of_an_update(found[way], updates) for way in COMPARED]
    costs = [a / b for a, b in zip(*(found[way] for way in COMPARED), strict=True)]
    cells.append(f'{statistics.median(costs):.2f} ({min(costs):.2f} to {max(costs):.2f})')
    cells += [_of_an_update(used[way], updates) for way in ('sequential', *COMPARED)]
    print(f'| {size} | {speed:.1f} | {" | ".join(cells)} |', flush=True)
  print(f'\n{SEEDS} seeds, {options.rounds} rounds; {machine.line()}.')


if __name__ == '__main__':
  main()

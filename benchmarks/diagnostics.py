"""Times what the diagnostics add to an iteration of 62,500 updates, the paper's, on one core.

    python benchmarks/diagnostics.py

Of each gin file: an update, what every iteration measures on 2,048 fixed transitions, and each
diagnostic of gin_configs/diagnostics/all.gin, compiled before. A share is CPU time of a
measurement, divided by the diagnostic's period and by the time of an iteration's updates. The
memory is what XLA says that the compiled program needs at once, besides its arguments. The last
lines compare with the bounds: a hundredth for what runs take by default, a tenth for all.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import machine
import penalty
import turns

UPDATES = 62_500  # gradient updates in an iteration (Appendix B.1)
STATES = 2048
MOST = {'by default': 0.01, 'all.gin': 0.1}
FIRST = 'ranks, TD error, Q'
LONG = 5.0  # seconds, beside which the first call's own costs are nothing


@dataclasses.dataclass
class Taken:
  """What one measurement takes.

  Attributes:
    period: iterations between two.
    default: whether every run takes it.
    seconds: CPU time.
    mebibytes: of memory; NaN for what computes on the host.
  """

  period: int
  default: bool
  seconds: float
  mebibytes: float


def cpu_seconds(work: Callable[[], Any], rounds: int) -> float:
  """The median CPU time of a call after the first; of what takes long, the first call's."""
  import jax

  found: list[float] = []
  while len(found) <= rounds and not (found and found[0] > LONG):
    began = time.process_time()
    jax.block_until_ready(work())
    found.append(time.process_time() - began)
  return statistics.median(found[1:] or found)


def transitions(size: str) -> Any:
  """Random transitions in place of the run's fixed ones; every return is known."""
  import jax
  import numpy as np

  _, batches = penalty.agent_and_batches(size, 1, STATES, mix_ins=())
  batch = jax.tree.map(lambda x: np.asarray(x[0]), batches)
  return batch._replace(return_to_go=np.asarray(batch.reward))


def of_an_update(agent: Any, batches: Any, together: int, rounds: int) -> float:
  """CPU seconds of an update, as runs do it."""
  held = [agent.state]

  def work() -> Any:
    held[0], info = agent.learner.update_many(held[0], batches)
    return held[0], info

  return cpu_seconds(work, rounds) / together


def measured(agent: Any, batch: Any, rounds: int, *, dear: bool = True) -> dict[str, Taken]:
  """What the agent's measurement and every diagnostic take; without the dear ones unless asked."""
  import functools

  import jax

  from implicit_rl.diagnosis.measuring import every_diagnostic
  from implicit_rl.diagnostics import measurements

  state, context = agent.state, agent.learner.context

  def take(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    compiled = jax.jit(function).lower(*arguments).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return cpu_seconds(lambda: compiled(*arguments), rounds), memory

  basic = take(agent._measure, state.params, state.target_params, batch, state.key)
  found = {FIRST: Taken(1, True, *basic)}
  for name, diagnostic in every_diagnostic().items():
    if not (dear or name in measurements.DEFAULTS):
      continue
    nothing = measurements.nothing_yet(diagnostic, context, state, batch, state.key)
    function = functools.partial(measurements.measure_and_remember, diagnostic, context)
    arguments = (context.initial, state._replace(extra=nothing), batch, state.key)
    if diagnostic.compiled:
      taken = take(function, *arguments)
    else:
      work = functools.partial(function, *arguments)
      taken = cpu_seconds(lambda work=work: work()[0]['weight_norm'], rounds), float('nan')
    found[name] = Taken(diagnostic.period, name in measurements.DEFAULTS, *taken)
    print(f'{name}: {taken[0]:.3f} s', file=sys.stderr, flush=True)
  return found


def table(update: float, found: dict[str, Taken]) -> str:
  """The Markdown table, and how the sums compare with the bounds."""
  iteration = UPDATES * update
  rows: list[Sequence[str]] = [
    [
      f'`{name}`' if name != FIRST else name,
      'yes' if one.default else '',
      f'{one.period}',
      f'{one.seconds:.3f}',
      f'{one.seconds / one.period / iteration:.2%}',
      '' if one.mebibytes != one.mebibytes else f'{one.mebibytes:,.0f}',
    ]
    for name, one in found.items()
  ]
  header = ['', 'by default', 'period', 'CPU s', 'share of an iteration', 'MiB']
  lines = [turns.markdown(header, rows), '', f'An update takes {1e3 * update:.3g} ms.']
  shares = {
    'by default': sum(o.seconds / o.period for o in found.values() if o.default) / iteration,
    'all.gin': sum(o.seconds / o.period for o in found.values()) / iteration,
  }
  for name, share in shares.items():
    if name == 'all.gin' and all(one.default for one in found.values()):
      continue
    verdict = 'within' if share <= MOST[name] else 'ABOVE'
    lines.append(f'Together {name}: {share:.2%}, {verdict} the bound of {MOST[name]:.0%}.')
  return '\n'.join(lines)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--sizes', nargs='*', default=list(penalty.GIN), choices=list(penalty.GIN))
  parser.add_argument('--cheap', action='store_true', help='only those that runs take by default')
  options = parser.parse_args()
  os.environ.update(turns.threads(1))
  turns.as_runs_do()
  turns.pin(1)
  for size in options.sizes:
    together = 4 if size == 'Atari' else 64
    agent, batches = penalty.agent_and_batches(size, together, mix_ins=())
    before = of_an_update(agent, batches, together, 5 * options.rounds)
    agent, _ = penalty.agent_and_batches(size, 1, mix_ins=())  # The last one's state is gone.
    found = measured(agent, transitions(size), options.rounds, dear=not options.cheap)
    print(f'### {size}\n\n{table(before, found)}\n', flush=True)
  print(f'Medians of {options.rounds} rounds, one thread; {machine.line()}.')


if __name__ == '__main__':
  main()

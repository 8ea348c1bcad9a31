"""Where an update's time goes: XLA's operations by the time that they take, on one core.

    python benchmarks/update_profile.py
    python benchmarks/update_profile.py --agent='full Rainbow' --padding=VALID
    python benchmarks/update_profile.py --agent='MinAtar DQN'

Updates run under JAX's profiler, and each operation of its trace is looked up in the compiled
program. An operation without a name in the source is one that XLA made of several: the gradient of
a convolution's kernel is told by its shape. Atari's updates are calls, MinAtar's run in a loop, as
the learner does them; the penalty is on.
"""

from __future__ import annotations

import argparse
import collections
import glob
import gzip
import json
import os
import re
import statistics
import tempfile
from collections.abc import Mapping

import learners
import machine
import penalty
import turns

UPDATES = 16  # of Atari under the profiler
LOOP = 64  # of MinAtar in a call
AGENTS = {
  'DQN': ('offline_dqn.gin', ()),
  'CQL': ('offline_cql.gin', ()),
  'full Rainbow': ('offline_rainbow.gin', learners.FULL),
}
MINATAR = 'MinAtar DQN'
_LINE = re.compile(r'^\s+(?:ROOT )?%(\S+) = (\w+\[[\d,]*\])')
_SOURCE = re.compile(r'op_name="jit\(update\)/(?:while/body/closed_call/)?([^"]*)"')


def named(program: str) -> dict[str, tuple[str, str]]:
  """Of each operation of a compiled program: what it gives, and where in the source it is from."""
  found = {}
  for line in program.splitlines():
    if match := _LINE.match(line):
      source = _SOURCE.search(line)
      found[match[1]] = (match[2], source[1] if source else '')
  return found


def traced(folder: str) -> dict[str, float]:
  """Milliseconds of each operation in JAX's trace, by name."""
  (path,) = glob.glob(f'{folder}/plugins/profile/*/*.trace.json.gz')
  taken: collections.Counter[str] = collections.Counter()
  with gzip.open(path) as file:
    for event in json.load(file)['traceEvents']:
      if event.get('ph') == 'X' and event.get('args', {}).get('hlo_module') == 'jit_update':
        taken[event['name']] += event['dur'] / 1000
  return dict(taken)


def table(taken: Mapping[str, float], named: Mapping[str, tuple[str, str]], rows: int) -> str:
  """Markdown: the `rows` operations that take longest, and the rest."""
  total = sum(taken.values())
  digits = 2 if total > 5 else 4
  lines = ['| ms | share | gives | from |', '| --- | --- | --- | --- |']
  longest = sorted(taken, key=taken.get, reverse=True)
  for name in longest[:rows]:
    gives, source = named.get(name, ('', ''))
    took = f'{taken[name]:.{digits}f} | {taken[name] / total:.0%}'
    lines.append(f'| {took} | {gives} | {source or name} |')
  rest = sum(taken[name] for name in longest[rows:])
  lines.append(f'| {rest:.{digits}f} | {rest / total:.0%} | | {len(longest[rows:])} others |')
  return '\n'.join(lines)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--agent', default='DQN', choices=[*AGENTS, MINATAR])
  parser.add_argument('--padding', default='SAME', choices=['SAME', 'VALID'])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--rows', type=int, default=20)
  options = parser.parse_args()
  os.environ |= turns.threads(1)  # Before JAX is imported.
  turns.as_runs_do()
  turns.pin(1)
  import jax

  if options.agent == MINATAR:
    agent, batch = penalty.agent_and_batches('MinAtar', LOOP)
    calls, updates = 4 * UPDATES, LOOP

    def update(state, batch):
      return jax.lax.scan(agent.learner.pure_update, state, batch)

  else:
    agent, batches = learners.our_agent(*AGENTS[options.agent], True, options.padding, 32)
    batch, update = jax.tree.map(lambda x: x[0], batches), agent.learner.pure_update
    calls, updates = UPDATES, 1
  state = agent.state
  compiled = jax.jit(update, donate_argnums=0).lower(state, batch).compile()
  rounds: list[dict[str, float]] = []
  for _ in range(options.rounds + 1):  # The first warms up.
    with tempfile.TemporaryDirectory() as folder:
      with jax.profiler.trace(folder):
        for _ in range(calls):
          state, _ = compiled(state, batch)
        jax.block_until_ready(state)
      rounds.append(traced(folder))
  middle = {
    name: statistics.median(one.get(name, 0) for one in rounds[1:]) / (calls * updates)
    for name in rounds[-1]
  }
  padding = f', {options.padding} padding' if options.agent in AGENTS else ''
  print(f'### {options.agent}{padding}: {sum(middle.values()):.3g} ms\n')
  print(table(middle, named(compiled.as_text()), options.rows))
  print(f'\nMedians of {options.rounds} rounds of {calls * updates}, one thread; {machine.line()}.')


if __name__ == '__main__':
  main()

"""Where an Atari update's time goes: XLA's operations by the time that they take, on one core.

    python benchmarks/update_profile.py
    python benchmarks/update_profile.py --agent='full Rainbow' --padding=VALID

Updates run under JAX's profiler, and each operation of its trace is looked up in the compiled
program. An operation without a name in the source is one that XLA made of several: the gradient of
a convolution's kernel is told by its shape.
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
import turns

UPDATES = 16  # under the profiler
AGENTS = {
  'DQN': ('offline_dqn.gin', ()),
  'CQL': ('offline_cql.gin', ()),
  'full Rainbow': ('offline_rainbow.gin', learners.FULL),
}
_LINE = re.compile(r'^\s+(?:ROOT )?%(\S+) = (\w+\[[\d,]*\])')
_SOURCE = re.compile(r'op_name="jit\(update\)/([^"]*)"')


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
  lines = ['| ms | share | gives | from |', '| --- | --- | --- | --- |']
  longest = sorted(taken, key=taken.get, reverse=True)
  for name in longest[:rows]:
    gives, source = named.get(name, ('', ''))
    lines.append(f'| {taken[name]:.2f} | {taken[name] / total:.0%} | {gives} | {source or name} |')
  rest = sum(taken[name] for name in longest[rows:])
  lines.append(f'| {rest:.2f} | {rest / total:.0%} | | {len(longest[rows:])} others |')
  return '\n'.join(lines)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--agent', default='DQN', choices=AGENTS)
  parser.add_argument('--padding', default='SAME', choices=['SAME', 'VALID'])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--rows', type=int, default=20)
  options = parser.parse_args()
  os.environ |= turns.threads(1)  # Before JAX is imported.
  turns.as_runs_do()
  turns.pin(1)
  import jax

  agent, batches = learners.our_agent(*AGENTS[options.agent], True, options.padding, 32)
  state, batch = agent.state, jax.tree.map(lambda x: x[0], batches)
  update = jax.jit(agent.learner.pure_update, donate_argnums=0).lower(state, batch).compile()
  rounds: list[dict[str, float]] = []
  for _ in range(options.rounds + 1):  # The first warms up.
    with tempfile.TemporaryDirectory() as folder:
      with jax.profiler.trace(folder):
        for _ in range(UPDATES):
          state, _ = update(state, batch)
        jax.block_until_ready(state)
      rounds.append(traced(folder))
  middle = {
    name: statistics.median(one.get(name, 0) for one in rounds[1:]) / UPDATES for name in rounds[-1]
  }
  print(f'### {options.agent}, {options.padding} padding: {sum(middle.values()):.1f} ms\n')
  print(table(middle, named(update.as_text()), options.rows))
  print(f'\nMedians of {options.rounds} rounds of {UPDATES}, one thread; {machine.line()}.')


if __name__ == '__main__':
  main()

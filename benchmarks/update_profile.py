"""Where an update's time goes: XLA's operations by the time that they take, on one core.

    python benchmarks/update_profile.py
    python benchmarks/update_profile.py --agent='full Rainbow' --padding=VALID
    python benchmarks/update_profile.py --agent='Dopamine, full Rainbow'
    python benchmarks/update_profile.py --agent='MinAtar DQN'

Updates run under JAX's profiler, and each operation of its trace is looked up in the compiled
program. An operation without a name in the source is one that XLA made of several: the gradient of
a convolution's kernel is told by its shape. Atari's updates are calls, MinAtar's run in a loop, as
the learner does them; the penalty is on. Dopamine's program is that of its `train`. The second
table sums the operations by what they do.
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
from collections.abc import Callable, Mapping

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
PROGRAMS = ('jit_update', 'jit_train')
_ROUNDING = 0.01  # microseconds, of the trace's times
MINATAR, DOPAMINE = 'MinAtar DQN', 'Dopamine, full Rainbow'
_LINE = re.compile(r'^\s+(?:ROOT )?%(\S+) = (\w+\[[\d,]*\])')
_SOURCE = re.compile(r'op_name="jit\((?:update|train)\)/(?:while/body/closed_call/)?([^"]*)"')
# What an operation does: the first of these that its name, what it gives and its source match.
KINDS = {
  'turning images': r'^transpose_copy\S* ',
  'convolutions': r'^\S* f32\[\d+,\d+,\d+,\d+\] (.*conv_general_dilated)?$',
  'matrix products': r'(dot_general|Noisy\w+/transpose)$',
  'noisy kernels': r'Noisy\w+/(add|mul)$',
  'Adam': r' add$',
  "the gradient's norm": r' (f32\[\] reduce_sum|\S+ reduce_precision)$',
}


def named(program: str) -> dict[str, tuple[str, str]]:
  """Of each operation of a compiled program: what it gives, and where in the source it is from."""
  found = {}
  for line in program.splitlines():
    if match := _LINE.match(line):
      source = _SOURCE.search(line)
      found[match[1]] = (match[2], source[1] if source else '')
  return found


def traced(folder: str) -> dict[str, float]:
  """Milliseconds of each operation in JAX's trace, by name: as often as it ran, the median.

  A loop or a branch takes what its own operations don't. Now and then the profiler fetches memory,
  and the operation under way seems to take milliseconds longer: hence the median.
  """
  (path,) = glob.glob(f'{folder}/plugins/profile/*/*.trace.json.gz')
  with gzip.open(path) as file:
    events = [
      event
      for event in json.load(file)['traceEvents']
      if event.get('ph') == 'X' and event.get('args', {}).get('hlo_module') in PROGRAMS
    ]
  taken: collections.defaultdict[str, list[float]] = collections.defaultdict(list)
  around: list[tuple[dict, list[float]]] = []  # Operations that are under way, and what is in them.
  for event in sorted(events, key=lambda event: (event['tid'], event['ts'], -event['dur'])):
    while around and not _within(event, around[-1][0]):
      _end(around, taken)
    around.append((event, []))
  while around:
    _end(around, taken)
  return {name: statistics.median(each) * len(each) for name, each in taken.items()}


def _within(inner: Mapping, outer: Mapping) -> bool:
  ends = outer['ts'] + outer['dur'] + _ROUNDING
  return inner['tid'] == outer['tid'] and inner['ts'] + inner['dur'] <= ends


def _end(
  around: list[tuple[dict, list[float]]], taken: collections.defaultdict[str, list[float]]
) -> None:
  """Notes what the innermost operation took, less what is in it."""
  event, inner = around.pop()
  taken[event['name']].append((event['dur'] - sum(inner)) / 1000)
  if around:
    around[-1][1].append(event['dur'])


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


def by_kind(taken: Mapping[str, float], named: Mapping[str, tuple[str, str]]) -> str:
  """Markdown: milliseconds by what operations do."""
  sums: collections.Counter[str] = collections.Counter()
  for name, took in taken.items():
    words = ' '.join((name, *named.get(name, ('', ''))))
    kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, words)), 'the rest')
    sums[kind] += took
  rows = ((kind, f'{sums[kind]:.2f}') for kind in (*KINDS, 'the rest'))
  return turns.markdown(('what', 'ms'), rows)


def ours(agent: str, padding: str) -> tuple[str, Callable[[], None], int]:
  """The compiled update, what calls it a few times, and how many updates that is."""
  import jax

  if agent == MINATAR:
    made, batch = penalty.agent_and_batches('MinAtar', LOOP)
    updates = LOOP

    def update(state, batch):
      return jax.lax.scan(made.learner.pure_update, state, batch)

  else:
    made, batches = learners.our_agent(*AGENTS[agent], True, padding, 32)
    batch, updates, update = jax.tree.map(lambda x: x[0], batches), 1, made.learner.pure_update
  state = made.state
  jitted = jax.jit(update, donate_argnums=0)
  compiled = jitted.lower(state, batch).compile()

  def work() -> None:
    nonlocal state
    for _ in range(UPDATES):
      state, _ = compiled(state, batch)
    jax.block_until_ready(state)

  return compiled.as_text(), work, UPDATES * updates


def dopamines() -> tuple[str, Callable[[], None], int]:
  """As `ours`, of Dopamine's full Rainbow."""
  work = learners.dopamine_full_rainbow(32, 'cpu')
  from dopamine.jax.agents.full_rainbow import full_rainbow_agent

  train, given = full_rainbow_agent.train, []

  def seen(*arguments):
    given[:] = arguments
    return train(*arguments)

  full_rainbow_agent.train = seen
  work(1)
  full_rainbow_agent.train = train
  return train.lower(*given).compile().as_text(), lambda: work(UPDATES), UPDATES


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--agent', default='DQN', choices=[*AGENTS, DOPAMINE, MINATAR])
  parser.add_argument('--padding', default='SAME', choices=['SAME', 'VALID'])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--rows', type=int, default=20)
  options = parser.parse_args()
  os.environ |= turns.threads(1)  # Before JAX is imported.
  if options.agent != DOPAMINE:
    turns.as_runs_do()
  turns.pin(1)
  import jax

  made = dopamines() if options.agent == DOPAMINE else ours(options.agent, options.padding)
  program, work, updates = made
  rounds: list[dict[str, float]] = []
  for _ in range(options.rounds + 1):  # The first warms up.
    with tempfile.TemporaryDirectory() as folder:
      with jax.profiler.trace(folder):
        work()
      rounds.append(traced(folder))
  middle = {
    name: statistics.median(one.get(name, 0) for one in rounds[1:]) / updates for name in rounds[-1]
  }
  padding = f', {options.padding} padding' if options.agent in AGENTS else ''
  print(f'### {options.agent}{padding}: {sum(middle.values()):.3g} ms\n')
  print(table(middle, named(program), options.rows))
  if options.agent != MINATAR:
    print(f'\n{by_kind(middle, named(program))}')
  print(f'\nMedians of {options.rounds} rounds of {updates}, one thread; {machine.line()}.')


if __name__ == '__main__':
  main()

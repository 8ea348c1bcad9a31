"""Processes that take turns: each waits for a number, does that much and says what it took.

What the others do to the machine then falls on all of them alike, so that ratios within a round are
worth more than times: `ratios` and `columns` compare so.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import machine

PEERS = pathlib.Path(__file__).parent.parent / '.venv-peers/bin/python'
KERNELS_OFF = 'IMPLICIT_RL_BENCHMARK_WITHOUT_KERNELS'  # a variable that is set, or not
_DISTURBED = 1.3  # wall time by CPU time of one thread above which it had to wait
Results = Mapping[str, Sequence[Mapping[str, float]]]  # of each, what every round took


def threads(count: int, device: str = 'cpu') -> dict[str, str]:
  """Variables that make JAX, PyTorch and BLAS compute on `count` threads of the CPU.

  Args:
    count: 1, or any more: XLA's own threads can only be one or as many as there are cores.
    device: 'cpu', or 'gpu', which leaves JAX to choose.
  """
  variables = {'OMP_NUM_THREADS': str(count), 'MKL_NUM_THREADS': str(count)}
  if device == 'gpu':
    return variables | {'JAX_PLATFORMS': 'cuda', 'CUDA_VISIBLE_DEVICES': '0'}
  if count == 1:
    variables['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
  return variables | {'JAX_PLATFORMS': 'cpu'}


def as_runs_do() -> None:
  """Prepares this process as `run_experiment.py` does; for what is ours, not for peers."""
  from implicit_rl import cpu
  from implicit_rl.cpu import launcher

  launcher.prepare()
  cpu.use_kernels(KERNELS_OFF not in os.environ)


def pin(count: int) -> None:
  """Keeps this process to the last `count` of the cores that it may use."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def interpreter(package: str, pythons: Iterable[str | os.PathLike]) -> str:
  """The first of some interpreters that can import a package.

  Raises:
    SystemExit: if none can.
  """
  code = f'import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)'
  for python in pythons:
    if os.path.exists(python) and not subprocess.run([python, '-c', code]).returncode:
      return str(python)
  there = ', '.join(map(str, pythons))
  raise SystemExit(f'--peers: no {package} in {there}; make it with `make bench-peers`.')


def versions(pythons: Iterable[str], packages: Sequence[str]) -> str:
  """Which of the packages each interpreter has, in words."""
  code = (
    'import importlib.metadata as m, platform; '
    'found = {d.name.lower().replace("_", "-"): d.version for d in m.distributions()}; '
    f'print("Python", platform.python_version(), *(f", {{p}} {{found[p]}}" for p in {packages!r} '
    'if p in found), sep="")'
  )
  said = (subprocess.check_output([p, '-c', code], text=True) for p in dict.fromkeys(pythons))
  return '; peers: '.join(line.strip().replace('Python', 'Python ', 1) for line in said)


class Process:
  """Something measured, in a process of its own.

  Args:
    name: what it is called.
    command: starts a program that calls `serve`.
    environment: variables added to this process's.
    folder: where it works; None is here.
  """

  def __init__(
    self,
    name: str,
    command: list[str],
    environment: Mapping[str, str] = {},
    folder: str | os.PathLike | None = None,
  ):
    here = pathlib.Path(__file__).parent
    common = {'PYTHONPATH': str(here.parent), 'TF_CPP_MIN_LOG_LEVEL': '3'}
    common['CUDA_VISIBLE_DEVICES'] = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    self._errors = tempfile.TemporaryFile('w+')
    pipe = subprocess.PIPE
    self._process = subprocess.Popen(
      command,
      stdin=pipe,
      stdout=pipe,
      stderr=self._errors,
      env={**os.environ, **common, **environment},
      cwd=folder,
      text=True,
    )
    self.name = name
    self.ready = self._answer()

  def run(self, count: int) -> dict[str, float]:
    """Does it `count` times; returns seconds of wall and CPU time for each, and MiB."""
    self._process.stdin.write(f'{count}\n')
    self._process.stdin.flush()
    return self._answer()

  def stop(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()

  def _answer(self) -> dict[str, float]:
    line = self._process.stdout.readline()
    if not line:
      self._errors.seek(0)
      raise SystemExit(f'{self.name} failed:\n{self._errors.read()[-3000:]}')
    return json.loads(line)


def serve(make: Callable[[], tuple[Callable[[int], Any], Any]], warm_up: int) -> None:
  """Makes what is measured, warms it up, then answers until the input ends.

  Args:
    make: returns the function of a count, and what is said of it beforehand (JSON, or None).
    warm_up: the count of the first call, which is not measured.
  """
  out = sys.stdout
  sys.stdout = sys.stderr  # Libraries that print must not disturb the answers.
  began = time.perf_counter()
  work, held = make()
  work(warm_up)
  answer = {'bytes': held, 'first_batch_s': time.perf_counter() - began}
  print(json.dumps(answer), file=out, flush=True)
  for line in sys.stdin:
    print(json.dumps(_measured(work, int(line))), file=out, flush=True)


def take_turns(processes: Sequence[Process], counts: Mapping[str, int], rounds: int) -> Results:
  """Lets every process run in turn, round after round, and stops them.

  Args:
    processes: ready ones.
    counts: how much each does in a round, by name.
    rounds: how often.
  """
  results: dict[str, list[dict[str, float]]] = {process.name: [] for process in processes}
  for turn in range(rounds):
    for process in processes:
      results[process.name].append(process.run(counts[process.name]))
    print(f'round {turn + 1} of {rounds}', file=sys.stderr, flush=True)
  for process in processes:
    process.stop()
  return results


def middle(results: Results, name: str, key: str = 'cpu') -> float:
  """The median over rounds of what one took."""
  return statistics.median(taken[key] for taken in results[name])


def ratios(results: Results, name: str, base: str, key: str = 'cpu') -> str:
  """How much more `name` took than `base` in the same round: median (least to most)."""
  pairs = zip(results[name], results[base], strict=True)
  found = [one[key] / other[key] for one, other in pairs]
  return f'{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})'


def disturbed(results: Results, name: str, cores: int = 1) -> str:
  """In how many rounds others held the cores: wall time well above CPU time by thread."""
  waited = sum(taken['wall'] > _DISTURBED * taken['cpu'] / cores for taken in results[name])
  return f'{waited} of {len(results[name])}'


def in_turn(works: Mapping[str, Callable[[int], Any]], count: int, rounds: int) -> Results:
  """As `take_turns`, of functions of a count in this process, for what needs no process of its own.

  Each is called once before, unmeasured.
  """
  results: dict[str, list[dict[str, float]]] = {name: [] for name in works}
  for turn in range(-1, rounds):
    for name, work in works.items():
      taken = _measured(work, 1 if turn < 0 else count)
      if turn >= 0:
        results[name].append(taken)
  return results


def _measured(work: Callable[[int], Any], count: int) -> dict[str, float]:
  """Seconds of wall and CPU time for each of `count`, and MiB of memory.

  What returns a whole number has done as much, which need not be `count`.
  """
  wall, cpu = time.perf_counter(), time.process_time()
  done = work(count)
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  done = done if isinstance(done, int) else count
  answer = {'wall': wall / done, 'cpu': cpu / done}
  return answer | {'rss': machine.memory('VmRSS'), 'peak': machine.memory('VmHWM')}


def table(
  results: Results,
  against: Mapping[str, str],
  *,
  unit: str = 'update',
  key: str = 'cpu',
  cores: int = 1,
  more: Mapping[str, Mapping[str, str]] = {},
) -> str:
  """The Markdown table of what each took.

  Args:
    results: of each, what the rounds took.
    against: the name that each is compared with; its own, or none, is no comparison.
    unit: what was counted.
    key: what is compared, 'cpu' or 'wall'.
    cores: that each could use.
    more: further columns by header, then by name.
  """
  time_of = {'cpu': 'CPU', 'wall': 'wall'}[key]
  header = ['', f'{time_of} ms a {unit}', 'wall ms', f'{unit}s a {time_of} second']
  header += ['compared with', 'time by its', *more, 'peak MiB', 'rounds disturbed']
  rows = []
  for name in results:
    took, base = middle(results, name, key), against.get(name, name)
    digits = 1 if took > 0.01 else 3
    row = [name, *(f'{1e3 * t:.{digits}f}' for t in (took, middle(results, name, 'wall')))]
    row += [f'{1 / took:,.{0 if took < 0.01 else 1}f}']
    row += ['', ''] if base == name else [base, ratios(results, name, base, key)]
    row += [column.get(name, '') for column in more.values()]
    row += [f'{middle(results, name, "peak"):,.0f}']
    rows.append([*row, disturbed(results, name, cores) if key == 'cpu' else ''])
  return markdown(header, rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """A Markdown table."""
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)

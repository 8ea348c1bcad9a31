"""Command line: `implicit-rl diagnose RUN...` measures trained runs after the fact."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from implicit_rl.analysis import runs, style
from implicit_rl.diagnosis import result
from implicit_rl.diagnosis.result import Diagnosis
from implicit_rl.running import loading

_EPILOG = """
Every kept checkpoint is measured on the transitions that the run measures on, with the diagnostics
of the run and those that --gin_files and --gin_bindings add, such as
--gin_bindings='Diagnostics.mine = @my_file.MyMeasure()'. Nothing is written but --output.
"""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl diagnose',
    description='Measures trained runs, and judges rank, plasticity and values.',
    epilog=_EPILOG,
  )
  parser.add_argument('runs', nargs='+', metavar='RUN', help='a --base_dir, or a parent of several')
  parser.add_argument(
    '--checkpoint', default='all', help='all (default), newest, best or an iteration'
  )
  parser.add_argument('--gin_files', action='append', default=[], help='added to the run’s record')
  parser.add_argument(
    '--gin_bindings', action='append', default=[], help='gin lines added to the record'
  )
  parser.add_argument('--output', metavar='PATH', help='a page (.html), or everything (.json)')
  return parser


def _diagnose(path: str, options: argparse.Namespace) -> dict[str, Diagnosis]:
  """The diagnoses of a run by the names of its checkpoints, oldest first."""
  which = options.checkpoint
  first: loading.Which = 'newest' if which == 'all' else which
  if which.isdecimal():
    first = int(which)
  run = loading.load_run(
    path, first, gin_files=options.gin_files, gin_bindings=options.gin_bindings
  )
  if which != 'all' or not run.iterations:
    return {f'iteration {run.iteration}': run.diagnose()}
  found = {}
  for iteration in run.iterations:
    run.restore(iteration)
    found[f'iteration {iteration}'] = run.diagnose()
  return found


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    outputs = style.files(options.output, ('.html',), ('.html', '.json')) if options.output else []
    found = {}
    for path in [str(one) for source in options.runs for one in runs.find(source)]:
      found[path] = _diagnose(path, options)
      print(f'{path}\n{result.table(found[path])}\n', flush=True)
    for output in outputs:
      print(result.save(found, output, 'Diagnosis of ' + ', '.join(options.runs)))
  except (OSError, ValueError) as error:
    print(f'implicit-rl diagnose: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Command line of the leaderboard: `python -m implicit_rl.leaderboard --spec=FILE`."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

from implicit_rl.leaderboard import spec as leaderboard_spec
from implicit_rl.leaderboard.spec import Cell, Spec
from implicit_rl.running import launch, parallel_runs


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl leaderboard',
    description='Runs every method in every regime. Rerun the same command to resume.',
  )
  parser.add_argument('--spec', default='sweeps/leaderboard.yaml', help='the YAML file')
  parser.add_argument(
    '--output', type=pathlib.Path, default='runs/leaderboard', help='directory of the runs'
  )
  parser.add_argument(
    '--results',
    type=pathlib.Path,
    default='docs/results/leaderboard',
    help='directory of rows.csv, excluded.csv and tuning.csv',
  )
  parser.add_argument(
    '--page', type=pathlib.Path, default='docs/leaderboard.md', help='the page that --draw fills'
  )
  parser.add_argument('--tune', action='store_true', help='start the runs that choose strengths')
  parser.add_argument('--draw', action='store_true', help='draw the existing rows without running')
  parser.add_argument('--collect', action='store_true', help='only add finished runs to the rows')
  parser.add_argument('--list', action='store_true', help='only print the runs')
  parser.add_argument('--print_slurm', action='store_true', help='print a SLURM array for sbatch')
  parser.add_argument('--index', type=int, help='start only this run, as a SLURM array task does')
  parser.add_argument('--processes', type=int, help='parallel runs here; by default one per core')
  parser.add_argument('--address', help='address of a Ray cluster, or auto; default: no Ray')
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    return _do(options)
  except (OSError, ValueError, RuntimeError) as error:
    print(f'leaderboard: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('leaderboard: stopped. Rerun the same command to resume.', file=sys.stderr)
    return 130


def _do(options: argparse.Namespace) -> int:
  spec = leaderboard_spec.read(options.spec)
  if options.processes is not None and options.processes < 1:
    raise ValueError(f'--processes must be at least 1, got {options.processes}.')
  if options.draw:
    from implicit_rl.leaderboard import draw

    for path in draw.everything(spec, options.results, options.page):
      print(path)
    return 0
  cells = _cells(spec, options)
  if options.index is not None and not 0 <= options.index < len(cells):
    raise ValueError(f'--index must lie in [0, {len(cells)}), got {options.index}.')
  if options.list:
    for number, cell in enumerate(cells):
      print(f'{number:4} {_output(options) / cell.planned.name}')
    return 0
  if options.print_slurm:
    print(_slurm(spec, options, len(cells)))
    return 0
  return _run(spec, cells if options.index is None else [cells[options.index]], options)


def _output(options: argparse.Namespace) -> pathlib.Path:
  return options.output.expanduser() / ('tuning' if options.tune else 'runs')


def _cells(spec: Spec, options: argparse.Namespace) -> list[Cell]:
  from implicit_rl.leaderboard import rows, strengths

  if options.tune:
    cells = leaderboard_spec.tuning_cells(spec)
    if not cells:
      raise ValueError(f'{spec.path}: --tune needs `tuning` and a method with a `strength`.')
    return cells
  chosen = strengths.choose(rows.read(options.results / rows.TUNING), spec)
  left = [name for name in spec.methods if leaderboard_spec.open_strengths(spec, name, chosen)]
  if left:
    print(f'Left out until --tune has chosen their strength: {", ".join(left)}.', file=sys.stderr)
  return leaderboard_spec.cells(spec, chosen)


def _slurm(spec: Spec, options: argparse.Namespace, count: int) -> str:
  from implicit_rl.sweep import slurm

  (options.output / 'slurm').mkdir(parents=True, exist_ok=True)  # SLURM does not create it.
  arguments = [f'--spec={spec.path}', f'--output={options.output}', f'--results={options.results}']
  arguments += ['--tune'] * options.tune
  program = ('implicit_rl.leaderboard',)
  return slurm.script(spec.sweep, count, options.output, arguments, program)


def _run(spec: Spec, cells: Sequence[Cell], options: argparse.Namespace) -> int:
  """Does the remaining runs and saves the rows; returns the exit status."""
  from implicit_rl.leaderboard import rows
  from implicit_rl.sweep import jobs

  output = _output(options)
  planned = [cell.planned for cell in cells]
  made, _ = jobs.make(spec.sweep, planned, output)
  todo = {run.name: job for run, job in zip(planned, made, strict=True)}
  by_name = {cell.planned.name: cell for cell in cells}
  all_cells = cells if options.index is None else _cells(spec, options)
  book = rows.Book(options.results, rows.TUNING if options.tune else rows.ROWS, all_cells)
  if not options.tune:
    book.exclude(leaderboard_spec.excluded(spec))
  kept: set[str] = set()

  def keep(states: Mapping[str, str]) -> None:
    for name in states.keys() - kept:
      book.add(spec, by_name[name], todo[name])
      kept.add(name)
      print(f'{states[name]:6} {name}  ({len(kept)} of {len(todo)})', flush=True)

  keep({name: 'done' for name, job in todo.items() if job.finished})
  left = {
    name: job._replace(base_dir=job.base_dir.absolute())
    for name, job in todo.items()
    if name not in kept
  }
  if options.collect or not left:
    return 0
  wrong = _do_all(spec, left, options, keep)
  keep(dict.fromkeys(left, 'failed'))
  for name, what in wrong.items():
    print(f'leaderboard: {output / name}: {what}', file=sys.stderr)
  return int(any(not rows.refusal(todo[name]) for name in wrong))


def _do_all(
  spec: Spec,
  left: Mapping[str, parallel_runs.Job],
  options: argparse.Namespace,
  show: Callable[[Mapping[str, str]], None],
) -> Mapping[str, str]:
  """Does the runs on the chosen machines; returns errors by the name of the run."""
  from implicit_rl.cpu import cores

  cache = pathlib.Path(
    os.environ.get('JAX_COMPILATION_CACHE_DIR') or options.output / 'compiled'
  ).absolute()
  if options.index is not None:
    from implicit_rl.sweep import jobs

    os.environ.update(launch.environment(cache, one_thread=spec.resources.cpus <= 1))
    (name, job) = next(iter(left.items()))
    error = jobs.work(job, os.getcwd(), jobs.new_launch())
    show({name: 'failed' if error else 'done'})
    return {name: error} if error else {}
  if options.address:
    from implicit_rl.sweep import cluster

    return cluster.run_all(
      left,
      resources=spec.resources,
      retries=spec.retries,
      address=options.address,
      compilation_cache=cache,
      show=show,
    )
  from implicit_rl.sweep import local_pool

  return local_pool.run_all(
    left,
    processes=options.processes or cores.count(),
    retries=spec.retries,
    compilation_cache=cache,
    show=show,
  )


if __name__ == '__main__':
  sys.exit(main())

"""Command line of sweeps: `implicit-rl sweep --spec=sweeps/NAME.yaml`."""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence

from implicit_rl.running import launch, parallel_runs
from implicit_rl.sweep import spec as sweep_spec
from implicit_rl.sweep.spec import Planned, Spec


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl sweep', description='Starts the runs of a YAML file on Ray.'
  )
  parser.add_argument('--spec', required=True, help='the YAML file, such as sweeps/minatar.yaml')
  parser.add_argument('--output', help='directory of the runs; runs/NAME by default')
  parser.add_argument('--data_dir', help='as in run_experiment.py, for every run')
  parser.add_argument(
    '--gin_bindings',
    action='append',
    default=[],
    help='gin lines for every run; they override the file',
  )
  parser.add_argument(
    '--address', help='address of a Ray cluster, or auto; by default a local one is started'
  )
  parser.add_argument('--cpus', type=int, help='number of local cores to use; by default all')
  parser.add_argument(
    '--resume', action='store_true', help='resume; finished runs are not repeated'
  )
  parser.add_argument('--list', action='store_true', help='only print the runs')
  parser.add_argument('--estimate', action='store_true', help='only print the estimated cost')
  parser.add_argument(
    '--measured_from', type=pathlib.Path, help='estimate: speeds of the run in this directory'
  )
  parser.add_argument(
    '--print_slurm', action='store_true', help='only print a SLURM array for sbatch'
  )
  parser.add_argument(
    '--index', type=int, help='start only this run in this process, as a SLURM array task does'
  )
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  parser = _parser()
  options = parser.parse_args(arguments)
  try:
    return _do(options)
  except (OSError, ValueError, RuntimeError) as error:
    print(f'sweep: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('sweep: stopped. Rerun with --resume to continue.', file=sys.stderr)
    return 130


def _do(options: argparse.Namespace) -> int:
  spec = sweep_spec.read(options.spec)
  planned = sweep_spec.expand(spec)
  output = pathlib.Path(options.output or f'runs/{spec.path.stem}').expanduser()
  if options.cpus is not None and options.cpus < 1:
    raise ValueError(f'--cpus must be at least 1, got {options.cpus}.')
  if options.cpus is not None and options.address:
    raise ValueError('--cpus is for local runs; with --address the cluster reports its CPUs.')
  groups = sweep_spec.groups(planned)
  if options.index is not None and not 0 <= options.index < len(groups):
    raise ValueError(f'--index must lie in [0, {len(groups)}) in {spec.path}, got {options.index}.')
  if options.list:
    for number, group in enumerate(groups):
      for run in group:
        print(f'{number:4} {output / run.name}')
    return 0
  bindings = list(options.gin_bindings)
  if options.data_dir:
    if not os.path.isdir(options.data_dir):
      raise FileNotFoundError(f'--data_dir: no such directory: {options.data_dir}')
    bindings.append(f'TFDSReplay.data_dir = {os.path.abspath(options.data_dir)!r}')
  if options.print_slurm:
    from implicit_rl.sweep import slurm

    (output / 'slurm').mkdir(parents=True, exist_ok=True)  # SLURM does not create it for its logs.
    passed = [f'--spec={spec.path}', f'--output={output}']
    passed += [f'--gin_bindings={line}' for line in bindings]
    print(slurm.script(spec, len(groups), output, passed))
    return 0

  from implicit_rl.sweep import jobs  # Loads gin; its messages on wrong lines need TensorFlow.

  if options.index is not None:
    own, _ = jobs.make(spec, groups[options.index], output, bindings)
    _refuse_what_is_there(own, options.resume)
    job = own[0]._replace(beside=tuple(own[1:]))
    os.environ.update(launch.environment(_cache(output), one_thread=spec.resources.cpus <= 1))
    error = jobs.work(job, os.getcwd(), jobs.new_launch())
    print(f'{job.base_dir}: {error or "done"}')
    return int(error is not None)
  todo, lengths = jobs.make(spec, planned, output, bindings)
  if options.estimate:
    from implicit_rl.sweep import estimate

    measured = estimate.measured_in(options.measured_from) if options.measured_from else {}
    try:
      costs = estimate.cost(planned, lengths, measured)
    except ValueError as error:
      raise ValueError(f'{spec.path}: {error}') from error
    print(estimate.table(costs, {**spec.measured, **measured}))
    return 0
  _refuse_what_is_there(todo, options.resume)
  return _run(spec, planned, todo, output, options)


def _refuse_what_is_there(todo: Sequence[parallel_runs.Job], resume: bool) -> None:
  there = [job for job in todo if job.done]
  if there and not resume:
    raise ValueError(
      f'{there[0].base_dir} holds a run already. Pass --resume to continue it, or another '
      '--output to start over.'
    )


def _run(
  spec: Spec,
  planned: Sequence[Planned],
  todo: Sequence[parallel_runs.Job],
  output: pathlib.Path,
  options: argparse.Namespace,
) -> int:
  """Starts the remaining runs, collects the results, and reports failures."""
  from implicit_rl.sweep import cluster, table

  output.mkdir(parents=True, exist_ok=True)
  shutil.copy(spec.path, output / 'sweep.yaml')
  unfinished = sum(not job.finished for job in todo)
  print(f'{unfinished} of {len(planned)} runs of {spec.path} to do, into {output}', flush=True)
  by_name = {run.name: job for run, job in zip(planned, todo, strict=True)}
  left: dict[str, parallel_runs.Job] = {}
  for first, *others in sweep_spec.groups(planned):
    job = by_name[first.name]._replace(beside=tuple(by_name[one.name] for one in others))
    if not job.finished:
      left[first.name] = job
  wrong: Mapping[str, str] = {}
  if left:
    with table.shown(planned, todo) as show:
      wrong = cluster.run_all(
        {name: _absolute(job) for name, job in left.items()},
        resources=spec.resources,
        retries=spec.retries,
        address=options.address,
        cpus=options.cpus,
        compilation_cache=_cache(output),
        show=show,
      )
  _collect(planned, todo, output)
  for name, what in wrong.items():
    print(f'sweep: {output / name}: {what}', file=sys.stderr)
  if wrong:
    print(f'sweep: {len(wrong)} runs failed; their run.log says more.', file=sys.stderr)
  return int(bool(wrong))


def _cache(output: pathlib.Path) -> pathlib.Path:
  """Returns the directory of XLA's programs for later runs; a user's setting takes precedence."""
  return pathlib.Path(os.environ.get('JAX_COMPILATION_CACHE_DIR') or output / 'compiled').absolute()


def _absolute(job: parallel_runs.Job) -> parallel_runs.Job:
  beside = tuple(map(_absolute, job.beside))
  return job._replace(base_dir=job.base_dir.absolute(), beside=beside)


def _collect(
  planned: Sequence[Planned], todo: Sequence[parallel_runs.Job], output: pathlib.Path
) -> None:
  """Writes the finished runs' rows as one tidy table, and prints the command that draws them."""
  from implicit_rl.analysis import runs, style

  finished: dict[str, list[pathlib.Path]] = {}
  for run, job in zip(planned, todo, strict=True):
    if job.finished:
      finished.setdefault(run.variant, []).append(job.base_dir)
  if finished:
    style.write_csv(runs.load(finished), output / 'results.csv')
    print(
      f'{output / "results.csv"}; a page of it: implicit-rl analysis report '
      f'{output} --output={output / "report.html"}'
    )


if __name__ == '__main__':
  sys.exit(main())

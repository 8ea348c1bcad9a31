"""Command line of the gridworld: `implicit-rl gridworld figures|map --output=DIR`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from implicit_rl.gridworld import experiments, figures, map_picture, rank_map, runs


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  parser = argparse.ArgumentParser(prog='implicit-rl gridworld', description=__doc__)
  parser.add_argument('command', choices=('figures', 'map'))
  parser.add_argument('--output', type=pathlib.Path, required=True, help='directory of results')
  parser.add_argument('--seeds', type=int, default=5, help='runs for each configuration')
  parser.add_argument('--first_seed', type=int, default=10, help='seeds count up from here')
  parser.add_argument('--processes', type=int, default=2, help='parallel runs')
  parser.add_argument('--only', nargs='*', help='figures: names such as figure_2')
  parser.add_argument('--rows', type=int, help='figures: end runs after that many measured rows')
  parser.add_argument('--limit', type=int, help='map: run only that many cells')
  parser.add_argument('--table', type=pathlib.Path, help='map: only draw this map.csv')
  parser.add_argument('--draw_only', action='store_true', help='only draw the existing runs')
  options = parser.parse_args(arguments)
  for name in ('seeds', 'processes'):
    if getattr(options, name) < 1:
      parser.error(f'--{name} must be at least 1.')
  unknown = set(options.only or ()) - set(experiments.FIGURES)
  if unknown:
    parser.error(f'Unknown figures {sorted(unknown)}; known: {", ".join(experiments.FIGURES)}.')
  for name in ('limit', 'rows'):
    if getattr(options, name) is not None and getattr(options, name) < 1:
      parser.error(f'--{name} must be at least 1.')
  seeds = range(options.first_seed, options.first_seed + options.seeds)
  try:
    options.output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    parser.error(f'--output {options.output} cannot be a directory: {error}')
  return (_figures if options.command == 'figures' else _map)(options, seeds)


def _say(line: str) -> None:
  print(line, flush=True)


def _figures(options: argparse.Namespace, seeds: Sequence[int]) -> int:
  chosen = {n: f for n, f in experiments.FIGURES.items() if not options.only or n in options.only}
  if options.rows:
    chosen = {name: experiments.shortened(figure, options.rows) for name, figure in chosen.items()}
  configs = [config for figure in chosen.values() for config in figure.variants.values()]
  if not options.draw_only:
    configs.sort(key=runs.cost, reverse=True)  # Long runs first, so that no process ends alone.
    runs.run_all(options.output, configs, seeds, options.processes, _say)
  summaries = {}
  for name, figure in chosen.items():
    try:
      found = figures.collect(options.output, figure, seeds)
    except FileNotFoundError as error:
      print(f'{name}: {error.filename} is missing; run again without --draw_only.', file=sys.stderr)
      return 1
    stem = options.output / name
    figures.draw(stem, figure, found)
    figures.write_csv(stem.with_suffix('.csv'), figure, found, seeds)
    figures.write_spectra_csv(options.output / f'{name}_spectra.csv', found, seeds)
    summaries[name] = figures.summary(found)
    _say(f'\n{name}: {figure.title}')
    for line in summaries[name]:
      _say('  ' + '; '.join(f'{key} {value}' for key, value in line.items()))
  figures.write_summary(options.output / 'figures_summary.csv', summaries)
  _say(str(options.output / 'figures_summary.csv'))
  return 0


def _map(options: argparse.Namespace, seeds: Sequence[int]) -> int:
  path = options.output / 'map.csv'
  if options.table is None:
    cells = list(experiments.map_cells())
    # Other weights than the paper's come last: they cost most, and a map is complete without them.
    cells.sort(key=lambda cell: cell.penalty_weight not in (0.0, 1e-3))
    if not options.draw_only:
      runs.run_all(options.output, cells[: options.limit], seeds, options.processes, _say)
    measured = rank_map.read_runs(options.output, seeds)
    if not measured:
      print('No finished cell; run again without --draw_only.', file=sys.stderr)
      return 1
    rank_map.write_csv(path, measured, seeds)
  try:
    table = rank_map.read_csv(options.table or path)
  except (OSError, ValueError) as error:
    print(f'--table: {error}', file=sys.stderr)
    return 1
  map_picture.draw(options.output / 'map', table)
  lines = rank_map.counts(table)
  (options.output / 'map_counts.txt').write_text('\n'.join(lines) + '\n')
  for line in lines:
    _say(line)
  _say(str(options.output / 'map.png'))
  return 0


if __name__ == '__main__':
  sys.exit(main())

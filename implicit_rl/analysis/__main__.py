"""Command line: `implicit-rl analysis COMMAND BASE_DIR... --output=PATH`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from implicit_rl.analysis import (
  bars,
  curves,
  reliable_figures,
  report,
  runs,
  scatter,
  scores,
  spectrum,
  style,
  tables,
  variants,
)

_SOURCES = """
A source is the --base_dir of a run, a directory above several, or a saved table (.csv, .jsonl).
Variants are named by what differs in the runs' gin settings; NAME=GLOB names them yourself:
'DQN=runs/demo/dqn/*' 'DQN + penalty=runs/demo/dqn_penalty/*'.
An --output with an ending (.png, .svg, .pdf, .csv, .tex, .md) writes that file alone; without one,
the figure as .png and .svg and its numbers as .csv, a table as .csv, .tex and .md.
"""
_SCALES = {'none': 'return', 'human': 'human-normalised score', 'dqn': 'DQN-normalised score'}
_Drawn = tuple[Figure, pd.DataFrame]


def _table(options: argparse.Namespace, table: pd.DataFrame) -> None:
  for path in style.files(options.output, ('.csv',), ('.csv',)):
    style.write_csv(table, path)
    print(path)


def _scores(options: argparse.Namespace, table: pd.DataFrame) -> None:
  found = scores.normalise(scores.per_run(table, options.last), options.normalise)
  if options.per_run:
    numbers = words = found
  else:
    numbers = scores.by_game(found)
    words = tables.score_words(numbers, options.last, 1 if options.normalise == 'none' else 3)
  print(tables.markdown(words))
  for path in tables.save(numbers, words, options.output, options.title):
    print(path)


def _curves(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  look = {'band': options.band, 'title': options.title, 'log': options.log}
  return curves.figure(table, options.metric, x=options.x, **look)


def _bars(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  found = scores.per_run(table, options.last)
  compared = _compared(options, list(found['variant'].unique()))
  return bars.figure(found, compared, last=options.last, title=options.title)


def _aggregates(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  return reliable_figures.aggregates(
    _matrices(options, table),
    _SCALES[options.normalise],
    last=options.last,
    title=options.title,
    reps=options.reps,
  )


def _profiles(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  return reliable_figures.profiles(
    _matrices(options, table),
    _SCALES[options.normalise],
    last=options.last,
    title=options.title,
    reps=options.reps,
  )


def _improvement(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  found = _matrices(options, table)
  return reliable_figures.improvement(
    found,
    _compared(options, list(found['best'])),
    last=options.last,
    title=options.title,
    reps=options.reps,
  )


def _scatter(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  return scatter.figure(table, options.x, options.y, options.title)


def _spectra(options: argparse.Namespace, table: pd.DataFrame) -> _Drawn:
  first = table.groupby('variant', sort=False)['run'].first()
  if len(first) > options.most:
    raise ValueError(
      f'{len(first)} variants exceed --most={options.most}: choose variants as NAME=GLOB.'
    )
  found = {f'{name} (seed {_seed(table, run)})': runs.spectra(run) for name, run in first.items()}
  return spectrum.figure(found, options.title)


def _seed(table: pd.DataFrame, run: str) -> int:
  return int(table.loc[table['run'] == run, 'seed'].iloc[0])


def _compared(options: argparse.Namespace, known: Sequence[str]) -> list[tuple[str, str]]:
  compared = []
  for pair in options.pair:
    base, colon, variant = pair.partition(':')
    if not colon:
      raise ValueError(f'--pair={pair} is not BASE:VARIANT.')
    compared.append((base, variant))
  return compared or bars.pairs(known)


def _matrices(options: argparse.Namespace, table: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
  found = scores.normalise(scores.per_run(table, options.last), options.normalise)
  return {kind: scores.matrix(found, kind) for kind in scores.SCORES}


def _add(
  commands: argparse._SubParsersAction, name: str, run: Callable | None, text: str
) -> argparse.ArgumentParser:
  command = commands.add_parser(
    name,
    help=text,
    description=text[0].upper() + text[1:] + '.',
    epilog=_SOURCES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.set_defaults(run=run)
  command.add_argument('sources', nargs='+', metavar='SOURCE')
  command.add_argument('--output', required=True, metavar='PATH', help='file to write')
  command.add_argument('--title', default='', help='title of the figure or table')
  return command


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='implicit-rl analysis',
    description='Figures and tables of runs.',
    epilog=_SOURCES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
  _add(commands, 'table', _table, 'all metrics of all runs as one tidy CSV')

  command = _add(commands, 'curves', _curves, 'learning curves of any metrics, band over runs')
  command.add_argument('--metric', nargs='+', default=['srank', 'eval_return'])
  command.add_argument('--x', default='updates', help='updates, environment_steps or iteration')
  command.add_argument('--band', default='range', choices=list(curves.BANDS))
  command.add_argument('--log', nargs='*', default=[], help='metrics on a logarithmic axis')

  command = _add(commands, 'spectra', _spectra, 'singular values over training, a run per variant')
  command.add_argument('--most', type=int, default=4, help='variants that may be drawn (4)')

  command = _add(commands, 'scatter', _scatter, 'one metric against another, with ρ in each run')
  command.add_argument('--x', default='srank')
  command.add_argument('--y', default='eval_return', help='td_error for Figure A.12')

  command = _add(commands, 'report', None, 'one HTML page of the runs, for a browser')
  command.add_argument('--last', type=int, default=5, help='evaluations in the last-k score (5)')

  scored = {
    'scores': _add(commands, 'scores', _scores, 'the paper’s score and an unbiased one'),
    'bars': _add(commands, 'bars', _bars, 'percentage improvement per game with its median'),
    'aggregates': _add(commands, 'aggregates', _aggregates, 'rliable’s IQM, median, mean, gap'),
    'profiles': _add(commands, 'profiles', _profiles, 'rliable’s performance profiles'),
    'improvement': _add(commands, 'improvement', _improvement, 'rliable’s P(improvement)'),
  }
  for name in ('aggregates', 'profiles', 'improvement'):
    scored[name].add_argument('--reps', type=int, default=2000, help='bootstrap samples (2000)')
  for name, command in scored.items():
    command.add_argument(
      '--last', type=int, default=5, help='evaluations that the last-k score averages (5)'
    )
    if name != 'bars':
      command.add_argument('--normalise', default='none', choices=scores.NORMALISATIONS)
    if name in ('bars', 'improvement'):
      command.add_argument('--pair', action='append', default=[], metavar='BASE:VARIANT')
  scored['scores'].add_argument('--per_run', action='store_true', help='a row per run')
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Parses the command line and runs it; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    sources = variants.parse(options.sources)
    if options.command == 'report':
      text = report.build(sources, options.last, options.title)
      for path in style.files(options.output, ('.html',), ('.html',)):
        path.write_text(text, encoding='utf-8')
        print(path)
      return 0
    drawn = options.run(options, runs.load(sources))
    for path in style.save(drawn[0], options.output, drawn[1]) if drawn else ():
      print(path)
  except (OSError, ValueError) as error:
    print(f'implicit-rl analysis {options.command}: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())

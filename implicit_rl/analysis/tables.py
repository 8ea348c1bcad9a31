"""Tables as CSV, Markdown and LaTeX."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from os import PathLike

import numpy as np
import pandas as pd

from implicit_rl.analysis import scores, style

_LATEX = {
  '\\': r'\textbackslash{}',
  '&': r'\&',
  '%': r'\%',
  '$': r'\$',
  '#': r'\#',
  '_': r'\_',
  '{': r'\{',
  '}': r'\}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
  '−': '$-$',
  'δ': r'$\delta$',
  'σ': r'$\sigma$',
  'α': r'$\alpha$',
}


def mean_and_spread(values: np.ndarray, digits: int = 1) -> str:
  """Returns mean ± sample standard deviation, as text."""
  spread = f' ± {values.std(ddof=1):.{digits}f}' if len(values) > 1 else ''
  return f'{values.mean():.{digits}f}{spread}'


def markdown(rows: pd.DataFrame) -> str:
  """Returns a Markdown table; every cell is formatted by `str`."""
  lines = [list(rows.columns), *rows.itertuples(index=False)]
  written = [f'| {" | ".join(map(str, line))} |' for line in lines]
  return '\n'.join([written[0], '|' + '---|' * rows.shape[1], *written[1:]])


def latex(rows: pd.DataFrame, caption: str = '') -> str:
  """Returns a LaTeX table for booktabs: words left-aligned, numbers right-aligned."""
  escape = lambda text: ''.join(_LATEX.get(letter, letter) for letter in str(text))
  number = lambda cell: re.match(r'[-+]?\d', str(cell)) is not None
  kinds = ''.join('r' if all(map(number, rows[name])) else 'l' for name in rows)
  line = lambda cells: ' & '.join(map(escape, cells)) + r' \\'
  body = [line(row) for row in rows.itertuples(index=False)]
  parts = [
    r'\begin{table}',
    r'\centering',
    *([rf'\caption{{{escape(caption)}}}'] if caption else []),
    rf'\begin{{tabular}}{{{kinds}}}',
    r'\toprule',
    line(rows.columns),
    r'\midrule',
    *body,
    r'\bottomrule',
    r'\end{tabular}',
    r'\end{table}',
  ]
  return '\n'.join(parts) + '\n'


def save(
  numbers: pd.DataFrame, words: pd.DataFrame, output: str | PathLike, caption: str = ''
) -> list[pathlib.Path]:
  """Writes a table; if `output` has no extension: .csv, .tex and .md.

  Args:
    numbers: for the CSV.
    words: the same, formatted for reading, for LaTeX and Markdown.
    output: a file, whose extension chooses the format, or a name without one.
    caption: of the LaTeX table.
  """
  paths = style.files(output, ('.csv', '.tex', '.md'), ('.csv', '.tex', '.md'))
  for path in paths:
    if path.suffix == '.csv':
      style.write_csv(numbers, path)
    else:
      text = latex(words, caption) if path.suffix == '.tex' else markdown(words) + '\n'
      path.write_text(text, encoding='utf-8')
  return paths


def score_words(by_game: pd.DataFrame, last: int, digits: int = 1) -> pd.DataFrame:
  """Returns `scores.by_game` for reading: mean ± standard deviation of the two scores."""
  text = lambda mean, std: f'{mean:.{digits}f}' + ('' if np.isnan(std) else f' ± {std:.{digits}f}')
  names = {'best': 'best evaluation', 'last': f'mean of last {last}'}
  words = by_game[['variant', 'game', 'runs']].copy()
  for kind in scores.SCORES:
    words[names[kind]] = list(map(text, by_game[f'{kind}_mean'], by_game[f'{kind}_std']))
  return words


def summary(table: pd.DataFrame) -> pd.DataFrame:
  """Returns a row per variant: last and best return; first, largest and last srank.

  Each entry is the mean over the runs ± their sample standard deviation; runs are cut to the
  variant's shortest.
  """
  rows = []
  for variant, group in table.groupby('variant', sort=False):
    runs = [part.sort_values('iteration') for _, part in group.groupby('run', sort=False)]
    length = min(map(len, runs))
    cut = lambda name, runs=runs, length=length: np.array(
      [part[name].to_numpy()[:length] for part in runs]
    )
    returns, sranks = cut('eval_return'), cut('srank')
    columns = {
      'final return': returns[:, -1],
      'best return': returns.max(1),
      'srank first': sranks[:, 0],
      'srank peak': sranks.max(1),
      'srank last': sranks[:, -1],
    }
    words = {name: mean_and_spread(values) for name, values in columns.items()}
    rows.append({'variant': variant, 'runs': len(runs)} | words)
  return pd.DataFrame(rows)


def last(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
  """Returns a row per variant: each metric in the last iteration that all its runs have.

  Each entry is the mean over the runs ± their sample standard deviation.
  """
  rows = []
  for variant, group in table.groupby('variant', sort=False):
    end = group.groupby('run')['iteration'].max().min()
    ends = group[group['iteration'] == end]
    words = {style.label(name): mean_and_spread(ends[name].to_numpy()) for name in metrics}
    rows.append({'variant': variant, 'runs': len(ends)} | words)
  return pd.DataFrame(rows)

"""Draws the saved rows: pictures, tables as CSV, an HTML page, and the docs' page."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from implicit_rl.analysis import report_page, style, tables
from implicit_rl.leaderboard import answers, heat_map, rows, summary
from implicit_rl.leaderboard.spec import NONE, Spec

_MAPS: Mapping[str, tuple[str, float]] = {  # File name: its content, the value of the full colour.
  'score': ('Change of the final return against `none`, in units of the regime’s scale', 0.5),
  'srank': ('srank, ratio to `none`', np.log(2)),
  'effective_rank': ('Entropy rank, ratio to `none`', np.log(2)),
  'centred_effective_rank': ('Centred entropy rank, ratio to `none`', np.log(2)),
}
_NOTHING = 'None yet.'


def everything(spec: Spec, results: pathlib.Path, page: pathlib.Path) -> list[pathlib.Path]:
  """Draws all results.

  Args:
    spec: the leaderboard's.
    results: directory of the rows; pictures, `summary.csv`, `correlations.csv` and `page.html` go
      there too.
    page: the Markdown page, whose parts between `<!-- NAME -->` and `<!-- end -->` are replaced.

  Returns:
    The files.
  """
  results.mkdir(parents=True, exist_ok=True)
  found = summary.complete(summary.scored(rows.read(results / rows.ROWS), spec), spec)
  excluded = rows.read(results / rows.EXCLUDED)
  methods, correlations = summary.by_method(found, spec), summary.correlations(found, spec)
  written = []
  for name, table in (('summary', methods), ('correlations', correlations)):
    written.append(results / f'{name}.csv')
    style.write_csv(table, written[-1])
  maps = {name: _map(found, spec, name, most) for name, (_, most) in _MAPS.items()}
  for name, svg in maps.items():
    written.append(results / f'{name}.svg')
    written[-1].write_text(svg, encoding='utf-8')
  words = {
    'table': method_words(methods),
    'correlations': correlation_words(correlations),
    'strengths': strength_words(rows.read(results / rows.TUNING), methods, spec),
    'excluded': excluded,
  }
  parts = {
    'state': answers.state(found, excluded, spec),
    'short': answers.in_short(methods) if len(methods) else _NOTHING,
    'questions': answers.questions(found, spec, correlations) if len(methods) else _NOTHING,
    **{name: tables.markdown(table) if len(table) else _NOTHING for name, table in words.items()},
  }
  written.append(results / 'page.html')
  written[-1].write_text(_html(parts, words, maps), encoding='utf-8')
  if page.exists():
    page.write_text(filled(page.read_text(encoding='utf-8'), parts), encoding='utf-8')
    written.append(page)
  return written


def filled(text: str, parts: Mapping[str, str]) -> str:
  """Returns a page whose parts between `<!-- NAME -->` and `<!-- end -->` are replaced."""
  for name, part in parts.items():
    pattern = rf'({re.escape(f"<!-- {name} -->")}\n).*?(<!-- end -->)'
    escaped = part.replace('\\', r'\\')
    text = re.sub(pattern, rf'\1\n{escaped}\n\n\2', text, flags=re.DOTALL)
  return text


def _map(found: pd.DataFrame, spec: Spec, name: str, most: float) -> str:
  """Returns a heat map of a measure relative to `none`: differences of the score, else ratios."""
  changes = summary.changes(found, spec, name).dropna(subset='mean')
  regimes = [one for one in spec.regimes if one in set(changes['regime'])]
  methods = [one for one in spec.methods if one in set(changes['remedy'])]
  wide = lambda column: (
    changes.pivot(index='remedy', columns='regime', values=column)
    .reindex(index=methods, columns=regimes)
    .to_numpy(float)
  )
  values = wide('change')
  if name != 'score':
    with np.errstate(divide='ignore', invalid='ignore'):
      values = np.log(wide('mean') / (wide('mean') - values))
  signed = lambda value: f'{round(value, 2) + 0.0:+.2f}'.replace('-', '−')  # No −0.00.
  times = lambda value: f'×{np.exp(value):.2f}'
  return heat_map.svg(
    values,
    methods,
    regimes,
    most=most,
    text=signed if name == 'score' else times,
    strong=np.nan_to_num(wide('beyond')) != 0,
    described=f'{_MAPS[name][0]}: methods down, regimes across; a star beyond two standard errors',
  )


# --- words ----------------------------------------------------------------------------------------


def method_words(methods: pd.DataFrame) -> pd.DataFrame:
  """Returns `summary.by_method` for reading, best first."""
  if methods.empty:
    return pd.DataFrame()
  methods = methods.sort_values('iqm', ascending=False, kind='stable')
  interval = lambda row: f'{row["iqm"]:.2f} [{row["iqm_low"]:.2f}, {row["iqm_high"]:.2f}]'
  ratio = lambda value: '–' if np.isnan(value) else f'×{value:.2g}'
  return pd.DataFrame(
    [
      {
        'method': row['remedy'],
        'kind': row['kind'] or '–',
        'strength': row['setting'] or '–',
        'regimes': row['regimes'],
        'score, IQM [95%]': interval(row).replace('-', '−'),
        'score − none': '–'
        if row['remedy'] == NONE
        else f'{row["gain"]:+.2f} ± {row["gain_error"]:.2f}'.replace('-', '−'),
        **{summary.NAMES[name]: ratio(row[f'{name}_ratio']) for name in summary.RATIOS},
      }
      for row in methods.to_dict('records')
    ]
  )


def correlation_words(correlations: pd.DataFrame) -> pd.DataFrame:
  """Returns `summary.correlations` for reading: a row per measure."""
  say = lambda row: (
    '–' if np.isnan(row['rho']) else f'{row["rho"]:+.2f} ± {row["error"]:.2f}'.replace('-', '−')
  )
  regimes = [
    name for name in correlations if name not in ('measure', 'kind', 'rho', 'error', 'groups')
  ]
  found = []
  for name, pair in correlations.groupby('measure', sort=False):
    across, within = (pair[pair['kind'] == kind].iloc[0] for kind in ('across', 'within'))
    per = [across[one] for one in regimes if np.isfinite(across[one])]
    found.append(
      {
        'measure': summary.NAMES[str(name)],
        'across methods': say(across),
        'smallest and largest in a regime': (
          f'{min(per):+.2f} to {max(per):+.2f}'.replace('-', '−') if per else '–'
        ),
        'within cells': say(within),
        'cells': within['groups'],
      }
    )
  return pd.DataFrame(found)


def strength_words(tuning: pd.DataFrame, methods: pd.DataFrame, spec: Spec) -> pd.DataFrame:
  """Returns the tried values of each strength, and the value that the table uses."""
  used = dict(zip(methods['remedy'], methods['setting'], strict=True)) if len(methods) else {}
  found = []
  for name, method in spec.methods.items():
    cells = {}
    for value in method.values:
      here = (tuning['remedy'] == name) & (tuning['setting'] == f'{value:g}')
      returns = tuning.loc[here, 'final_return']
      cells[f'{value:g}'] = f'{value:g}: {returns.mean():.2f}' if len(returns) else f'{value:g}: –'
    if cells:
      found.append(
        {
          'method': name,
          'gin': f'`{method.strength}`',
          'mean final return of each value, the authors’ default first': '; '.join(cells.values()),
          'used': used.get(name, '–'),
        }
      )
  return pd.DataFrame(found)


# --- the browser's page ---------------------------------------------------------------------------


def _html(
  parts: Mapping[str, str], words: Mapping[str, pd.DataFrame], maps: Mapping[str, str]
) -> str:
  return report_page.page(
    'Leaderboard',
    _paragraphs(parts['state'] + '\n\n' + parts['short']),
    [
      ('Methods', _table(words['table'], texts=3)),
      ('Return', report_page.figure(_plain(_MAPS['score'][0]), maps['score'])),
      (
        'Ranks',
        report_page.charts(
          report_page.figure(_plain(title), maps[name])
          for name, (title, _) in _MAPS.items()
          if name != 'score'
        ),
      ),
      ('Three questions', _paragraphs(parts['questions'])),
      ('Correlations', _table(words['correlations'], texts=1)),
      ('Strengths', _table(words['strengths'], texts=4)),
      ('Excluded', _table(words['excluded'], texts=3)),
    ],
  )


def _table(words: pd.DataFrame, texts: int) -> str:
  """Returns a table whose first columns are text; an empty one is left out."""
  cells = [[html.escape(str(cell)) for cell in row] for row in words.itertuples(index=False)]
  return report_page.table(list(words), cells, list(words)[texts:]) if cells else ''


def _plain(text: str) -> str:
  return text.replace('`', '')


def _paragraphs(markdown: str) -> str:
  """Returns paragraphs and tables, the only elements of `answers`, as HTML."""
  blocks = []
  for block in markdown.strip().split('\n\n'):
    if block.startswith('|'):
      head, _, *body = [
        [cell.strip() for cell in line.strip('|').split('|')] for line in block.split('\n')
      ]
      blocks.append(report_page.table(head, body, head[1:]))
    else:
      bold = re.sub(r'\*\*(.+?)\*\*', r'<strong>\1</strong>', html.escape(block))
      blocks.append('<p>' + re.sub(r'`(.+?)`', r'<code>\1</code>', bold) + '</p>')
  return ''.join(blocks)

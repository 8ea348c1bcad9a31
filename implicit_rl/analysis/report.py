"""A report of runs: curves, comparison, spectra, seeds, warnings, settings, record."""

from __future__ import annotations

import html
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from implicit_rl.analysis import curves, findings, report_page, runs, scatter, scores, style, svg
from implicit_rl.analysis.variants import Sources
from implicit_rl.rank import WORDS

# Drawn in this order if runs logged them; metrics that span decades have a logarithmic axis.
METRICS = (
  'eval_return srank effective_rank pca_rank centred_srank centred_effective_rank centred_pca_rank '
  'td_error q_mean sigma_max sigma_min dead_units feature_norm loss'
).split()
_LOG = ('td_error', 'sigma_max', 'sigma_min', 'loss')
_FLOOR = 1e-6  # of the heat map


def build(sources: Sources, last: int = 5, title: str = '') -> str:
  """Returns the page, as HTML that needs no other file.

  Args:
    sources: as in `runs.load`.
    last: number of evaluations in the last-k score.
    title: of the page.
  """
  table = runs.load(sources)
  variants = list(table['variant'].unique())
  read = {
    path: runs.read(path)
    for path in table['run'].unique()
    if pathlib.Path(path).is_dir() and runs.is_run(pathlib.Path(path))
  }
  found = {path: findings.look(run) for path, run in read.items()}
  games = [game for game in table['game'].unique() if game]
  what = f'{len(variants)} variant{"s" * (len(variants) > 1)}, {table["run"].nunique()} runs'
  intro = f'<p class="faint">{what}{" of " if games else ""}{html.escape(", ".join(games))}</p>'
  return report_page.page(
    title or 'Runs of ' + ', '.join(variants),
    intro,
    [
      ('Comparison', _comparison(table, last)),
      ('Curves', _curves(table, variants)),
      ('Spectra', _spectra(table, variants)),
      ('Runs', _runs(table, last, found)),
      ('Warnings', _warnings(table, found)),
      ('Settings', _settings(table, read)),
      ('Record', _record(read)),
    ],
  )


def _comparison(table: pd.DataFrame, last: int) -> str:
  rows = []
  evaluated = 'eval_return' in table and table['eval_return'].notna().any()
  by_run = scores.per_run(table, last) if evaluated else None
  others = [name for name in WORDS if name != 'srank' and name in table]
  for (variant, game), group in table.groupby(['variant', 'game'], sort=False):
    cells = [html.escape(variant), html.escape(game), str(group['run'].nunique())]
    for kind in scores.SCORES:
      values = np.zeros(0)
      if by_run is not None:
        own = (by_run['variant'] == variant) & (by_run['game'] == game)
        values = by_run.loc[own, kind].to_numpy()
      cells.append(_spread(values, 2))
    cells += [_spread(values, 1) for values in _ranks(group)]
    for name in others:
      begin, _, end = _ranks(group, name)
      cells.append(f'{_spread(begin, 1)} → {_spread(end, 1)}')
    rows.append(cells)
  titles = scores.titles(last)
  columns = ['variant', 'game', 'runs', titles['best'], titles['last']]
  columns += ['srank first', 'srank peak', 'srank last', *(WORDS[name] for name in others)]
  note = '<p class="faint">Mean over runs ± sample standard deviation; other ranks first → last. '
  note += 'Ranks may disagree: centred ones exclude the mean feature.</p>'
  return report_page.table(columns, rows, columns[2:]) + note


def _ranks(group: pd.DataFrame, name: str = 'srank') -> list[np.ndarray]:
  """Returns first, largest and last rank of each run."""
  if name not in group:
    return [np.zeros(0)] * 3
  series = [part.sort_values('iteration')[name] for _, part in group.groupby('run', sort=False)]
  return [
    np.array([values.iloc[0] for values in series]),
    np.array([values.max() for values in series]),
    np.array([values.iloc[-1] for values in series]),
  ]


def _spread(values: np.ndarray, digits: int) -> str:
  values = values[np.isfinite(values)]
  if not len(values):
    return '–'
  spread = f' ± {values.std(ddof=1):.{digits}f}' if len(values) > 1 else ''
  return f'{values.mean():.{digits}f}{spread}'


def _curves(table: pd.DataFrame, variants: Sequence[str]) -> str:
  x = 'updates' if 'updates' in table and table['updates'].notna().any() else 'iteration'
  drawn = [name for name in METRICS if name in table and table[name].notna().any()]
  parts = ['<p class="faint">Line: mean over runs. Band: least to most.</p>']
  for game in table['game'].unique():
    own = table[table['game'] == game]
    figures = []
    for metric in drawn:
      data = curves.gather(own, metric, x)
      chart = svg.line_chart(
        [_line(data, variant, variants.index(variant), x) for variant in data['variant'].unique()],
        x=style.label(x),
        y=metric,
        log=metric in _LOG,
        from_zero=metric in style.FROM_ZERO,
      )
      figures.append(report_page.figure(style.label(metric), chart))
    heading = f'<h3>{html.escape(game)}</h3>' if game else ''
    parts += [heading, report_page.legend(variants), report_page.charts(figures)]
  return ''.join(parts)


def _line(data: pd.DataFrame, variant: str, index: int, x: str) -> svg.Line:
  part = data[data['variant'] == variant]
  columns = (part[name].to_numpy(np.float64) for name in (x, 'mean', 'low', 'high'))
  count = int(part['runs'].iloc[0])
  return svg.Line(f'{variant} ({count} run{"s" * (count > 1)})', index, *columns)


def _spectra(table: pd.DataFrame, variants: Sequence[str]) -> str:
  """Returns charts of the spectra of each variant's first run, over training and at its end."""
  maps, ends = [], []
  for i, (variant, path) in enumerate(table.groupby('variant', sort=False)['run'].first().items()):
    try:
      values = runs.spectra(path)
    except FileNotFoundError:
      continue
    largest = values[0].where(values[0] > 0, 1)
    ratio = values.div(largest, axis=0).to_numpy()  # [T, m]
    first = table[table['run'] == path].iloc[0]
    caption = f'{variant}: {first["game"]}, seed {first["seed"]}'
    chart = svg.heat_map(ratio.T, list(values.index), _FLOOR)
    maps.append(report_page.figure(caption, chart))
    index, end = np.arange(1, ratio.shape[1] + 1, dtype=np.float64), np.maximum(ratio[-1], _FLOOR)
    ends.append(svg.Line(caption, i, index, end, end, end))
  if not maps:
    return ''
  chart = svg.line_chart(ends, x='index i, from the largest', y='σᵢ / σ₁', log=True)
  last = report_page.figure('At the end of training', chart)
  return report_page.legend(variants) + report_page.charts([*maps, last])


def _runs(table: pd.DataFrame, last: int, found: Mapping[str, list[findings.Finding]]) -> str:
  evaluated = 'eval_return' in table and table['eval_return'].notna().any()
  by_run = scores.per_run(table, last).set_index('run') if evaluated else None
  has_rank = evaluated and 'srank' in table
  rho = scatter.correlations(table).set_index('run')['correlation'] if has_rank else {}
  rows = []
  for path, group in table.groupby('run', sort=False):
    end = group.sort_values('iteration').iloc[-1]
    cells = [html.escape(str(end[name])) for name in ('variant', 'game', 'seed')]
    cells += [str(len(group)), style.thousands(end.get('updates', np.nan))]
    own = by_run.loc[path] if by_run is not None and path in by_run.index else {}
    cells += [_number(own.get(kind, np.nan)) for kind in scores.SCORES]
    cells += [_number(values[0]) for values in (_ranks(group)[0], _ranks(group)[2]) if len(values)]
    cells += ['–'] * (2 - sum(len(values) > 0 for values in _ranks(group)[:2]))
    cells.append(_number(rho[path]) if path in rho else '–')
    severe = sum(finding.severe for finding in found.get(path, []))
    cells.append(f'<span class="bad">{severe}</span>' if severe else '0')
    cells.append(f'<code class="path">{html.escape(str(path))}</code>')
    rows.append(cells)
  columns = ['variant', 'game', 'seed', 'iterations', 'updates', 'best return', f'last {last}']
  columns += ['srank first', 'srank last', 'ρ(srank, return)', 'warnings', 'run']
  return report_page.table(columns, rows, columns[2:-1])


def _number(value: float) -> str:
  return f'{value:.4g}' if np.isfinite(value) else '–'


def _warnings(table: pd.DataFrame, found: Mapping[str, list[findings.Finding]]) -> str:
  if not found:
    return '<p>Only these rows were saved; the runs’ other files are missing.</p>'
  parts = []
  for path, remarks in found.items():
    if remarks:
      items = ''.join(
        f'<li{" class=bad" if remark.severe else ""}>{html.escape(remark.text)}</li>'
        for remark in remarks
      )
      parts.append(f'<h3><code>{html.escape(path)}</code></h3><ul>{items}</ul>')
  clean = sum(not remarks for remarks in found.values())
  return ''.join(parts) + f'<p>{clean} of {len(found)} runs have no warnings.</p>'


def _settings(table: pd.DataFrame, read: Mapping[str, runs.Run]) -> str:
  """Returns the settings that differ by variant, then those that all share."""
  known = {path: run.settings for path, run in read.items() if run.settings}
  if not known:
    return ''
  variant = table.groupby('run')['variant'].first()
  columns = list(dict.fromkeys(variant[path] for path in known))
  names = sorted({name for settings in known.values() for name in settings})
  different, shared = [], []
  for name in names:
    values = {
      own: sorted({s.get(name, '') for path, s in known.items() if variant[path] == own})
      for own in columns
    }
    cells = [' / '.join(html.escape(value) or '–' for value in values[own]) for own in columns]
    if len({settings.get(name) for settings in known.values()}) > 1:
      different.append([f'<code>{html.escape(name)}</code>', *cells])
    else:
      shared.append([f'<code>{html.escape(name)}</code>', cells[0]])
  parts = []
  if different:
    parts += ['<h3>Where the runs differ</h3>', report_page.table(['setting', *columns], different)]
  body = report_page.table(['setting', 'value'], shared)
  return ''.join([*parts, report_page.fold(f'{len(shared)} settings shared by all runs', body)])


def _record(read: Mapping[str, runs.Run]) -> str:
  parts = []
  for path, run in read.items():
    if run.start:
      text = html.escape(json.dumps(run.start, indent=2))
      parts.append(report_page.fold(path, f'<pre class="scroll"><code>{text}</code></pre>'))
  return ''.join(parts)

"""The HTML page of diagnoses: a verdict for each question, measures, layers and spectra."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np

from implicit_rl.analysis import report_page, svg
from implicit_rl.diagnosis.measured import Measured
from implicit_rl.diagnosis.verdicts import Verdict

_MARKS = {'good': '✓', 'warning': '!', 'bad': '✗', 'unknown': '?'}


def build(runs: Mapping[str, Mapping[str, Measured]], title: str) -> str:
  """Returns the page as HTML that needs no other file.

  Args:
    runs: diagnoses by the names of the run and of its checkpoint; verdicts are of the last one.
    title: of the page.
  """
  newest = {run: list(found.values())[-1] for run, found in runs.items()}
  about = ''.join(
    f'<p class="faint">{html.escape(run)}: {html.escape(_about(last))}</p>'
    for run, last in newest.items()
  )
  sections = [('Verdicts', _verdicts(newest))]
  for run, found in runs.items():
    own = _sections(found)
    if len(runs) > 1:
      own = [(run, ''.join(f'<h3>{name}</h3>{body}' for name, body in own if body))]
    sections += own
  return report_page.page(title, about, [(html.escape(name), body) for name, body in sections])


def _sections(diagnoses: Mapping[str, Measured]) -> list[tuple[str, str]]:
  last = list(diagnoses.values())[-1]
  return [
    ('Measures', _measures(diagnoses)),
    ('Layers', _layers(last)),
    ('Spectra', _spectra(last)),
    ('Not measured', _not_measured(last)),
  ]


def _about(diagnosis: Measured) -> str:
  return ', '.join(f'{what} {_told(value)}' for what, value in diagnosis.about.items())


def _told(value: object) -> str:
  return ' → '.join(map(str, value)) if isinstance(value, tuple | list) else f'{value}'


def _number(value: float) -> str:
  return f'{value:.4g}' if np.isfinite(value) else str(value)


def _verdicts(newest: Mapping[str, Measured]) -> str:
  cells = [
    [html.escape(run)] * (len(newest) > 1) + _verdict(diagnosis, one)
    for run, diagnosis in newest.items()
    for one in diagnosis.verdicts
  ]
  columns = ['question', 'verdict', 'answer', 'numbers']
  return report_page.table(['run'] * (len(newest) > 1) + columns, cells)


def _verdict(diagnosis: Measured, one: Verdict) -> list[str]:
  """Returns the cells of a verdict: question, level, answer and numbers."""
  numbers = [
    f'<code>{html.escape(name)}</code> {_number(diagnosis[name])}'
    + (f' (fresh {_number(diagnosis.fresh[name])})' if name in diagnosis.fresh else '')
    for name in one.numbers
  ]
  mark = f'{_MARKS[one.level]} {one.level}'
  rests = f'<p class="faint">Rests on: {html.escape(one.rests_on)}.</p>'
  return [
    html.escape(one.question),
    f'<span class="bad">{mark}</span>' if one.level in ('bad', 'warning') else mark,
    f'<p>{html.escape(one.answer)}</p>{rests}',
    '<br>'.join(numbers) or '–',
  ]


def _measures(diagnoses: Mapping[str, Measured]) -> str:
  """Returns the table of the whole network: a column for each diagnosis and the fresh network."""
  names = sorted({name for one in diagnoses.values() for name in one if '/' not in name})
  last = list(diagnoses.values())[-1]
  columns = [*diagnoses, *(['fresh network'] if last.fresh else [])]
  values = [*diagnoses.values(), *([last.fresh] if last.fresh else [])]
  cells = [
    [f'<code>{html.escape(name)}</code>']
    + [_number(one[name]) if name in one else '–' for one in values]
    for name in names
  ]
  return report_page.table(['measure', *columns], cells, columns)


def _layers(diagnosis: Measured) -> str:
  """Returns the table of measures named `measure/LAYER`."""
  parted = [name.partition('/') for name in diagnosis if '/' in name]
  measures = list(dict.fromkeys(measure for measure, _, _ in parted))
  order = diagnosis.about.get('layers', ())
  layers = list(dict.fromkeys([*order, *(layer for _, _, layer in parted)]))
  cells = [
    [f'<code>{html.escape(layer)}</code>']
    + [_number(diagnosis.get(f'{measure}/{layer}', np.nan)) for measure in measures]
    for layer in layers
  ]
  return report_page.table(['layer', *measures], cells, measures) if parted else ''


def _spectra(diagnosis: Measured) -> str:
  """Returns charts of relative singular values, raw and centred, beside a fresh network's."""
  whose = {'this network': diagnosis.arrays, 'a fresh network': diagnosis.fresh_arrays}
  whose = {name: arrays for name, arrays in whose.items() if arrays}
  figures = []
  for array, caption in (
    ('singular_values', 'Features'),
    ('centred_singular_values', 'Features minus their mean'),
  ):
    lines = []
    for position, (name, arrays) in enumerate(whose.items()):
      values = np.asarray(arrays.get(array, ()), np.float64)
      if values.size and np.isfinite(values).all() and values[0] > 0:
        ratio = values / values[0]
        lines.append(svg.Line(name, position, np.arange(1.0, len(ratio) + 1), ratio, ratio, ratio))
    if lines:
      chart = svg.line_chart(lines, x='index i, from the largest', y='σᵢ / σ₁', log=True)
      figures.append(report_page.figure(caption, chart))
  return report_page.legend(list(whose)) + report_page.charts(figures) if figures else ''


def _not_measured(diagnosis: Measured) -> str:
  items = ''.join(
    f'<li><code>{html.escape(name)}</code>: {html.escape(why)}</li>'
    for name, why in diagnosis.not_measured.items()
  )
  return f'<ul>{items}</ul>' if items else ''

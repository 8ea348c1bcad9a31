"""The template of the report: one HTML file without dependencies, light or dark, for any width."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterable, Sequence

from implicit_rl.analysis import style

# For a dark background: light, and equally distinct for colour-blind readers.
_DARK = ('#56B4E9', '#FF8A3D', '#2BD4A4', '#E79BC4', '#F0C348', '#A9B8FF', '#EDEDED')
_DASHES = ('none', '7 4', '8 3 2 3', '2 3')

_CSS = pathlib.Path(__file__).parent / 'report.css'


def _colours(palette: Sequence[str]) -> str:
  return ' '.join(f'--c{i}: {colour};' for i, colour in enumerate(palette))


def _css() -> str:
  rules = [
    _CSS.read_text(encoding='utf-8')
    .replace('/* LIGHT */', _colours(style.COLOURS))
    .replace('/* DARK */', _colours(_DARK))
  ]
  for i in range(len(style.COLOURS)):
    rules.append(f'.line.s{i} {{ stroke: var(--c{i}); color: var(--c{i}) }}')
    rules.append(f'.band.s{i} {{ fill: var(--c{i}) }}')
  rules += [f'.d{i} {{ stroke-dasharray: {dashes} }}' for i, dashes in enumerate(_DASHES)]
  return ''.join(line.strip() + '\n' for rule in rules for line in rule.splitlines())


def page(title: str, intro: str, sections: Iterable[tuple[str, str]]) -> str:
  """Returns the whole file.

  Args:
    title: plain text.
    intro: HTML below it.
    sections: (heading, HTML) pairs; empty ones are left out.
  """
  kept = [(heading, body) for heading, body in sections if body]
  links = ' '.join(f'<a href="#{_anchor(heading)}">{heading}</a>' for heading, _ in kept)
  bodies = ''.join(
    f'<section id="{_anchor(heading)}"><h2>{heading}</h2>{body}</section>\n'
    for heading, body in kept
  )
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(title)}</title><style>{_css()}</style></head><body>\n'
    f'<h1>{html.escape(title)}</h1>{intro}<nav>{links}</nav>\n{bodies}</body></html>\n'
  )


def _anchor(heading: str) -> str:
  return heading.lower().replace(' ', '-')


def figure(caption: str, chart: str) -> str:
  """Returns a chart with its caption."""
  return f'<figure><figcaption>{html.escape(caption)}</figcaption>{chart}</figure>'


def charts(figures: Iterable[str]) -> str:
  """Returns charts beside each other where they fit."""
  return f'<div class="charts">{"".join(figures)}</div>'


def legend(names: Sequence[str]) -> str:
  """Returns the legend of the variants' lines."""
  items = []
  for i, name in enumerate(names):
    look = f'class="line s{i % len(style.COLOURS)} d{i % 4}"'
    sample = f'<svg viewBox="0 0 40 12" aria-hidden="true"><path {look} d="M0 6L40 6"/></svg>'
    items.append(f'<li>{sample}{html.escape(name)}</li>')
  return f'<ul class="legend">{"".join(items)}</ul>'


def table(
  columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> str:
  """Returns a table that scrolls horizontally if it is wide.

  Args:
    columns: headings, plain text.
    rows: cells, as HTML.
    numbers: the right-aligned columns.
  """
  kinds = ['n' if name in numbers else '' for name in columns]
  mark = lambda kind: f' class="{kind}"' if kind else ''
  head = ''.join(
    f'<th{mark(kind)}>{html.escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True)
  )
  body = ''.join(
    '<tr>'
    + ''.join(f'<td{mark(kind)}>{cell}</td>' for cell, kind in zip(row, kinds, strict=True))
    + '</tr>'
    for row in rows
  )
  return (
    f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
  )


def fold(summary: str, body: str) -> str:
  """Returns folded content."""
  return f'<details><summary>{html.escape(summary)}</summary>{body}</details>'

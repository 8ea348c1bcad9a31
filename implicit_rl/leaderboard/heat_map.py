"""A heat map as SVG: names of rows and columns, and a number in every cell."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import matplotlib.colors
import numpy as np

from implicit_rl.analysis import style

_CELL, _ROW, _SIDE, _TOP = 98, 26, 210, 46
# Colour-blind readers can distinguish blue and orange; the number and its sign repeat the colour.
_COLOURS = matplotlib.colors.LinearSegmentedColormap.from_list(
  'change', [style.COLOURS[1], '#F7F7F7', style.COLOURS[0]]
)
_STYLE = (
  '<style>.ground{fill:#fff}text{font:14px system-ui,sans-serif;fill:#1b1f24}'
  '.mark{font-weight:700}'
  '@media (prefers-color-scheme:dark){.ground{fill:#14171b}text{fill:#e6e9ec}}'
  'text.on-light{fill:#111}text.on-dark{fill:#fff}</style>'
)


def svg(
  values: np.ndarray,
  rows: Sequence[str],
  columns: Sequence[str],
  *,
  most: float,
  text: Callable[[float], str],
  strong: np.ndarray,
  described: str,
) -> str:
  """Draws values around 0: orange below, blue above; adapts to a light or dark page.

  Args:
    values: [R, C]; NaN leaves a cell empty.
    rows: R names.
    columns: C names; `_` breaks the line.
    most: the value from which on the colour is full.
    text: formats a cell's value.
    strong: [R, C] bool; such cells are bold and have a star.
    described: a description for screen readers.
  """
  width, height = _SIDE + _CELL * len(columns) + 4, _TOP + _ROW * len(rows) + 4
  parts = [
    f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    f'role="img" aria-label="{html.escape(described)}">{_STYLE}'
    f'<rect class="ground" width="{width}" height="{height}" rx="6"/>'
  ]
  for number, name in enumerate(columns):
    lines = _two_lines(name)
    for place, line in enumerate(lines):
      y = _TOP - 8 - 17 * (len(lines) - 1 - place)
      parts.append(_text(_SIDE + _CELL * (number + 0.5), y, line, 'middle'))
  for place, name in enumerate(rows):
    y = _TOP + _ROW * place
    parts.append(_text(_SIDE - 8, y + 18, name, 'end'))
    for number, value in enumerate(values[place]):
      if np.isfinite(value):
        parts.append(_cell(_SIDE + _CELL * number, y, value, most, text, strong[place, number]))
  return ''.join([*parts, '</svg>\n'])


def _cell(
  x: float, y: float, value: float, most: float, text: Callable[[float], str], strong: bool
) -> str:
  colour = _COLOURS(0.5 + 0.5 * float(np.clip(value / most, -1, 1)))
  light = np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5
  kind = f'on-{"light" if light else "dark"}' + ' mark' * bool(strong)
  return (
    f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_ROW - 2}" rx="3" '
    f'fill="{matplotlib.colors.to_hex(colour)}"/>'
    + _text(x + _CELL / 2, y + 18, text(value) + ' *' * bool(strong), 'middle', kind)
  )


def _two_lines(name: str) -> list[str]:
  words = name.split('_')
  splits = [[' '.join(words[:n]), ' '.join(words[n:])] for n in range(1, len(words))]
  return min(splits, key=lambda lines: max(map(len, lines)), default=words)


def _text(x: float, y: float, words: str, anchor: str, kind: str = '') -> str:
  mark = f' class="{kind}"' if kind else ''
  return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{mark}>{html.escape(words)}</text>'

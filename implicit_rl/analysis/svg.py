"""Charts as inline SVG, with the page's colours for light and dark."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.ticker
import numpy as np
from PIL import Image

from implicit_rl.analysis import style

WIDTH, HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 12, 44


class Line(NamedTuple):
  """One line of a chart.

  Attributes:
    name: of the variant; shown when the pointer is on the line.
    position: of the variant; determines colour and dashes.
    x: [T].
    mean: [T]; NaN leaves a gap.
    low: [T], lower end of the band.
    high: [T], its upper end.
  """

  name: str
  position: int
  x: np.ndarray
  mean: np.ndarray
  low: np.ndarray
  high: np.ndarray


def line_chart(
  lines: Sequence[Line], *, x: str, y: str, log: bool = False, from_zero: bool = False
) -> str:
  """Returns a chart with axes, grid, bands and lines.

  Args:
    lines: drawn in this order.
    x: label of the horizontal axis.
    y: label of the vertical axis.
    log: whether the vertical axis is logarithmic if values span more than a factor of 30; other
      than positive values are then left out.
    from_zero: whether the vertical axis starts at 0.
  """
  xs = np.concatenate([line.x for line in lines])
  ys = np.concatenate([np.r_[line.mean, line.low, line.high] for line in lines])
  ys = ys[np.isfinite(ys)]
  positive = ys[ys > 0]
  log = log and positive.size > 0 and float(positive.max() / positive.min()) > 30
  ys = positive if log else ys
  left, right = _span(float(np.min(xs, initial=0)), float(np.max(xs, initial=0)))
  low, high = (float(ys.min()), float(ys.max())) if ys.size else (0.1, 1.0)
  if from_zero:
    low = min(low, 0.0)
  ticks_y, low, high = _ticks(low, high, log)
  ticks_x = [tick for tick in _ticks(left, right, False)[0] if left <= tick <= right]
  plot_x = lambda v: _LEFT + (v - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)
  height = lambda v: np.log10(v) if log else v

  def plot_y(value: float) -> float:
    share = (height(value) - height(low)) / (height(high) - height(low))
    return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

  parts = [_open(f'{y} against {x}')]
  for tick in ticks_y:
    parts.append(_rule(_LEFT, plot_y(tick), WIDTH - _RIGHT, plot_y(tick)))
    parts.append(_text(_LEFT - 6, plot_y(tick) + 4, style.thousands(tick), 'end'))
  for tick in ticks_x:
    parts.append(_text(plot_x(tick), HEIGHT - _BOTTOM + 17, style.thousands(tick), 'middle'))
  parts += _axis_labels(x, y)
  for line in lines:
    parts.append(_band(line, plot_x, plot_y, log))
  for line in lines:
    parts.append(_path(line, plot_x, plot_y, log))
  return ''.join([*parts, '</svg>'])


def heat_map(values: np.ndarray, updates: Sequence[float], floor: float) -> str:
  """Returns a spectrum over training: columns are iterations, rows singular values, largest on top.

  Args:
    values: [m, T], σᵢ / σ₁.
    updates: [T]; labels the ends of the horizontal axis.
    floor: value of the darkest colour, also for smaller values; the lightest is 1.
  """
  scaled = 1 - np.log10(np.clip(np.nan_to_num(values), floor, 1)) / math.log10(floor)
  colours = matplotlib.colormaps['cividis'](scaled, bytes=True)[..., :3]
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(colours)).save(buffer, 'PNG')
  data = base64.b64encode(buffer.getvalue()).decode()
  width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
  low = math.log10(floor)
  parts = [
    _open('singular values over training'),
    f'<image x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}" preserveAspectRatio="none" '
    f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>',
    _text(_LEFT - 6, _TOP + 10, '1', 'end'),
    _text(_LEFT - 6, HEIGHT - _BOTTOM, str(len(values)), 'end'),
    _text(_LEFT, HEIGHT - _BOTTOM + 17, style.thousands(updates[0]), 'start'),
    _text(WIDTH - _RIGHT, HEIGHT - _BOTTOM + 17, style.thousands(updates[-1]), 'end'),
    *_axis_labels(f'gradient updates; dark 1e{low:g}, bright 1', 'index i of σᵢ / σ₁'),
  ]
  return ''.join([*parts, '</svg>'])


def _open(described: str) -> str:
  return (
    f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
    f'aria-label="{html.escape(described)}">'
  )


def _span(low: float, high: float) -> tuple[float, float]:
  return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(low: float, high: float, log: bool) -> tuple[list[float], float, float]:
  """Returns tick marks, and the axis' ends, which are the outermost ticks if these are near."""
  if log:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last += first == last
    step = max(1, math.ceil((last - first) / 5))
    return [10.0**power for power in range(first, last + 1, step)], 10.0**first, 10.0**last
  low, high = _span(low, high)
  ticks = [float(tick) for tick in matplotlib.ticker.MaxNLocator(5).tick_values(low, high)]
  return ticks, min(low, ticks[0]), max(high, ticks[-1])


def _text(x: float, y: float, words: str, anchor: str, turn: str = '') -> str:
  return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{html.escape(words)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
  return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _axis_labels(x: str, y: str) -> list[str]:
  middle = (_TOP + HEIGHT - _BOTTOM) / 2
  return [
    _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x, 'middle'),
    _text(14, middle, y, 'middle', f' transform="rotate(-90 14 {middle:.1f})"'),
  ]


def _visible(values: np.ndarray, log: bool) -> np.ndarray:
  return np.isfinite(values) & ((values > 0) | (not log))


def _path(line: Line, plot_x, plot_y, log: bool) -> str:
  seen = _visible(line.mean, log)
  pieces, pen = [], 'M'
  for x, value, drawn in zip(line.x, line.mean, seen, strict=True):
    if drawn:
      pieces.append(f'{pen}{plot_x(x):.1f} {plot_y(value):.1f}')
    pen = 'L' if drawn else 'M'
  look = f'class="line s{line.position % len(style.COLOURS)} d{line.position % 4}"'
  name = f'<title>{html.escape(line.name)}</title>'
  if int(seen.sum()) == 1:
    at = int(np.flatnonzero(seen)[0])
    centre = f'cx="{plot_x(line.x[at]):.1f}" cy="{plot_y(line.mean[at]):.1f}"'
    return f'<circle {look} {centre} r="3.5">{name}</circle>'
  return f'<path {look} d="{"".join(pieces)}">{name}</path>'


def _band(line: Line, plot_x, plot_y, log: bool) -> str:
  seen = np.flatnonzero(_visible(line.low, log) & _visible(line.high, log))
  if len(seen) < 2 or np.array_equal(line.low[seen], line.high[seen]):
    return ''
  there = [f'{plot_x(line.x[i]):.1f},{plot_y(line.high[i]):.1f}' for i in seen]
  back = [f'{plot_x(line.x[i]):.1f},{plot_y(line.low[i]):.1f}' for i in seen[::-1]]
  points = ' '.join([*there, *back])
  return f'<polygon class="band s{line.position % len(style.COLOURS)}" points="{points}"/>'

"""The map's picture: where rank falls, compared with which control, and the penalty's effect.

Three blocks of heat maps: data × optimiser × clipping, then network × reward × backup, then the
penalty. A row of panels shows the same cells from left to right for different questions.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import SubFigure

from implicit_rl.gridworld import experiments, figures, rank_map
from implicit_rl.gridworld.config import FittedQConfig
from implicit_rl.gridworld.rank_map import RANK, Table

Gap = tuple[float, float]  # mean and standard error over seeds; the error may be NaN
_SHORT = {
  'random policy 10000': 'random policy',
  'near-optimal policy 10000': 'near-optimal policy',
  'free targets': 'free',
  'clipped targets': 'clipped',
  'distance_cost': 'cost',
}


class Panel(NamedTuple):
  """One heat map of a block.

  Attributes:
    title: the question that its numbers answer.
    value: mean and standard error of a cell.
    low: value at one end of the colours.
    high: value at the other end.
    colours: name of a Matplotlib colour map; all are safe for colour-blind readers.
    digits: decimals of the numbers.
    marked: whether × marks cells where a seed diverged.
    method: if given, shows the cell's neighbour with this method.
  """

  title: str
  value: Callable[[FittedQConfig], Gap]
  low: float
  high: float
  colours: str = 'RdBu'
  digits: int = 0
  marked: bool = False
  method: str = ''


class Block(NamedTuple):
  """Rows and columns of cells, the same in every panel.

  Attributes:
    title: heading.
    rows: choices by their label.
    columns: choices by their label.
    panels: left to right.
  """

  title: str
  rows: Mapping[str, Sequence[Mapping[str, Any]]]
  columns: Mapping[str, Sequence[Mapping[str, Any]]]
  panels: Sequence[Panel]


def draw(stem: pathlib.Path, table: Table) -> None:
  """Writes STEM.png and STEM.svg."""
  blocks = [_optimizers(table), _networks(table), _penalty(table)]
  blocks = [block for block in blocks if block.columns]  # No penalty, no such block.
  heights = [len(block.rows) + 4.5 for block in blocks]
  canvas = Canvas(figsize=(17, 0.30 * sum(heights) + 1.0), layout='constrained')
  seeds = len(next(iter(table.values())))
  canvas.suptitle(
    f'Where rank falls: {len(table)} cells × {seeds} seeds, '
    f'{experiments.MAP_UPDATES:,} gradient steps each. Mean over seeds; srank of Φ on all free '
    'cells (64 units).\nBold: the seedwise difference is over 2 standard errors from 0.   ×: at '
    'least one seed diverged.   nan: a seed’s values are not finite.   Grey: no number.',
    fontsize=12,
  )
  parts: Any = canvas.subfigures(len(blocks), 1, height_ratios=heights)
  for part, block in zip(parts, blocks, strict=True):
    _draw_block(part, block, table)
  figures.save(canvas, stem)


def _optimizers(table: Table) -> Block:
  data, optimizer, method, clip = experiments.GROUPS['data_optimizer_clipping']
  return Block(
    'Data × target clipping (rows), optimiser (columns)',
    {f'{_short(d)}, {_short(c)}': (data[d], clip[c]) for d in data for c in clip},
    {o: (optimizer[o], method['T=200']) for o in optimizer},
    _rank_panels(table),
  )


def _networks(table: Table) -> Block:
  data, activation, reward, backup, method = experiments.GROUPS['activation_reward_backup']
  return Block(
    'Data × activation × backup (rows), reward (columns); Adam 1e-3, free targets',
    {
      f'{_short(d)}, {a}, {b}': (data[d], activation[a], backup[b])
      for d in data
      for a in activation
      for b in backup
    },
    {_short(r): (reward[r], method['T=200']) for r in reward},
    _rank_panels(table),
  )


def _penalty(table: Table) -> Block:
  weight, data, method, clip = experiments.GROUPS['penalty']
  measured = {cell.penalty_weight for cell in table}
  weights = sorted(
    (name for name in weight if weight[name]['penalty_weight'] in measured),
    key=lambda name: weight[name]['penalty_weight'],
  )
  without = lambda c: dataclasses.replace(c, penalty_weight=0.0)
  change = lambda name, scale=1.0: (
    lambda c: tuple(scale * part for part in rank_map.paired(table, c, without(c), name))
  )
  control = experiments.control_of
  seeds = len(next(iter(table.values())))
  return Block(
    'Penalty L_p: a cell with it − the same cell without; data × target clipping × T (rows), '
    'weight (columns); Adam 1e-3',
    {
      f'{_short(d)}, {_short(c)}, {m}': (data[d], clip[c], method[m])
      for d in data
      for c in clip
      for m in ('T=10', 'T=200')
    },
    {f'{weight[name]["penalty_weight"]:g}': (weight[name],) for name in weights},
    (
      Panel('change of srank', change(RANK), -20, 20, marked=True),
      Panel(
        'srank − supervised twin’s\nwith the same penalty',
        lambda c: rank_map.paired(table, c, control(c, 'supervised'), RANK),
        -20,
        20,
        marked=True,
      ),
      Panel('change of dead units,\n% of 64', change('reference_dead_units', 100), 50, -50),
      Panel(f'change of diverged seeds\n(of {seeds})', change('diverged', seeds), 5, -5),
      Panel('change of return', change('eval_return'), -1, 1, digits=2),
      Panel('change of best return', change('best_return'), -1, 1, digits=2),
    ),
  )


def _rank_panels(table: Table) -> Sequence[Panel]:
  """Returns the panels of the first two blocks, for T = 200, and one for the T = 10 neighbours."""
  control = experiments.control_of
  against = lambda method, name: lambda c: rank_map.paired(table, c, control(c, method), name)
  seeds = len(next(iter(table.values())))
  diverged = lambda c: (seeds * rank_map.mean(table, c, 'diverged'), np.nan)
  twin = against('supervised', RANK)
  return (
    Panel(
      'where rank falls, T=200:\nsrank, end − start',
      lambda c: rank_map.fall(table, c),
      -40,
      40,
      marked=True,
    ),
    Panel('more than supervised, T=200:\nsrank − twin’s', twin, -20, 20, marked=True),
    Panel('more than supervised, T=10:\nsrank − twin’s', twin, -20, 20, marked=True, method='T=10'),
    Panel(
      'more than gradient-matched:\nsrank, T=200 − T=10',
      against('T=10', RANK),
      -20,
      20,
      marked=True,
    ),
    Panel(f'where values diverge, T=200:\nseeds of {seeds}', diverged, 0, seeds, 'Purples'),
    Panel(
      'return, T=200:\n− supervised twin’s',
      against('supervised', 'eval_return'),
      -1,
      1,
      digits=2,
    ),
  )


def _draw_block(part: SubFigure, block: Block, table: Table) -> None:
  part.suptitle(block.title, fontsize=12, fontweight='bold', x=0.01, ha='left')
  axes = part.subplots(1, len(block.panels), sharey=True)
  cells = [
    [experiments.map_config(*row, *column) for column in block.columns.values()]
    for row in block.rows.values()
  ]
  for axis, panel in zip(axes, block.panels, strict=True):
    _draw_panel(axis, panel, cells, table)
    axis.set_xticks(range(len(block.columns)), list(block.columns), rotation=25, ha='right')
    axis.set_yticks(range(len(block.rows)), list(block.rows))
    axis.tick_params(labelsize=9.5, length=0)


def _draw_panel(
  axis: Axes, panel: Panel, cells: Sequence[Sequence[FittedQConfig]], table: Table
) -> None:
  """Writes each cell's number on its colour."""
  if panel.method:
    cells = [[experiments.control_of(cell, panel.method) for cell in line] for line in cells]
  gaps = [[panel.value(cell) for cell in line] for line in cells]
  numbers = np.array([[mean for mean, _ in line] for line in gaps])
  # A range from high to low reverses the colours: red then means more.
  reverse = panel.low > panel.high
  colours = mpl.colormaps[panel.colours + ('_r' if reverse else '')].with_extremes(bad='0.85')
  limits = mpl.colors.Normalize(min(panel.low, panel.high), max(panel.low, panel.high))
  axis.imshow(np.ma.masked_invalid(numbers), cmap=colours, norm=limits, aspect='auto')
  for i, line in enumerate(cells):
    for j, cell in enumerate(line):
      if cell not in table:
        continue
      mean, error = gaps[i][j]
      text = 'nan' if np.isnan(mean) else f'{mean:.{panel.digits}f}'.replace('-', '−')
      if float(text.replace('−', '-')) == 0:  # No "−0.00".
        text = text.replace('−', '')
      red, green, blue, _ = colours(limits(0.0 if np.isnan(mean) else mean))
      dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.45 and not np.isnan(mean)
      axis.text(
        j,
        i,
        text + (' ×' if panel.marked and rank_map.mean(table, cell, 'diverged') > 0 else ''),
        ha='center',
        va='center',
        fontsize=9.5,
        color='white' if dark else 'black',
        fontweight='bold' if abs(mean) > 2 * error else 'normal',
      )
  axis.set_title(panel.title, fontsize=10.5)
  for side in axis.spines.values():
    side.set_visible(False)


def _short(name: str) -> str:
  return _SHORT.get(name, name)

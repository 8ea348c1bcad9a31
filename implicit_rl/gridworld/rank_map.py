"""The map: every cell's outcome in one table, and one picture of where rank falls, and why.

Each cell is compared with two controls at the same number of gradient steps: its supervised twin
(same data, optimiser, network; targets Q*) and T = 10 in place of T = 200.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from implicit_rl.gridworld import experiments, figures, runs
from implicit_rl.gridworld.config import FittedQConfig

DIVERGED = 2.0  # a run diverged if a Q-value passes this many times the largest attainable value
Outcome = Mapping[str, float]
Table = Mapping[FittedQConfig, Sequence[Outcome]]
_LAST = (
  'eval_return q_mean q_solution_mean q_error q_fit_error td_error bellman_error dead_units '
  'reference_dead_units sigma_max sigma_min reference_sigma_max reference_sigma_min '
  'eigen_srank reference_stable_rank'
).split()


def outcome(config: FittedQConfig, rows: runs.Rows) -> dict[str, float]:
  """Condenses one run: ranks at start, peak and end, the last of the rest, whether it diverged."""
  result: dict[str, float] = {}
  for name in ('srank', 'reference_srank'):
    values = rows[name].astype(np.float64)
    known = values[~np.isnan(values)]
    result[f'{name}_start'] = float(known[0]) if len(known) else np.nan
    result[f'{name}_peak'] = float(known.max()) if len(known) else np.nan
    result[f'{name}_end'] = float(values[-1])
  result['best_return'] = float(np.nanmax(rows['eval_return']))
  result.update({name: float(rows[name][-1]) for name in _LAST})
  # Rewards are at most 1 and costs are bounded by 2 or 3 start distances, rarely lived in.
  largest = (1.0 + config.temperature * np.log(5)) / (1.0 - config.discount)
  size = np.maximum(np.abs(rows['q_max']), np.abs(rows['q_mean']))
  result['diverged'] = float(not (size <= DIVERGED * largest).all())  # NaN counts as diverged.
  return result


def read_table(directory: pathlib.Path, seeds: Sequence[int]) -> Table:
  """Reads the outcomes of every cell whose seeds are all there."""
  table = {}
  for config in experiments.map_cells():
    if all(runs.path_of(directory, config, seed).exists() for seed in seeds):
      table[config] = [outcome(config, runs.load(directory, config, seed)) for seed in seeds]
  return table


def write_csv(path: pathlib.Path, table: Table, seeds: Sequence[int]) -> None:
  """Writes one line for each cell and seed: the group, the configuration, the outcome."""
  groups = experiments.map_cells()
  fields = [field.name for field in dataclasses.fields(FittedQConfig)]
  outcomes = list(next(iter(table.values()))[0])
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['group', 'seed', *fields, *outcomes])
    for config, results in table.items():
      settings = [getattr(config, name) for name in fields]
      for seed, result in zip(seeds, results, strict=True):
        numbers = [f'{result[name]:.6g}' for name in outcomes]
        writer.writerow([groups[config], seed, *settings, *numbers])


def mean(table: Table, config: FittedQConfig, name: str) -> float:
  """Returns the mean over seeds, NaN for a missing cell or a NaN seed."""
  if config not in table:
    return np.nan
  return float(np.mean([result[name] for result in table[config]]))


def difference(table: Table, config: FittedQConfig, other: FittedQConfig, name: str) -> float:
  """Returns the mean over seeds of `config` minus `other` (worlds and data are the same)."""
  return mean(table, config, name) - mean(table, other, name)


def paired(
  table: Table, config: FittedQConfig, other: FittedQConfig, name: str
) -> tuple[float, float]:
  """Returns mean and standard error of the seedwise difference; NaN where a cell is missing."""
  if config not in table or other not in table:
    return np.nan, np.nan
  gaps = [a[name] - b[name] for a, b in zip(table[config], table[other], strict=True)]
  return float(np.mean(gaps)), float(np.std(gaps, ddof=1) / np.sqrt(len(gaps)))


def draw(stem: pathlib.Path, table: Table) -> None:
  """Draws the map: optimiser panels above, network and reward panels, penalty panels below."""
  canvas = Canvas(figsize=(24, 19), layout='constrained')
  grid = canvas.subplots(3, 5, height_ratios=(6, 5, 6))
  _draw_optimizers(grid[0], table)
  _draw_networks(grid[1], table)
  _draw_penalty(grid[2], table)
  seeds = len(next(iter(table.values())))
  canvas.suptitle(
    f'Where rank falls: {len(table)} cells, {seeds} seeds, {experiments.MAP_UPDATES} gradient '
    'steps each; srank on all free cells. × marks cells where at least one seed diverged.',
    fontsize=14,
  )
  figures.save(canvas, stem)


def _cell(*choices: Mapping[str, object]) -> FittedQConfig:
  return experiments.map_config(*choices)


def _rank_panels(table: Table) -> Sequence[tuple[str, Callable[[FittedQConfig], float], float]]:
  """What the first two rows show of the T = 200 cell: title, value, colour range."""
  rank = 'reference_srank_end'
  control = experiments.control_of
  return (
    (
      'srank, end - start (T=200)',
      lambda c: mean(table, c, rank) - mean(table, c, 'reference_srank_start'),
      30.0,
    ),
    (
      'srank, T=200 - supervised',
      lambda c: difference(table, c, control(c, 'supervised'), rank),
      20.0,
    ),
    ('srank, T=200 - T=10', lambda c: difference(table, c, control(c, 'T=10'), rank), 20.0),
    ('return (T=200)', lambda c: mean(table, c, 'eval_return'), 1.0),
    (
      'return, T=200 - supervised',
      lambda c: difference(table, c, control(c, 'supervised'), 'eval_return'),
      1.0,
    ),
  )


def _draw_optimizers(axes: Sequence[Axes], table: Table) -> None:
  data, optimizer, method, clip = experiments.GROUPS['data_optimizer_clipping']
  rows = list(data)
  columns = {f'{o}, {c}': (optimizer[o], clip[c]) for o in optimizer for c in clip}
  cells = [[_cell(data[r], *columns[c], method['T=200']) for c in columns] for r in rows]
  for axis, (title, value, limit) in zip(axes, _rank_panels(table), strict=True):
    _heatmap(axis, title, rows, list(columns), cells, table, value, limit)


def _draw_networks(axes: Sequence[Axes], table: Table) -> None:
  data, activation, reward, backup, method = experiments.GROUPS['activation_reward_backup']
  rows = {f'{d}, {a}': (data[d], activation[a]) for d in data for a in activation}
  columns = {f'{r}, {b}': (reward[r], backup[b]) for r in reward for b in backup}
  cells = [[_cell(*rows[r], *columns[c], method['T=200']) for c in columns] for r in rows]
  for axis, (title, value, limit) in zip(axes, _rank_panels(table), strict=True):
    _heatmap(axis, title, list(rows), list(columns), cells, table, value, limit)


def _draw_penalty(axes: Sequence[Axes], table: Table) -> None:
  data, method, clip, weight = experiments.GROUPS['penalty']
  bootstrapped = [name for name in method if name != 'supervised']
  rows = {f'{d}, {c}': (data[d], clip[c]) for d in data for c in clip}
  columns = {f'{m}, {w}': (method[m], weight[w]) for m in bootstrapped for w in weight}
  cells = [[_cell(*rows[r], *columns[c]) for c in columns] for r in rows]
  without = lambda c: dataclasses.replace(c, penalty_weight=0.0)
  change = lambda name: lambda c: difference(table, c, without(c), name)
  panels = (
    ('penalty: change of srank', change('reference_srank_end'), 20.0),
    ('penalty: change of final return', change('eval_return'), 1.0),
    ('penalty: change of best return', change('best_return'), 1.0),
    ('penalty: change of the share of diverged seeds', change('diverged'), 1.0),
    ('penalty: change of dead units (share)', change('reference_dead_units'), 0.5),
  )
  for axis, (title, value, limit) in zip(axes, panels, strict=True):
    _heatmap(axis, title, list(rows), list(columns), cells, table, value, limit)


def _heatmap(
  axis: Axes,
  title: str,
  rows: Sequence[str],
  columns: Sequence[str],
  cells: Sequence[Sequence[FittedQConfig]],
  table: Table,
  value: Callable[[FittedQConfig], float],
  limit: float,
) -> None:
  """Draws numbers on colours; red is lower, blue is higher, × a diverged cell, blank unknown."""
  numbers = np.array([[value(cell) for cell in line] for line in cells])
  axis.imshow(numbers, cmap='RdBu', vmin=-limit, vmax=limit, aspect='auto')
  for i, line in enumerate(cells):
    for j, cell in enumerate(line):
      mark = ' ×' if mean(table, cell, 'diverged') > 0 else ''
      text = 'nan' if np.isnan(numbers[i, j]) else f'{numbers[i, j]:.2g}'
      if cell not in table:
        text = ''
      axis.text(j, i, text + mark, ha='center', va='center', fontsize=8)
  axis.set_xticks(range(len(columns)), columns, rotation=60, ha='right', fontsize=8)
  axis.set_yticks(range(len(rows)), rows, fontsize=8)
  axis.set_title(title, fontsize=11)


def counts(table: Table) -> list[str]:
  """Says in lines how many bootstrapped cells show what the paper claims, and how many do not."""
  control = experiments.control_of
  lines = []
  plain = [c for c in table if c.target == 'bootstrap' and not c.penalty_weight]
  penalised = [c for c in table if c.penalty_weight and c.target == 'bootstrap']

  def tally(text: str, cells: Sequence[FittedQConfig], gap: Callable) -> None:
    known = [g for g in (gap(c) for c in cells) if not np.isnan(g[0])]
    below = sum(m < -2 * e for m, e in known)
    above = sum(m > 2 * e for m, e in known)
    lines.append(
      f'{text}: lower by over 2 standard errors in {below}, higher in {above}, '
      f'neither in {len(known) - below - above} of {len(known)} cells'
    )

  rank = 'reference_srank_end'
  stable = [c for c in plain if mean(table, c, 'diverged') == 0]
  versus = lambda method, name: lambda c: paired(table, c, control(c, method), name)
  lines.append(
    f'bootstrapped cells without penalty: {len(plain)}, some seed diverged in '
    f'{len(plain) - len(stable)}'
  )
  many = [c for c in plain if c.steps == 200]
  tally('srank against the supervised twin', plain, versus('supervised', rank))
  tally('the same, no seed diverged', stable, versus('supervised', rank))
  tally('srank, T=200 against T=10 at equal steps', many, versus('T=10', rank))
  tally('the same, no seed diverged', [c for c in many if c in stable], versus('T=10', rank))
  tally('return against the supervised twin', plain, versus('supervised', 'eval_return'))
  without = lambda c: dataclasses.replace(c, penalty_weight=0.0)
  for name in (rank, 'eval_return'):
    tally(
      f'penalty: change of {name}', penalised, lambda c, n=name: paired(table, c, without(c), n)
    )
  return lines

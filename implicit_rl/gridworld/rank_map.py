"""The map's numbers: a table of every cell's outcome, comparisons with controls, and counts.

Each cell is compared with two controls at the same number of gradient steps: its supervised twin
(same data, optimiser, network; targets Q*) and T = 10 in place of T = 200.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from implicit_rl.gridworld import experiments, runs
from implicit_rl.gridworld.config import FittedQConfig

RANK = 'reference_srank_end'  # the rank that the map compares
DIVERGED = 2.0  # a run diverged if a Q-value exceeds this many times the largest attainable value
Outcome = Mapping[str, float]
Table = Mapping[FittedQConfig, Sequence[Outcome]]
_LAST = (
  'eval_return q_mean q_solution_mean q_error q_fit_error td_error bellman_error dead_units '
  'reference_dead_units sigma_max sigma_min reference_sigma_max reference_sigma_min eigen_srank'
).split()


def outcome(config: FittedQConfig, rows: runs.Rows) -> dict[str, float]:
  """Summarises one run: ranks at start, peak and end, other last measures, and divergence."""
  result: dict[str, float] = {}
  for name in ('srank', 'reference_srank'):
    values = rows[name].astype(np.float64)
    known = values[~np.isnan(values)]
    result[f'{name}_start'] = float(known[0]) if len(known) else np.nan
    result[f'{name}_peak'] = float(known.max()) if len(known) else np.nan
    result[f'{name}_end'] = float(values[-1])
  result['best_return'] = float(np.nanmax(rows['eval_return']))
  result.update({name: float(rows[name][-1]) for name in _LAST})
  # The largest sum of rewards of 1. Costs reach 2 or 3, but not as the mean over all cells.
  largest = (1.0 + config.temperature * np.log(5)) / (1.0 - config.discount)
  size = np.maximum(np.abs(rows['q_max']), np.abs(rows['q_mean']))
  result['diverged'] = float(not (size <= DIVERGED * largest).all())  # NaN counts as diverged.
  return result


def read_runs(directory: pathlib.Path, seeds: Sequence[int]) -> Table:
  """Reads the outcomes of every cell whose seeds are complete."""
  table = {}
  for config in experiments.map_cells():
    if all(runs.path_of(directory, config, seed).exists() for seed in seeds):
      table[config] = [outcome(config, runs.load(directory, config, seed)) for seed in seeds]
  return table


def _settings() -> list[str]:
  """Names of the fields in which cells of the map differ."""
  cells = list(experiments.map_cells())
  names = [field.name for field in dataclasses.fields(FittedQConfig)]
  derived = ('iterations', 'log_every')  # from steps
  return [n for n in names if n not in derived and len({getattr(c, n) for c in cells}) > 1]


def write_csv(path: pathlib.Path, table: Table, seeds: Sequence[int]) -> None:
  """Writes one line for each cell and seed: the group, the settings that vary, the outcome."""
  groups = experiments.map_cells()
  settings = _settings()
  outcomes = list(next(iter(table.values()))[0])
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['group', 'seed', *settings, *outcomes])
    for config, results in table.items():
      chosen = [getattr(config, name) for name in settings]
      for seed, result in zip(seeds, results, strict=True):
        numbers = [f'{result[name]:.3g}' for name in outcomes]
        writer.writerow([groups[config], seed, *chosen, *numbers])


def read_csv(path: pathlib.Path) -> Table:
  """Reads a table of `write_csv`.

  Raises:
    ValueError: if the file is not a table of the map.
  """
  table: dict[FittedQConfig, list[Outcome]] = {}
  settings = _settings()
  with path.open(newline='') as file:
    reader = csv.DictReader(file)
    missing = {'group', 'seed', RANK, *settings} - set(reader.fieldnames or ())
    if missing:
      raise ValueError(f'{path} is not a table of the map: it lacks the columns {sorted(missing)}.')
    for line in reader:
      fields = {name: _parsed(line[name], getattr(experiments.BASE, name)) for name in settings}
      numbers = {n: float(v) for n, v in line.items() if n not in ('group', 'seed', *settings)}
      table.setdefault(experiments.map_config(fields), []).append(numbers)
  return table


def _parsed(text: str, like: Any) -> Any:
  return text == 'True' if isinstance(like, bool) else type(like)(text)


def mean(table: Table, config: FittedQConfig, name: str) -> float:
  """Returns the mean over seeds, NaN for a missing cell or a NaN seed."""
  if config not in table:
    return np.nan
  return float(np.mean([result[name] for result in table[config]]))


def paired(
  table: Table, config: FittedQConfig, other: FittedQConfig, name: str
) -> tuple[float, float]:
  """Returns mean and standard error of `config` minus `other` over seeds with equal data.

  Both are NaN if a cell is missing or a seed has no number.
  """
  if config not in table or other not in table:
    return np.nan, np.nan
  return _mean_and_error(
    [a[name] - b[name] for a, b in zip(table[config], table[other], strict=True)]
  )


def fall(table: Table, config: FittedQConfig) -> tuple[float, float]:
  """Returns mean and standard error over seeds of srank's change from start to end."""
  if config not in table:
    return np.nan, np.nan
  return _mean_and_error([r[RANK] - r['reference_srank_start'] for r in table[config]])


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
  error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
  return float(np.mean(values)), float(error)


def describe(config: FittedQConfig) -> str:
  """Names a cell by its differences from the base."""
  base = experiments.BASE
  names = [n for n in _settings() if getattr(config, n) != getattr(base, n)]
  return ', '.join(f'{n}={getattr(config, n)}' for n in names) or 'base'


def counts(table: Table) -> list[str]:
  """Returns lines that count the bootstrapped cells with and without the paper's effects."""
  control = experiments.control_of
  plain = [c for c in table if c.target == 'bootstrap' and not c.penalty_weight]
  diverged = {c for c in table if mean(table, c, 'diverged') > 0}
  stable = [c for c in plain if c not in diverged]
  many = [c for c in plain if c.steps > 10]
  seeds = len(next(iter(table.values())))
  lines = [
    f'{len(table)} cells, {seeds} seeds; "lower", "higher": by over 2 standard errors of the '
    'seedwise difference',
    f'bootstrapped cells without penalty: {len(plain)}; some seed diverged in '
    f'{len(plain) - len(stable)}',
  ]

  def tally(text: str, cells: Sequence[FittedQConfig], gap: Callable) -> None:
    known = [g for g in (gap(c) for c in cells) if not np.isnan(g[0])]
    below = sum(m < -2 * e for m, e in known)
    above = sum(m > 2 * e for m, e in known)
    lines.append(
      f'{text}: lower {below}, higher {above}, neither {len(known) - below - above} of '
      f'{len(known)} cells'
    )

  def split(text: str, cells: Sequence[FittedQConfig], gap: Callable) -> None:
    tally(f'{text}, no seed diverged', [c for c in cells if c not in diverged], gap)
    tally(f'{text}, some seed diverged', [c for c in cells if c in diverged], gap)

  versus = lambda method, name: lambda c: paired(table, c, control(c, method), name)
  split('srank, end against start', plain, lambda c: fall(table, c))
  split('srank against the supervised twin', plain, versus('supervised', RANK))
  split('srank, T = 50 or 200 against T = 10', many, versus('T=10', RANK))
  split('return against the supervised twin', plain, versus('supervised', 'eval_return'))
  split('return, T = 50 or 200 against T = 10', many, versus('T=10', 'eval_return'))
  below = [c for c in plain if _lower(versus('supervised', RANK)(c))]
  lines.append(f'srank lower than the supervised twin: {len(below)} cells')
  lines += [f'  {describe(c)}{" (diverged)" if c in diverged else ""}' for c in below]
  for name, clipped in (('free', False), ('clipped', True)):
    cells = [c for c in plain if c.clip_targets == clipped]
    lines.append(
      f'{name} targets: some seed diverged in {sum(c in diverged for c in cells)} of {len(cells)} '
      f'cells, srank lower than the supervised twin in {sum(c in below for c in cells)}'
    )
  joint = [c for c in many if all(_lower(g) for g in _gaps(table, c))]
  lines.append(
    f'T = 50 or 200 with srank lower than at the start, than the supervised twin and than T = 10: '
    f'{len(joint)} of {len(many)}, of which diverged {sum(c in diverged for c in joint)}'
  )
  lines += [f'  {describe(c)}{" (diverged)" if c in diverged else ""}' for c in joint]
  lines.append(_correlation(table, stable))
  without = lambda c: dataclasses.replace(c, penalty_weight=0.0)
  penalised = [c for c in table if c.penalty_weight and c.target == 'bootstrap']
  for weight in sorted({c.penalty_weight for c in penalised}):
    cells = [c for c in penalised if c.penalty_weight == weight]
    for name in (RANK, 'eval_return', 'best_return', 'diverged'):
      tally(
        f'penalty {weight:g}: change of {name}',
        cells,
        lambda c, n=name: paired(table, c, without(c), n),
      )
  supervised = [c for c in table if c.penalty_weight and c.target == 'optimal']
  tally(
    'penalty on supervised twins: change of srank',
    supervised,
    lambda c: paired(table, c, without(c), RANK),
  )
  return lines


def _gaps(table: Table, config: FittedQConfig) -> list[tuple[float, float]]:
  control = experiments.control_of
  others = [control(config, method) for method in ('supervised', 'T=10')]
  return [fall(table, config), *(paired(table, config, other, RANK) for other in others)]


def _lower(gap: tuple[float, float]) -> bool:
  return gap[0] < -2 * gap[1]  # False for NaN.


def _correlation(table: Table, cells: Sequence[FittedQConfig]) -> str:
  """Returns a line on whether cells that lose more rank than their twin also lose more return."""
  twin = lambda c: experiments.control_of(c, 'supervised')
  gaps = [[paired(table, c, twin(c), name)[0] for name in (RANK, 'eval_return')] for c in cells]
  known = np.array([g for g in gaps if not np.isnan(g).any()]).reshape(-1, 2)
  if len(known) < 3:
    return 'too few cells to correlate rank with return'
  result = stats.spearmanr(known[:, 0], known[:, 1])
  return (
    'Spearman correlation over undiverged cells of srank minus twin with return minus twin: '
    f'{result.statistic:+.2f} ({len(known)} cells)'
  )

"""Rows, tables and figures of the offline MinAtar experiments, from finished runs or from CSV."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from implicit_rl import local_runs, metrics_log
from implicit_rl.theory import output

Row = dict[str, Any]
SETTING = 'game agent penalty seed fraction learning_rate width target_period'.split()
MEASURED = (
  'updates srank eval_return td_error q_mean q_max sigma_max sigma_min dead_units feature_norm '
  'stable_rank effective_rank numerical_rank loss eval_return_std eval_episodes updates_per_second'
).split()
NAMES = {
  'dqn': 'DQN',
  'rainbow': 'Rainbow',
  'cql': 'CQL',
  'fqe': 'FQE',
  'monte_carlo': 'Monte Carlo',
}
LABELS = {
  'srank': 'srank',
  'eval_return': 'return of an episode',
  'td_error': 'TD error (RMS)',
}
_COLOURS = (output.BLUE, output.RED, output.GREEN, output.PURPLE, output.ORANGE, output.SKY)
_STYLES = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))


def rows_of(setting: Mapping[str, Any], job: local_runs.Job) -> list[Row]:
  """The rows of a run: its setting, what it measured, the commit; [] unless it is finished."""
  if job.done < job.iterations:
    return []
  start = json.loads((job.base_dir / 'run.json').read_text())['starts'][0]
  plain = {name: setting[name] for name in SETTING} | {'penalty': int(setting['penalty'])}
  return [
    {**plain, **{name: row[name] for name in MEASURED}, 'revision': str(start['git_revision'])[:7]}
    for row in metrics_log.read(job.base_dir / 'metrics.jsonl')
  ]


def read(path: pathlib.Path) -> list[Row]:
  """The rows of a CSV file; what is empty becomes NaN."""
  text = ('game', 'agent', 'revision')
  with path.open(newline='') as file:
    return [
      {name: value if name in text else float(value or 'nan') for name, value in row.items()}
      for row in csv.DictReader(file)
    ]


def select(rows: Iterable[Row], **setting: Any) -> list[Row]:
  """The rows that have these settings."""
  return [row for row in rows if all(row[name] == value for name, value in setting.items())]


def curves(rows: Sequence[Row], metric: str) -> tuple[np.ndarray, np.ndarray]:
  """Updates [T] and the values [seeds, T] of rows that differ by seed and time alone.

  Raises:
    ValueError: if the seeds were not measured at the same updates.
  """
  seeds = sorted({row['seed'] for row in rows})
  runs = [sorted(select(rows, seed=seed), key=lambda row: row['updates']) for seed in seeds]
  updates = [[row['updates'] for row in run] for run in runs]
  if any(times != updates[0] for times in updates):
    raise ValueError('minatar_offline: runs that differ by seed were measured at other updates.')
  return np.array(updates[0]), np.array([[row[metric] for row in run] for run in runs])


_COLUMNS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
  'srank first': ('srank', lambda values: values[:, 0]),
  'srank least': ('srank', lambda values: values.min(1)),
  'srank last': ('srank', lambda values: values[:, -1]),
  'return best': ('eval_return', lambda values: values.max(1)),
  'return last': ('eval_return', lambda values: values[:, -1]),
  'TD error last': ('td_error', lambda values: values[:, -1]),
  'mean Q last': ('q_mean', lambda values: values[:, -1]),
  'σ_max last': ('sigma_max', lambda values: values[:, -1]),
  'dead units last': ('dead_units', lambda values: values[:, -1]),
}


def _table(groups: Mapping[Sequence[str], Sequence[Row]], heads: Sequence[str]) -> str:
  """A Markdown table: a line a group, mean ± sample standard deviation over its seeds."""
  lines = [f'| {" | ".join([*heads, *_COLUMNS])} |', '|' + '---|' * (len(heads) + len(_COLUMNS))]
  for names, rows in groups.items():
    cells = [spread(take(curves(rows, metric)[1])) for metric, take in _COLUMNS.values()]
    lines.append(f'| {" | ".join([*names, *cells])} |')
  return '\n'.join(lines)


def spread(values: np.ndarray) -> str:
  """Mean ± sample standard deviation [seeds], three significant digits."""
  text = f'{values.mean():.3g}' if abs(values.mean()) < 1000 else f'{values.mean():.0f}'
  return f'{text} ± {values.std(ddof=1):.2g}' if len(values) > 1 else text


def search_table(rows: Sequence[Row]) -> str:
  """What each setting of the search did."""
  groups: dict[Sequence[str], list[Row]] = {}
  for row in rows:
    setting = (f'{row["fraction"]:.3g}', f'{row["learning_rate"]:.3g}', f'{row["width"]:.0f}')
    key = (row['game'], *setting, f'{row["target_period"]:.0f}')
    groups.setdefault(key, []).append(row)
  counted = {(*k, f'{max(row["updates"] for row in v):,.0f}'): v for k, v in groups.items()}
  return _table(counted, ('game', 'fraction', 'rate', 'width', 'target period', 'updates'))


def grid_table(rows: Sequence[Row], fraction: float) -> str:
  """What each agent did in each game on this fraction, with and without the penalty."""
  groups = {
    (game, f'{NAMES[agent]}{" + penalty" if penalty else ""}'): chosen
    for game in dict.fromkeys(row['game'] for row in rows)
    for agent in NAMES
    for penalty in (0, 1)
    if (chosen := select(rows, game=game, agent=agent, penalty=penalty, fraction=fraction))
  }
  return _table(groups, ('game', 'agent'))


def gains(rows: Sequence[Row], game: str, agent: str, fraction: float) -> dict[str, np.ndarray]:
  """With the penalty minus without, seed by seed [seeds]; empty where a half is missing."""
  pair = [
    select(rows, game=game, agent=agent, fraction=fraction, penalty=penalty) for penalty in (0, 1)
  ]
  seeds = [{row['seed'] for row in half} for half in pair]
  if not all(seeds) or seeds[0] != seeds[1]:
    return {}
  found = {}
  for name in ('srank last', 'return best', 'return last'):
    metric, take = _COLUMNS[name]
    without, with_ = (take(curves(half, metric)[1]) for half in pair)
    found[name] = with_ - without
    found[f'{name}, relative'] = (with_.mean() - without.mean()) / without.mean() * np.ones(1)
  return found


def gain_table(rows: Sequence[Row]) -> str:
  """What the penalty changes: seedwise differences, and the best return's change in per cent."""
  lines = [
    '| fraction | game | agent | srank last | return best | return last | return best, % |',
    '|---|---|---|---|---|---|---|',
  ]
  for fraction in dict.fromkeys(row['fraction'] for row in rows):
    for game in dict.fromkeys(row['game'] for row in rows):
      for agent, name in NAMES.items():
        if found := gains(rows, game, agent, fraction):
          cells = [spread(found[n]) for n in ('srank last', 'return best', 'return last')]
          cells.append(f'{100 * found["return best, relative"][0]:+.0f}')
          lines.append(f'| {" | ".join([f"{fraction:g}", game, name, *cells])} |')
  return '\n'.join(lines)


def tables(search: Sequence[Row], grid: Sequence[Row]) -> str:
  """All tables, as they stand in docs/minatar_offline.md."""
  parts = [search_table(search)]
  parts += [grid_table(grid, fraction) for fraction in dict.fromkeys(r['fraction'] for r in grid)]
  return '\n\n'.join([*parts, gain_table(grid)])


def _draw(
  path: pathlib.Path,
  title: str,
  columns: Sequence[str],
  metrics: Sequence[str],
  lines: Callable[[str], Mapping[str, Sequence[Row]]],
) -> None:
  """A panel for each metric (down) and column (across); `lines` names a column's lines."""
  columns = [column for column in columns if lines(column)]
  if not columns:
    return
  with output.figure(path, len(columns), title, rows=len(metrics), height=3.8) as axes:
    for i, (axis, metric) in enumerate(zip(axes, np.repeat(metrics, len(columns)), strict=True)):
      column = columns[i % len(columns)]
      for k, (name, rows) in enumerate(lines(column).items()):
        updates, values = curves(rows, str(metric))
        output.band(axis, updates / 1000, values, name, _COLOURS[k % 6], _STYLES[k % 7])
      axis.set_xlim(left=0)
      if metric != 'td_error':
        axis.set_ylim(bottom=0)
      if i < len(columns):
        axis.set_title(column)
        axis.legend()
      if i % len(columns) == 0:
        axis.set_ylabel(LABELS[str(metric)])
      if i >= len(columns) * (len(metrics) - 1):
        axis.set_xlabel('gradient updates (thousands)')


def draw_search(rows: Sequence[Row], path: pathlib.Path) -> None:
  """How srank and return went in every setting of the search."""

  def lines(game: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in select(rows, game=game):
      name = f'rate {row["learning_rate"]:g}, {100 * row["fraction"]:g}%'
      name += f', width {row["width"]:.0f}' if row['width'] != 128 else ''
      name += f', target {row["target_period"]:.0f}' if row['target_period'] != 1000 else ''
      found.setdefault(name, []).append(row)
    return found

  games = list(dict.fromkeys(row['game'] for row in rows))
  title = 'Search with DQN, one seed: where does srank fall?'
  _draw(path, title, games, ('srank', 'eval_return'), lines)


def draw_grid(rows: Sequence[Row], folder: pathlib.Path) -> None:
  """The figures of the grid; what has not run yet is left out."""
  games = list(dict.fromkeys(row['game'] for row in rows))

  def plain(agents: Sequence[str], fractions: Sequence[float]):
    def lines(game: str) -> dict[str, list[Row]]:
      return {
        f'{NAMES[agent]}, {100 * fraction:g}%': chosen
        for agent in agents
        for fraction in fractions
        if (chosen := select(rows, game=game, agent=agent, fraction=fraction, penalty=0))
      }

    return lines

  title = 'Offline DQN and CQL on 5% and 20% of a replay; mean ± s.d. over seeds'
  draws = (('srank', 'eval_return', 'td_error'), plain(('dqn', 'cql'), (0.05, 0.2)))
  _draw(folder / 'dqn_cql', title, games, *draws)
  title = 'With and without bootstrapping, 5% of a replay; mean ± s.d. over seeds'
  draws = (('srank', 'td_error'), plain(('dqn', 'rainbow', 'fqe', 'monte_carlo'), (0.05,)))
  _draw(folder / 'bootstrapping', title, games, *draws)
  for metric, what in (('srank', 'srank'), ('eval_return', 'return')):
    _draw_penalty(rows, folder / f'penalty_{what}', games, metric)
  _draw_gains(rows, folder / 'penalty_gain', games)


def _draw_penalty(
  rows: Sequence[Row], path: pathlib.Path, games: Sequence[str], metric: str
) -> None:
  agents = [agent for agent in NAMES if select(rows, agent=agent, fraction=0.05)]
  title = 'Without and with the penalty, 5% of a replay; mean ± s.d. over seeds'
  with output.figure(path, len(agents), title, rows=len(games), height=3.6) as axes:
    for i, axis in enumerate(axes):
      game, agent = games[i // len(agents)], agents[i % len(agents)]
      chosen = select(rows, game=game, agent=agent, fraction=0.05)
      for penalty, name in ((0, 'without'), (1, 'with penalty')):
        if half := select(chosen, penalty=penalty):
          updates, values = curves(half, metric)
          style = '--' if penalty else '-'
          output.band(axis, updates / 1000, values, name, _COLOURS[penalty], style)
      axis.set_xlim(left=0)
      axis.set_ylim(bottom=0)
      axis.set_title(f'{NAMES[agent]}, {game}')
      if not i:
        axis.legend()
      if i % len(agents) == 0:
        axis.set_ylabel(LABELS[metric])
      if i >= len(agents) * (len(games) - 1):
        axis.set_xlabel('gradient updates (thousands)')


def _draw_gains(rows: Sequence[Row], path: pathlib.Path, games: Sequence[str]) -> None:
  """The penalty's change of the best return: a bar for the mean, a point a seed."""
  fractions = list(dict.fromkeys(row['fraction'] for row in rows))
  title = 'What the penalty changes in the best return: bar: mean, points: seeds'
  with output.figure(path, len(fractions), title, height=4.6) as axes:
    for axis, fraction in zip(axes, fractions, strict=True):
      agents = [agent for agent in NAMES if select(rows, agent=agent, fraction=fraction)]
      for k, game in enumerate(games):
        for i, agent in enumerate(agents):
          if found := gains(rows, game, agent, fraction):
            change, x = found['return best'], i + (k - 1) * 0.26
            label = game if not i else None
            axis.bar(x, change.mean(), 0.24, color=_COLOURS[k], label=label, alpha=0.8)
            axis.plot(np.full(len(change), x), change, 'k.', ms=5)
      axis.axhline(0, color='k', lw=1)
      axis.set_xticks(range(len(agents)), [NAMES[agent].replace(' ', '\n') for agent in agents])
      axis.set_title(f'{100 * fraction:g}% of the replay')
    axes[0].set_ylabel('best return, with − without')
    axes[0].legend()

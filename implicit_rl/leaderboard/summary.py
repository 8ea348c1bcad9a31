"""Summarises the rows as tables: scores, measures relative to `none`, and correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from implicit_rl.analysis import reliable
from implicit_rl.leaderboard.spec import NONE, Spec

RANKS = ('srank', 'effective_rank', 'centred_effective_rank', 'pca_rank')
# Measures that are compared with the return; `value_error` is |q_data_gap|.
MEASURES = (*RANKS, 'dormant_units', 'plasticity_error_ratio', 'q_mean', 'value_error')
# Measures whose ratio to `none` is reported for each method.
RATIOS = (*RANKS, 'plasticity_error_ratio', 'value_error', 'cpu_seconds')
NAMES = {
  'srank': 'srank',
  'effective_rank': 'entropy rank',
  'centred_effective_rank': 'centred entropy rank',
  'pca_rank': 'PCA rank',
  'dormant_units': 'dormant units',
  'plasticity_error_ratio': 'plasticity error',
  'q_mean': 'mean Q',
  'value_error': 'value error',
  'cpu_seconds': 'CPU time',
}
_LEAST_SEEDS = 3  # of a correlation within a cell


def scored(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
  """Returns the rows of the file's cells with `score` and `value_error`, in the file's order.

  The score is the final return on the regime's scale: 0 and 1 are the two values of its `returns`.
  """
  known = rows['regime'].isin(list(spec.regimes)) & rows['remedy'].isin(list(spec.methods))
  rows = rows[known].copy()
  scales = {name: regime.returns for name, regime in spec.regimes.items() if regime.returns}
  low, high = (rows['regime'].map({k: v[i] for k, v in scales.items()}) for i in (0, 1))
  rows['score'] = (rows['final_return'] - low) / (high - low)
  rows['value_error'] = rows['q_data_gap'].abs()
  place = {name: n for n, name in enumerate((*spec.regimes, *spec.methods))}
  rows['order'] = [
    place[m] * 1000 + place[r] for m, r in zip(rows['remedy'], rows['regime'], strict=True)
  ]
  return rows.sort_values(['order', 'seed'], ignore_index=True).drop(columns='order')


def complete(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
  """Returns the rows of cells that have all seeds."""
  sizes = rows.groupby(['regime', 'remedy'])['seed'].transform('nunique')
  return rows[sizes == len(spec.seeds)]


def by_method(rows: pd.DataFrame, spec: Spec, reps: int = 500) -> pd.DataFrame:
  """Returns a row per method: its score over regimes and seeds, and measures relative to `none`.

  Only regimes in which both the method and `none` have all seeds count.

  Args:
    rows: from `scored`.
    spec: the leaderboard's.
    reps: bootstrap samples of the intervals.

  Returns:
    remedy, kind, setting; regimes (those with a return); iqm, iqm_low, iqm_high (interquartile mean
    of the score with rliable's stratified 95% interval); gain, gain_error (mean over regimes of the
    change of the mean score relative to `none`, and its standard error over seeds); NAME_ratio for
    `RATIOS`: geometric mean over regimes of the mean over seeds, divided by that of `none`.
  """
  rows = complete(rows, spec)
  found = []
  for name, method in spec.methods.items():
    mine, base = (rows[rows['remedy'] == one] for one in (name, NONE))
    regimes = [r for r in spec.regimes if {r} <= set(mine['regime']) & set(base['regime'])]
    evaluated = [r for r in regimes if spec.regimes[r].returns]
    if not evaluated:
      continue
    scores, without = _matrix(mine, evaluated), _matrix(base, evaluated)
    iqm = reliable.aggregates({name: scores}, reps=reps).iloc[0]
    variance = (scores.var(0, ddof=1) + without.var(0, ddof=1)) / len(scores)
    found.append(
      {
        'remedy': name,
        'kind': method.kind,
        'setting': mine['setting'].iloc[0],
        'regimes': len(evaluated),
        'iqm': iqm['value'],
        'iqm_low': iqm['low'],
        'iqm_high': iqm['high'],
        'gain': (scores.mean(0) - without.mean(0)).mean(),
        'gain_error': np.sqrt(variance.sum()) / len(evaluated) if name != NONE else 0.0,
        **{f'{one}_ratio': _ratio(mine, base, regimes, one) for one in RATIOS},
      }
    )
  return pd.DataFrame(found)


def _matrix(rows: pd.DataFrame, regimes: Sequence[str]) -> np.ndarray:
  """Returns scores [seeds, regimes]."""
  return rows.pivot(index='seed', columns='regime', values='score')[list(regimes)].to_numpy()


def _ratio(mine: pd.DataFrame, base: pd.DataFrame, regimes: Sequence[str], name: str) -> float:
  means = [part.groupby('regime')[name].mean()[list(regimes)].to_numpy() for part in (mine, base)]
  with np.errstate(divide='ignore', invalid='ignore'):
    logs = np.log(means[0] / means[1])
  logs = logs[np.isfinite(logs)]
  return float(np.exp(logs.mean())) if logs.size else np.nan


def changes(rows: pd.DataFrame, spec: Spec, name: str) -> pd.DataFrame:
  """Returns how each cell differs from `none` in the same regime, for one measure.

  Returns:
    A row per regime and remedy: mean, change (of the mean), error (standard error of the change)
    and beyond: 1, −1 or 0, the sign of a change of more than two standard errors.
  """
  rows = complete(rows, spec)
  found = []
  groups = {key: group[name].to_numpy(float) for key, group in rows.groupby(['regime', 'remedy'])}
  for (regime, remedy), values in groups.items():
    base = groups.get((regime, NONE))
    if base is None or remedy == NONE:
      continue
    change = values.mean() - base.mean()
    error = np.sqrt(values.var(ddof=1) / len(values) + base.var(ddof=1) / len(base))
    found.append((regime, remedy, values.mean(), change, error, _beyond(change, error)))
  columns = ['regime', 'remedy', 'mean', 'change', 'error', 'beyond']
  return pd.DataFrame(found, columns=columns)


def _beyond(change: float, error: float) -> int:
  return int(np.sign(change)) if abs(change) > 2 * error else 0


def falls(rows: pd.DataFrame, spec: Spec, remedy: str = NONE) -> pd.DataFrame:
  """Returns whether ranks fell in training: the last minus the first iteration, seed by seed.

  Returns:
    A row per regime and rank: first and last (means over seeds), change, error (its standard error
    over seeds) and beyond, as in `changes`.
  """
  rows = complete(rows, spec)
  found = []
  for regime, group in rows[rows['remedy'] == remedy].groupby('regime', sort=False):
    for name in RANKS:
      steps = (group[name] - group[f'first_{name}']).to_numpy(float)
      error = steps.std(ddof=1) / np.sqrt(len(steps))
      row = (group[f'first_{name}'].mean(), group[name].mean(), steps.mean(), error)
      found.append((regime, name, *row, _beyond(steps.mean(), error)))
  columns = ['regime', 'measure', 'first', 'last', 'change', 'error', 'beyond']
  return pd.DataFrame(found, columns=columns)


def correlations(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
  """Returns Spearman's ρ between each measure and the final return.

  'across' is over the methods of a regime, with means over seeds; 'within' is over a cell's seeds.

  Returns:
    A row per measure and kind (across, within): rho (mean over regimes or cells), error (its
    standard error), groups (how many regimes or cells), and for `across` one column per regime.
  """
  rows = complete(rows, spec)
  found = []
  for name in MEASURES:
    across = {}
    for regime, group in rows.groupby('regime', sort=False):
      means = group.groupby('remedy')[[name, 'final_return']].mean()
      across[str(regime)] = spearman(means[name].to_numpy(), means['final_return'].to_numpy())
    within = [
      spearman(group[name].to_numpy(), group['final_return'].to_numpy())
      for _, group in rows.groupby(['regime', 'remedy'], sort=False)
    ]
    found.append({'measure': name, 'kind': 'across'} | _mean(list(across.values())) | across)
    found.append({'measure': name, 'kind': 'within'} | _mean(within))
  return pd.DataFrame(found)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
  """Returns Spearman's ρ of finite pairs; NaN for fewer than three, or for a constant."""
  pairs = np.isfinite(x) & np.isfinite(y)
  x, y = x[pairs], y[pairs]
  if len(x) < _LEAST_SEEDS or np.ptp(x) == 0 or np.ptp(y) == 0:
    return np.nan
  return float(stats.spearmanr(x, y).statistic)


def _mean(values: Sequence[float]) -> dict[str, Any]:
  finite = np.array([value for value in values if np.isfinite(value)])
  if not finite.size:
    return {'rho': np.nan, 'error': np.nan, 'groups': 0}
  error = finite.std(ddof=1) / np.sqrt(finite.size) if finite.size > 1 else np.nan
  return {'rho': float(finite.mean()), 'error': float(error), 'groups': finite.size}


def consequences(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
  """Returns how the return changed in cells where a method changed a rank, relative to `none`.

  Returns:
    A row per rank and direction (raised, lowered): cells in which the method changed the rank
    beyond two standard errors, and in how many of them the return was higher, lower or neither.
  """
  rows = rows[rows['regime'].isin([name for name, one in spec.regimes.items() if one.returns])]
  returns = changes(rows, spec, 'final_return').set_index(['regime', 'remedy'])['beyond']
  found = []
  for name in RANKS:
    ranks = changes(rows, spec, name).set_index(['regime', 'remedy'])['beyond']
    for direction, sign in (('raised', 1), ('lowered', -1)):
      there = returns[ranks[ranks == sign].index]
      counts = {word: int((there == n).sum()) for word, n in (('higher', 1), ('lower', -1))}
      neither = len(there) - sum(counts.values())
      found.append(
        {'measure': name, 'rank': direction, 'cells': len(there)} | counts | {'neither': neither}
      )
  return pd.DataFrame(found)

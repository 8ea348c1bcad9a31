"""Answers to the leaderboard's questions, in sentences and tables computed from its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from implicit_rl.analysis import tables
from implicit_rl.leaderboard import summary
from implicit_rl.leaderboard.spec import NONE, Spec

_NAMES = {name: summary.NAMES[name] for name in summary.RANKS}
_TOWARDS = {'higher': 1, 'lower': -1, 'neither': 0}


def state(found: pd.DataFrame, excluded: pd.DataFrame, spec: Spec) -> str:
  """Returns how many cells of the table have been measured.

  Args:
    found: rows of complete cells, from `summary`.
    excluded: cells that cannot exist.
    spec: the leaderboard's methods, regimes and seeds.
  """
  there = {(r, m) for r, m in zip(found['regime'], found['remedy'], strict=True)}
  refused = (
    set(zip(excluded['regime'], excluded['remedy'], strict=True)) if len(excluded) else set()
  )
  wanted = {(r, m) for r in spec.regimes for m in spec.methods}
  open_ = wanted - there - refused
  commits = ', '.join(f'`{commit}`' for commit in sorted(set(found['commit'])))
  words = (
    f'{len(there)} of {len(wanted)} cells ({len(spec.regimes)} regimes × {len(spec.methods)} '
    f'methods) have all {len(spec.seeds)} seeds{f", at {commits}" if commits else ""}; '
    f'{len(refused & wanted)} are impossible.'
  )
  if open_:
    missing = sorted({method for _, method in open_}, key=list(spec.methods).index)
    words += f' {len(open_)} have not been run yet, for these methods: {", ".join(missing)}.'
  return words


def in_short(methods: pd.DataFrame) -> str:
  """Returns the methods and kinds that change the mean score by more than two standard errors.

  Args:
    methods: from `summary.by_method`.
  """
  others = methods[methods['remedy'] != NONE]
  towards = np.sign(others['gain']).where(others['gain'].abs() > 2 * others['gain_error'], 0)
  listed = lambda sign: _listed(
    [
      f'{row["remedy"]} {_signed(row["gain"])}'
      for row in others[towards == sign].sort_values('gain', ascending=sign < 0).to_dict('records')
    ],
    'none',
  )
  by_kind = [
    {
      'kind': kind or '–',
      'methods': len(group),
      **{name: int((towards[group.index] == sign).sum()) for name, sign in _TOWARDS.items()},
      'median change': _signed(group['gain'].median()),
    }
    for kind, group in others.groupby('kind', sort=False)
  ]
  return '\n\n'.join(
    [
      f'{int((towards > 0).sum())} of {len(others)} methods raise the mean score over regimes by '
      f'more than two standard errors: {listed(1)}. {int((towards < 0).sum())} lower it: '
      f'{listed(-1)}. Without a method the score is '
      f'{methods.loc[methods["remedy"] == NONE, "iqm"].iloc[0]:.2f}.',
      tables.markdown(pd.DataFrame(by_kind)),
    ]
  )


def questions(found: pd.DataFrame, spec: Spec, correlations: pd.DataFrame) -> str:
  """Returns the answers to the three questions, each with its numbers."""
  return '\n\n'.join(
    [
      '**1. Does rank fall?** ' + _does_rank_fall(found, spec),
      _falls_table(found, spec),
      '**2. Does that hurt?** ' + _does_it_hurt(correlations),
      '**3. Does raising the rank help?** ' + _does_raising_help(found, spec),
      tables.markdown(summary.consequences(found, spec).replace({'measure': _NAMES})),
    ]
  )


def _does_rank_fall(found: pd.DataFrame, spec: Spec) -> str:
  falls = summary.falls(found, spec)
  sentences = []
  for name, group in falls.groupby('measure', sort=False):
    sentences.append(
      f'{_NAMES[str(name)]} falls in {_count(group, -1)} of {len(group)} regimes and rises in '
      f'{_count(group, 1)}'
    )
  return (
    'Without a remedy, ranks change as follows from the first iteration to the last, by more than '
    f'two standard errors over {len(spec.seeds)} seeds: {"; ".join(sentences)}.'
  )


def _count(group: pd.DataFrame, sign: int) -> int:
  return int((group['beyond'] == sign).sum())


def _falls_table(found: pd.DataFrame, spec: Spec) -> str:
  falls = summary.falls(found, spec)
  mark = {1: ' ↑', -1: ' ↓', 0: ''}
  lines = []
  for regime, group in falls.groupby('regime', sort=False):
    cells = {
      _NAMES[row['measure']]: f'{row["first"]:.1f} → {row["last"]:.1f}{mark[row["beyond"]]}'
      for row in group.to_dict('records')
    }
    returns = found[(found['regime'] == regime) & (found['remedy'] == NONE)]['final_return']
    evaluated = tables.mean_and_spread(returns.to_numpy()) if returns.notna().any() else '–'
    lines.append({'regime': regime} | cells | {'final return': evaluated})
  return tables.markdown(pd.DataFrame(lines))


def _does_it_hurt(correlations: pd.DataFrame) -> str:
  sentences = []
  for kind, words in (
    ('across', 'Across the methods of a regime'),
    ('within', 'Among the seeds of one method in one regime'),
  ):
    part = correlations[(correlations['kind'] == kind) & correlations['measure'].isin(_NAMES)]
    said = [
      f'{_signed(row["rho"])} ± {row["error"]:.2f} ({_NAMES[row["measure"]]})'
      for row in part.to_dict('records')
      if np.isfinite(row['rho'])
    ]
    sentences.append(f'{words}, Spearman’s ρ between rank and final return is {_listed(said)}.')
  largest = correlations[correlations['kind'] == 'across'].dropna(subset=['rho'])
  if len(largest):
    best = largest.loc[largest['rho'].abs().idxmax()]
    sentences.append(
      f'Across methods, `{best["measure"]}` correlates most with the return '
      f'(ρ {_signed(best["rho"])} ± {best["error"]:.2f}).'
    )
  return ' '.join(sentences)


def _does_raising_help(found: pd.DataFrame, spec: Spec) -> str:
  table = summary.consequences(found, spec)
  said = []
  for row in table[table['rank'] == 'raised'].to_dict('records'):
    said.append(
      f'{_NAMES[row["measure"]]} in {row["cells"]} cells (return higher in {row["higher"]}, lower '
      f'in {row["lower"]}, neither in {row["neither"]})'
    )
  return (
    'Methods raise the rank above that of `none` by more than two standard errors as follows. The '
    f'change of the final return is judged by the same criterion: {_listed(said)}.'
  )


def _signed(value: float) -> str:
  return f'{value:+.2f}'.replace('-', '−')


def _listed(said: Sequence[str], otherwise: str = 'not known yet') -> str:
  return ', '.join(said) if said else otherwise

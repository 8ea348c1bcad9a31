"""Finds problems in a run's files: missing rows, non-finite numbers, a fall of rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from implicit_rl.analysis import runs
from implicit_rl.rank import WORDS

_FELL = 0.5  # of its peak: what counts as a collapse
_STEP = 0.7  # of the iteration before: what counts as a sudden fall
# These may be null: an infinite ratio, no dormant unit, unknown returns.
_MAY_BE_NULL = ('condition_number', 'dormant_overlap', 'q_data_gap')
_COMPLAINT = re.compile(r'\b(error|warning|traceback|exception|killed|nan)\b', re.IGNORECASE)


class Finding(NamedTuple):
  """One finding.

  Attributes:
    severe: whether results are affected; otherwise it is information.
    text: one line.
  """

  severe: bool
  text: str


def look(run: runs.Run) -> list[Finding]:
  """Returns all findings on a run, the severe ones first."""
  found = [
    *_rows(run),
    *_nulls(run.rows),
    *(finding for name in WORDS for finding in _rank(run.rows, name)),
    *_alarms(run.rows),
    *_record(run),
    *_log(run),
  ]
  return sorted(found, key=lambda finding: not finding.severe)


def _rows(run: runs.Run) -> list[Finding]:
  iterations = [int(row['iteration']) for row in run.rows]
  found = []
  missing = sorted(set(range(iterations[-1] + 1)) - set(iterations))
  if missing:
    found.append(Finding(True, f'{_count(missing, "iteration")} missing: {_listed(missing)}'))
  if len(set(iterations)) < len(iterations) or iterations != sorted(iterations):
    found.append(Finding(True, 'iterations are logged twice or out of order'))
  planned = [value for name, value in run.settings.items() if name.endswith('.num_iterations')]
  if planned and planned[0].isdigit() and len(iterations) < int(planned[0]):
    text = f'{len(iterations)} of {planned[0]} iterations: it is still running, or was stopped'
    found.append(Finding(False, text))
  if not (run.path / 'spectra.jsonl').exists():
    found.append(Finding(False, 'no spectra.jsonl: singular values were not logged'))
  return found


def _nulls(rows: Sequence[dict[str, Any]]) -> list[Finding]:
  """Reports nulls: non-finite if other iterations have a number, otherwise not measured."""
  found = []
  for name in dict.fromkeys(name for row in rows for name in row):
    empty = [int(row['iteration']) for row in rows if name in row and row[name] is None]
    if 0 < len(empty) < len(rows):
      severe = name.partition('/')[0] not in _MAY_BE_NULL
      found.append(
        Finding(severe, f'{name} not finite in {_count(empty, "iteration")}: {_listed(empty)}')
      )
    elif empty and name == 'eval_return':
      found.append(Finding(False, 'never evaluated'))
  return found


def _rank(rows: Sequence[dict[str, Any]], name: str) -> list[Finding]:
  """Reports a rank that fell to half of its peak, or suddenly."""
  ranks = np.array([row.get(name, np.nan) for row in rows], np.float64)
  if np.isnan(ranks).all():
    return []
  found = []
  peak, last = int(np.nanargmax(ranks)), ranks[-1]
  if last <= _FELL * ranks[peak]:
    text = f'{WORDS[name]} fell from {ranks[peak]:.4g} (iteration {rows[peak]["iteration"]})'
    found.append(Finding(True, f'{text} to {last:.4g} at the end'))
  with np.errstate(divide='ignore', invalid='ignore'):
    sudden = np.flatnonzero(ranks[1:] < _STEP * ranks[:-1]) + 1
  if len(sudden):
    i = int(sudden[0])
    more = f', and {len(sudden) - 1} more such' if len(sudden) > 1 else ''
    text = f'{WORDS[name]} fell at once, {ranks[i - 1]:.4g} to {ranks[i]:.4g}, in iteration '
    found.append(Finding(True, f'{text}{rows[i]["iteration"]}{more}'))
  return found


def _alarms(rows: Sequence[dict[str, Any]]) -> list[Finding]:
  """Reports the first iteration of each alarm, and its number of iterations."""
  rang: dict[str, list[int]] = {}
  for row in rows:
    for name in row.get('alarms') or ():
      rang.setdefault(name, []).append(int(row['iteration']))
  return [
    Finding(True, f'alarm {name} in {_count(when, "iteration")}, first in {when[0]}')
    for name, when in rang.items()
  ]


def _record(run: runs.Run) -> list[Finding]:
  found = []
  if not run.start:
    found.append(Finding(False, 'no run.json: what was run is not on record'))
  if run.start.get('start_iteration'):
    found.append(Finding(False, f'resumed, last at iteration {run.start["start_iteration"]}'))
  if str(run.start.get('git_revision', '')).endswith('+'):
    found.append(Finding(False, 'the checkout had changes that are in no commit'))
  return found


def _log(run: runs.Run) -> list[Finding]:
  path = run.path / 'run.log'
  if not path.exists():
    return []
  text = path.read_text(encoding='utf-8', errors='replace').replace('\r', '\n')
  lines = [line.strip() for line in text.splitlines()]
  complaints = list(dict.fromkeys(line for line in lines if _COMPLAINT.search(line)))
  complaints = [line for line in complaints if not line.startswith('iteration ')]
  return [Finding(False, f'run.log: {line[:300]}') for line in complaints[-5:]]


def _count(values: Sequence[int], what: str) -> str:
  return f'{len(values)} {what}{"s" * (len(values) > 1)}'


def _listed(values: Sequence[int]) -> str:
  shown = ', '.join(map(str, values[:5]))
  return shown + (', …' if len(values) > 5 else '')

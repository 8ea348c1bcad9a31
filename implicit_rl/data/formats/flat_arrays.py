"""Checks flat arrays, with one row per step as in D4RL, and divides them into episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

REQUIRED = ('observations', 'actions', 'rewards', 'terminals')
OPTIONAL = ('timeouts', 'next_observations')
_OTHER_NAMES = {'terminations': 'terminals', 'truncations': 'timeouts'}  # Of Minari.


class VectorEpisode(NamedTuple):
  """One episode of T steps.

  Attributes:
    observation: [T, D] or [T+1, D] float32, or images [T or T+1, H, W] or [..., C] uint8; the last
      of T+1 follows the last action.
    action: [T] whole numbers, or [T, A] float32.
    reward: [T] float32.
    terminal: whether the last step terminated it; otherwise a time limit ended it.
  """

  observation: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  terminal: bool


def names() -> set[str]:
  """Returns all names that `episodes_of` reads."""
  return {*REQUIRED, *OPTIONAL, *_OTHER_NAMES}


def episodes_of(
  arrays: Mapping[str, Any], where: str, time_limit: int | None = None
) -> list[VectorEpisode]:
  """Checks arrays of N steps and divides them into episodes.

  Episodes end where `terminals` or `timeouts` are set. Without `timeouts` they end where
  `next_observations` differ from the next row, or after `time_limit` steps. The last row always
  ends one.

  Args:
    arrays: by name:
      observations: [N, ...]; uint8 images [N, H, W] or [N, H, W, C] are unchanged; others become
        float32 vectors [N, D].
      actions: [N] whole numbers from 0, or [N, A] floats within [−1, 1].
      rewards: [N].
      terminals: [N] of 0 and 1 or bool, whether the step terminated the episode; also
        `terminations`.
      timeouts: whether a time limit truncated the episode; optional; also `truncations`.
      next_observations: as `observations`, the observation after each step; optional.
    where: name of the arrays in error messages, such as the file's name.
    time_limit: steps after which an episode was truncated, for data without the optional arrays.

  Raises:
    ValueError: for a missing name, a wrong shape or value; the error names it in one line.
  """
  found = {_OTHER_NAMES.get(name, name): np.asarray(values) for name, values in arrays.items()}
  if missing := [name for name in REQUIRED if name not in found]:
    raise ValueError(
      f'{where} lacks {", ".join(missing)}. It has {", ".join(sorted(arrays)) or "nothing"}.'
    )
  count = len(found['observations']) if found['observations'].ndim else 0
  if not count:
    raise ValueError(f'{where}: observations must have a row for each step, and at least one.')
  for name in (*REQUIRED, *OPTIONAL):
    if name in found:
      _check(f'{where}: {name}', found[name], count)
  observation = _observations(found['observations'])
  following = found.get('next_observations')
  if following is not None:
    following = _observations(following)
    if following.shape != observation.shape:
      raise ValueError(
        f'{where}: next_observations have the shape {following.shape[1:]}, observations '
        f'{observation.shape[1:]}.'
      )
  action = _actions(f'{where}: actions', found['actions'])
  reward = _column(f'{where}: rewards', found['rewards']).astype(np.float32)
  terminal = _flags(f'{where}: terminals', found['terminals'])
  if 'timeouts' in found:
    cut = _flags(f'{where}: timeouts', found['timeouts']) & ~terminal
  else:
    cut = _cuts(where, observation, following, terminal, time_limit)
  cut[-1] = not terminal[-1]
  ends = np.flatnonzero(terminal | cut) + 1
  episodes = []
  for first, last in zip(np.append(0, ends[:-1]), ends, strict=True):
    seen = observation[first:last]
    if following is not None:
      seen = np.concatenate([seen, following[last - 1 : last]])
    ended = bool(terminal[last - 1])
    episodes.append(VectorEpisode(seen, action[first:last], reward[first:last], ended))
  return episodes


def _check(what: str, values: np.ndarray, count: int) -> None:
  """Raises ValueError unless there are `count` rows of finite numbers."""
  if values.dtype.kind not in 'biuf':
    raise ValueError(f'{what} must be numbers, got an array of {values.dtype}.')
  if values.shape[:1] != (count,):
    rows = len(values) if values.ndim else 'no'
    raise ValueError(f'{what} has {rows} rows, observations {count}.')
  bad = ~np.isfinite(values.reshape(count, -1)).all(axis=1)
  if bad.any():
    raise ValueError(f'{what} has a non-finite number in row {int(np.argmax(bad))}.')


def _column(what: str, values: np.ndarray) -> np.ndarray:
  """Returns [N], given [N] or [N, 1]."""
  if values.size != len(values):
    raise ValueError(f'{what} must have the shape (N,), got {values.shape}.')
  return values.reshape(-1)


def _flags(what: str, values: np.ndarray) -> np.ndarray:
  values = _column(what, values)
  bad = ~np.isin(values, (0, 1))
  if bad.any():
    row = int(np.argmax(bad))
    raise ValueError(f'{what} must be 0 or 1, row {row} is {values[row]}.')
  return values.astype(bool)


def _observations(values: np.ndarray) -> np.ndarray:
  if values.dtype == np.uint8 and values.ndim in (3, 4):
    return values
  return values.reshape(len(values), -1).astype(np.float32)


def _actions(what: str, values: np.ndarray) -> np.ndarray:
  """Returns whole numbers [N] int32, or [N, A] float32."""
  if values.dtype.kind in 'iu':
    values = _column(what, values)
    if values.min() < 0:
      row = int(np.argmin(values))
      raise ValueError(f'{what} are numbered from 0, row {row} is {values[row]}.')
    return values.astype(np.int32)
  if values.dtype.kind == 'b':
    raise ValueError(f'{what} must be whole numbers or floats, got bool.')
  values = values.reshape(len(values), -1).astype(np.float32)
  largest = np.abs(values).max(axis=1)
  if largest.max() > 1 + 1e-3:  # Some files round.
    row = int(np.argmax(largest))
    raise ValueError(
      f'{what} must lie within [−1, 1], row {row} has {largest[row]:g}. Scale them, or convert '
      'discrete ones to integers.'
    )
  return values


def _cuts(
  where: str,
  observation: np.ndarray,
  following: np.ndarray | None,
  terminal: np.ndarray,
  time_limit: int | None,
) -> np.ndarray:
  """Returns which rows [N] truncate an episode, for data without `timeouts`."""
  cut = np.zeros(len(terminal), bool)
  if following is not None:
    differ = (following[:-1] != observation[1:]).reshape(len(terminal) - 1, -1)
    cut[:-1] = differ.any(axis=1) & ~terminal[:-1]
  elif time_limit is not None:
    steps = 0
    for row, ended in enumerate(terminal):
      steps += 1
      cut[row] = not ended and steps == time_limit
      steps = 0 if ended or cut[row] else steps
  else:
    raise ValueError(
      f'{where} has neither timeouts nor next_observations, so truncated episodes are '
      'unknown: bind ArraySource.time_limit or VectorReplay.time_limit, which is 1000 in MuJoCo.'
    )
  return cut

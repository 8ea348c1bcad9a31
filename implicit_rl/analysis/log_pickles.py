"""Dopamine's log pickles (`logs/log_N`), read so that a file from a stranger can't run code."""

from __future__ import annotations

import collections
import pathlib
import pickle
from typing import Any

import numpy as np


class _DType:
  """Stands for a numpy.dtype; keeps the byte order that the pickle sets."""

  def __init__(self, name: str, *_: Any):
    if name[:1] not in tuple('biufSU') or not name[1:].isdigit():
      raise pickle.UnpicklingError(f'an array of {name!r}; numbers and strings alone are read')
    self.dtype = np.dtype(name)

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    self.dtype = self.dtype.newbyteorder(state[1])


def _shaped(raw: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
  return np.frombuffer(raw, dtype.dtype).reshape(shape, order='F' if order == 'F' else 'C')


class _Array:
  """Stands for a numpy.ndarray until all of the file is read."""

  def __init__(self, *_: Any):
    self.array = np.zeros(0)

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    _, shape, dtype, fortran, raw = state
    raw = raw.encode('latin1') if isinstance(raw, str) else raw
    self.array = _shaped(raw, dtype, shape, 'F' if fortran else 'C')


def _scalar(dtype: _DType, raw: bytes | str) -> Any:
  return np.frombuffer(raw.encode('latin1') if isinstance(raw, str) else raw, dtype.dtype)[0]


def _from_buffer(raw: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
  made = _Array()
  made.array = _shaped(raw, dtype, shape, order)
  return made


def _encode(text: str, encoding: str) -> bytes:
  if encoding != 'latin1':
    raise pickle.UnpicklingError(f'text in {encoding!r}')
  return text.encode('latin1')


_ADMITTED = {
  ('builtins', 'list'): list,
  ('builtins', 'dict'): dict,
  ('__builtin__', 'list'): list,
  ('__builtin__', 'dict'): dict,
  ('collections', 'defaultdict'): collections.defaultdict,
  ('collections', 'OrderedDict'): collections.OrderedDict,
  ('_codecs', 'encode'): _encode,
  ('numpy', 'dtype'): _DType,
  ('numpy', 'ndarray'): _Array,
}
for _core in ('numpy.core', 'numpy._core'):
  _ADMITTED[f'{_core}.multiarray', 'scalar'] = _scalar
  _ADMITTED[f'{_core}.multiarray', '_reconstruct'] = _Array
  _ADMITTED[f'{_core}.numeric', '_frombuffer'] = _from_buffer


class _Reader(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Any:
    try:
      return _ADMITTED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f'{module}.{name} has no place in a log') from None


def _plain(value: Any) -> Any:
  if isinstance(value, _Array):
    return value.array
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(map(_plain, value))
  return value


def load(path: str | pathlib.Path) -> Any:
  """What a pickle holds, if that is containers, numbers, strings and arrays of them.

  Args:
    path: the file; written by any Python, NumPy and pickle protocol.

  Raises:
    ValueError: if the file is no pickle, or names anything else; nothing in it has run then.
  """
  with open(path, 'rb') as file:
    try:
      return _plain(_Reader(file, encoding='latin1').load())
    except Exception as error:  # A broken pickle can raise anything.
      raise ValueError(f'{path} is not a log that Dopamine wrote: {error}.') from error


def newest(base_dir: str | pathlib.Path) -> pathlib.Path | None:
  """The log of the last iteration in `base_dir`, which holds all before it; None if none is."""
  logs = pathlib.Path(base_dir).glob('logs/log_*')
  numbered = [(int(path.name[4:]), path) for path in logs if path.name[4:].isdigit()]
  return max(numbered)[1] if numbered else None


def rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """One row per iteration of a log, with the names of metrics.jsonl where it has them.

  `eval_return` and `train_return` are the means over the iteration's episodes,
  `environment_steps` the training steps up to its end; every other number keeps its own name.
  """
  log = load(path)
  prefix = 'iteration_'
  if not isinstance(log, dict) or not all(str(key).startswith(prefix) for key in log):
    raise ValueError(f'{path} is not a log that Dopamine wrote: it holds no iterations.')
  found, steps = [], 0.0
  for key in sorted(log, key=lambda name: int(name[len(prefix) :])):
    values = {name: np.asarray(value, np.float64) for name, value in log[key].items()}
    row: dict[str, Any] = {'iteration': int(key[len(prefix) :])}
    for phase in ('train', 'eval'):
      episodes = values.pop(f'{phase}_episode_returns', np.zeros(0))
      lengths = values.pop(f'{phase}_episode_lengths', np.zeros(0))
      if episodes.size:
        row[f'{phase}_return'] = float(episodes.mean())
        row[f'{phase}_episodes'] = int(episodes.size)
      if phase == 'train' and lengths.size:
        steps += float(lengths.sum())
        row['environment_steps'] = steps
    row |= {name: float(value.mean()) for name, value in values.items() if value.size}
    found.append(row)
  return found

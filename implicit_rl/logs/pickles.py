"""Reads pickles of plain data in a way that an untrusted file can't run code."""

from __future__ import annotations

import collections
import pickle
from typing import Any, BinaryIO

import numpy as np


class _DType:
  """Replaces a numpy.dtype; keeps the byte order that the pickle sets."""

  def __init__(self, name: str, *_: Any):
    if name[:1] not in tuple('biufSU') or not name[1:].isdigit():
      raise pickle.UnpicklingError(f'an array of {name!r}; only numbers and strings are read')
    self.dtype = np.dtype(name)

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    self.dtype = self.dtype.newbyteorder(state[1])


def _shaped(raw: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
  return np.frombuffer(raw, dtype.dtype).reshape(shape, order='F' if order == 'F' else 'C')


class _Array:
  """Replaces a numpy.ndarray until the whole file is read."""

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
  ('builtins', 'set'): set,
  ('__builtin__', 'set'): set,
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
      raise pickle.UnpicklingError(f'{module}.{name} is not allowed in a log') from None


def _plain(value: Any) -> Any:
  if isinstance(value, _Array):
    return value.array
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(map(_plain, value))
  return value


def load(file: BinaryIO) -> Any:
  """Reads containers, numbers, strings and arrays of them from a pickle of any protocol.

  Raises:
    ValueError: if the file is not a pickle, or names anything else. Nothing in it has run then.
  """
  try:
    return _plain(_Reader(file, encoding='latin1').load())
  except Exception as error:  # A broken pickle can raise anything.
    raise ValueError(str(error)) from error

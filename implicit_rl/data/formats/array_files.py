"""Files of flat arrays: HDF5 as of D4RL, .npz of NumPy, and Parquet as of Hugging Face datasets."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from implicit_rl.data.formats import flat_arrays


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads the arrays that `flat_arrays` knows, and an HDF5 file's attributes.

  Args:
    path: a file. Parquet is recognised by its extension, .npz by its content; other files must be
      HDF5.

  Raises:
    ValueError: if it has none of these formats, or is damaged.
  """
  if path.suffix == '.parquet':
    return _read_parquet(path), {}
  if zipfile.is_zipfile(path):
    return _read_npz(path), {}
  try:
    file = h5py.File(path, 'r')
  except OSError as error:
    raise ValueError(f'{path} is not an HDF5, .npz or .parquet file: {error}') from error
  with file:
    return _known(path, file), dict(file.attrs)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  with np.load(path) as file:
    return _known(path, file)


def _known(path: pathlib.Path, file: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the arrays of a file that have a known name."""
  found = {}
  for name in flat_arrays.names() & set(file):
    try:
      found[name] = np.asarray(file[name])
    except (OSError, ValueError) as error:  # Truncated, or a pickle.
      raise ValueError(f'{path}: {name} cannot be read: {error}') from error
  return found


def _read_parquet(path: pathlib.Path) -> dict[str, np.ndarray]:
  import pyarrow
  from pyarrow import parquet

  try:
    known = flat_arrays.names() & set(parquet.read_schema(path).names)
    table = parquet.read_table(path, columns=sorted(known))
  except pyarrow.ArrowInvalid as error:
    raise ValueError(f'{path} is not a Parquet file: {error}') from error
  return {name: _values(f'{path}: {name}', table[name]) for name in table.column_names}


def _values(what: str, column: Any) -> np.ndarray:
  """Returns a column of numbers, or of lists (also nested) of equal lengths: [N, ...]."""
  import pyarrow
  import pyarrow.compute

  values, shape = column.combine_chunks(), [len(column)]
  while isinstance(values, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.FixedSizeListArray):
    lengths = set(pyarrow.compute.list_value_length(values).to_pylist())
    if len(lengths) > 1 or None in lengths:
      raise ValueError(f'{what} has lists of different lengths; a row must be one step.')
    shape += lengths
    values = values.flatten()
  return values.to_numpy(zero_copy_only=False).reshape(shape)

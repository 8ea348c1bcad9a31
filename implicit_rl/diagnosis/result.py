"""The result of a diagnosis, which prints as a table and is saved as a page or as JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from os import PathLike

from implicit_rl.diagnosis.measured import Measured


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis(Measured):
  """Measurements of a network, a mapping of scalars by the names of `metrics.jsonl`.

  `print` shows a table; `verdicts` has the answers on rank, plasticity and values. The attributes
  are those of `Measured`.
  """

  def __str__(self) -> str:
    return table({'value': self})

  def save(self, path: str | PathLike, title: str = 'Diagnosis') -> pathlib.Path:
    """Writes a .json or .html file and returns its path.

    Raises:
      ValueError: for another ending.
    """
    return save({title: {'value': self}}, path, title)


def save(
  runs: Mapping[str, Mapping[str, Measured]], path: str | PathLike, title: str
) -> pathlib.Path:
  """Writes diagnoses, by run and checkpoint, as a .json or .html file; returns its path.

  Raises:
    ValueError: for another ending.
  """
  path = pathlib.Path(path)
  if path.suffix == '.json':
    whole = {run: {name: one.as_dict() for name, one in of.items()} for run, of in runs.items()}
    text = json.dumps(whole, indent=2, allow_nan=False) + '\n'
  elif path.suffix == '.html':
    try:
      from implicit_rl.diagnosis import page  # Loads matplotlib.
    except ModuleNotFoundError as error:  # In implicit-rl-rank.
      raise ModuleNotFoundError(
        f'{path}: a page needs {error.name}: pip install implicit_rl, or save it as .json.'
      ) from None
    text = page.build(runs, title)
  else:
    raise ValueError(f'{path} must end in .json or .html.')
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding='utf-8')
  return path


def table(diagnoses: Mapping[str, Measured]) -> str:
  """Returns the last diagnosis's verdicts, and a column of measures for each diagnosis, as text."""
  last = list(diagnoses.values())[-1]
  columns: dict[str, Mapping[str, float]] = dict(diagnoses)
  if last.fresh:
    columns['fresh network'] = last.fresh
  width = max(12, *(len(name) + 2 for name in columns))
  names = sorted({name for one in diagnoses.values() for name in one}, key=_order)
  left = max(map(len, names), default=0)
  lines = [f'{one.question:11} {one.level:8} {one.answer}' for one in last.verdicts]
  lines += ['', ' ' * left + ''.join(f'{name:>{width}}' for name in columns)]
  for name in names:
    cells = (f'{one[name]:.5g}' if name in one else '' for one in columns.values())
    lines.append((f'{name:{left}}' + ''.join(f'{cell:>{width}}' for cell in cells)).rstrip())
  lines += [f'Not measured: {name} ({why})' for name, why in last.not_measured.items()]
  return '\n'.join(lines)


def _order(name: str) -> tuple[bool, str, str]:
  """Sorts measures of the whole network before those of layers."""
  measure, _, layer = name.partition('/')
  return bool(layer), layer, measure

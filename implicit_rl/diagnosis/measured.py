"""Measurements of a network: scalars by name, and everything that verdicts need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from implicit_rl.diagnosis import verdicts
from implicit_rl.diagnosis.verdicts import Verdict
from implicit_rl.logs import jsonl


@dataclasses.dataclass(frozen=True, eq=False)
class Measured(Mapping[str, float]):
  """Measurements of a network: scalars by the names of `metrics.jsonl`.

  Attributes:
    scalars: the same, as a dict; NaN for non-finite networks.
    arrays: singular values, descending, and other measures that are not scalars.
    fresh: the rank metrics of a fresh network; empty if none was given.
    fresh_arrays: its singular values.
    about: number of states, width of the features and so on.
    not_measured: the missing argument of each measure that was not taken, by name.
    bounds: the smallest and the largest value that the rewards allow; infinite if unknown.
    gamma: discount per step; None if unknown.
    estimates_values: whether the network's outputs are values.
  """

  scalars: Mapping[str, float]
  arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  fresh: Mapping[str, float] = dataclasses.field(default_factory=dict)
  fresh_arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  not_measured: Mapping[str, str] = dataclasses.field(default_factory=dict)
  bounds: tuple[float, float] = (-np.inf, np.inf)
  gamma: float | None = None
  estimates_values: bool = True

  @classmethod
  def of(cls, measured: Mapping[str, Any], **settings: Any) -> Self:
    """Returns a diagnosis of scalars and arrays by name; `settings` are the other attributes."""
    return cls(*_split(measured), **settings)

  def compared(self, fresh: Mapping[str, Any]) -> Self:
    """Returns this diagnosis with measurements of a fresh network."""
    scalars, arrays = _split(fresh)
    return dataclasses.replace(self, fresh=scalars, fresh_arrays=arrays)

  def __getitem__(self, name: str) -> float:
    return self.scalars[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self.scalars)

  def __len__(self) -> int:
    return len(self.scalars)

  @property
  def verdicts(self) -> list[Verdict]:
    """The verdicts on rank, plasticity and values."""
    found = verdicts.judge(self.scalars, self.fresh, self.bounds, self.gamma)
    return found if self.estimates_values else [*found[:2], verdicts.NO_VALUES]

  def as_dict(self) -> dict[str, Any]:
    """Returns everything as JSON values; non-finite numbers are None."""
    whole = {
      'about': self.about,
      'verdicts': [one._asdict() for one in self.verdicts],
      'scalars': self.scalars,
      'fresh': self.fresh,
      'not_measured': self.not_measured,
      'arrays': self.arrays,
      'fresh_arrays': self.fresh_arrays,
    }
    return jsonl.plain(whole)


def _split(measured: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
  arrays = {name: np.asarray(value) for name, value in measured.items() if np.ndim(value)}
  return {name: float(measured[name]) for name in measured if name not in arrays}, arrays

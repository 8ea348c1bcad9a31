"""The report: sections with a limited share of the time, as Markdown and JSON."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

Row = Mapping[str, Any]
Case = tuple[str, Callable[[], Row]]  # its name, and the function that measures it

_LATE = 1.1  # share of the time until which a section without a row gets one


class Section(NamedTuple):
  """One table.

  Attributes:
    name: its heading.
    share: of the seconds, relative to those of the other sections.
    cases: its measurements, the most informative first.
    note: a sentence below the heading.
  """

  name: str
  share: float
  cases: Iterable[Case]
  note: str = ''


class Measured(NamedTuple):
  """The result of a section.

  Attributes:
    name: its heading.
    note: a sentence below it.
    seconds: its duration.
    rows: for each measured case, `case` and its results or the `error`.
    left_out: cases that were not reached in time.
  """

  name: str
  note: str
  seconds: float
  rows: list[dict[str, Any]]
  left_out: list[str]


def measure(sections: Iterable[Section], seconds: float, most: int | None = None) -> list[Measured]:
  """Measures sections in sequence; unused time of a section goes to later ones.

  A case starts only while its section has time left; the first case of a section until the share
  `_LATE` of the total time. The last case may therefore exceed the limit. A case that fails, for
  lack of memory for example, is reported with its error; the others continue.

  Args:
    sections: in this order.
    seconds: total time.
    most: maximum number of cases per section; None is all.
  """
  sections, found = list(sections), []
  start = time.monotonic()
  end, late = start + seconds, start + _LATE * seconds
  for number, section in enumerate(sections):
    began = time.monotonic()
    shares = sum(one.share for one in sections[number:])
    until = began + max(end - began, 0) * section.share / shares
    rows: list[dict[str, Any]] = []
    left_out = []
    for name, case in section.cases:
      if time.monotonic() >= (until if rows else max(until, late)) or len(rows) == most:
        left_out.append(name)
        continue
      try:
        rows.append({'case': name, **case()})
      except Exception as error:  # A device's errors have no common class.
        rows.append({'case': name, 'error': f'{type(error).__name__}: {error}'.splitlines()[0]})
    found.append(Measured(section.name, section.note, time.monotonic() - began, rows, left_out))
    print(f'{section.name}: {found[-1].seconds:.0f} s, {len(rows)} measured', flush=True)
  return found


def timed(run: Callable[[], Any], seconds: float) -> dict[str, float]:
  """Times a call whose first run compiles.

  Args:
    run: returns arrays; the timing waits for them.
    seconds: how long to repeat it; at least three times.

  Returns:
    `seconds` of the median call, and `compile_s`, the additional time of the first call.
  """
  taken: list[float] = []
  while len(taken) < 4 or sum(taken[1:]) < seconds:
    began = time.perf_counter()
    jax.block_until_ready(run())
    taken.append(time.perf_counter() - began)
  median = sorted(taken[1:])[len(taken[1:]) // 2]
  return {'seconds': median, 'compile_s': max(taken[0] - median, 0.0)}


def add_shares(found: Iterable[Measured], products: str) -> None:
  """Adds to every row with GFLOP/s its share of the fastest row of the section `products`."""
  found = list(found)
  rates = [row['GFLOP/s'] for one in found if one.name == products for row in one.rows]
  for row in (row for one in found if one.name != products for row in one.rows):
    if rates and 'GFLOP/s' in row:
      row['share of products'] = f'{row["GFLOP/s"] / max(rates):.1%}'


def write(output: pathlib.Path, machine: Mapping[str, Any], found: Iterable[Measured]) -> str:
  """Writes device.json and device.md below `output`; returns the Markdown."""
  found = list(found)
  content = {'machine': machine, 'sections': [one._asdict() for one in found]}
  text = markdown(machine, found)
  for name, written in (('device.json', json.dumps(content, indent=1)), ('device.md', text)):
    aside = output / f'{name}.partial'
    aside.write_text(written + '\n')
    aside.replace(output / name)
  return text


def markdown(machine: Mapping[str, Any], found: Iterable[Measured]) -> str:
  """Returns the report as Markdown."""
  parts = [f'# {machine["device"]}', '\n'.join(f'- {k}: {v}' for k, v in machine.items())]
  for one in found:
    names = list(dict.fromkeys(name for row in one.rows for name in row))
    lines = [f'## {one.name}', one.note, _table(names, one.rows) if names else '']
    if one.left_out:
      lines.append(f'Left out, unmeasured: {"; ".join(one.left_out)}.')
    parts += [line for line in lines if line]
  return '\n\n'.join(parts)


def _table(names: list[str], rows: list[dict[str, Any]]) -> str:
  shown = [[_shown(row.get(name, '')) for name in names] for row in rows]
  lines = [names, ['---'] * len(names), *shown]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _shown(value: Any) -> str:
  if isinstance(value, bool):
    return 'yes' if value else '**no**'
  if isinstance(value, float):
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'
  return str(value).replace('|', '\\|')

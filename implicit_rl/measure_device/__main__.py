"""Measures the device that JAX finds: `python -m implicit_rl.measure_device --output=DIR`."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

import flax
import jax
import optax

from implicit_rl import __version__
from implicit_rl.measure_device import correctness, peers, report, speed

_SECONDS = {'full': 420, 'quick': 45, 'tiny': 600}
_PRODUCTS = 'Matrix products'
_CPU = speed.Scale(
  updates=(8, 1, 64),
  seeds=(1, 4),
  product=1024,
  environments=8,
  steps=2048,
  checked=(512, 128),
  store=4000,
  atari_rows=32,  # 128 take half a second an update, and the time is for all tables.
)
_QUICK = speed.Scale(
  networks=('MinAtar',),
  updates=(8, 1),
  seeds=(1, 4),
  batch=(32,),
  seconds=0.1,
  product=512,
  matrix=(256, 64),
  checked=(256, 64),
  environments=8,
  steps=256,
  store=1000,
  torch_compile=False,
)
_TINY = speed.Scale(
  networks=('MinAtar',),
  updates=(2,),
  seeds=(1,),
  batch=(4,),
  seconds=0.0,
  product=64,
  matrix=(64, 16),
  checked=(64, 16),
  environments=2,
  steps=16,
  store=200,
)


def sections(scale: speed.Scale) -> list[report.Section]:
  """Returns the sections, correctness first, with shares of the time according to compile times."""
  return [
    report.Section(
      'Correctness',
      30,
      correctness.cases(scale.networks, *scale.checked),
      'Relative errors; of srank, how many of three matrices. Updates with precise products.',
    ),
    report.Section(_PRODUCTS, 3, speed.products(scale), 'Of square float32 matrices.'),
    report.Section(
      'Updates by K, seeds and batch',
      35,
      speed.throughput(scale),
      'DQN on batches in device memory; K updates are one call. The share of products compares the '
      'operations that XLA counts with the fastest products above.',
    ),
    report.Section('Eigenvalues and ranks', 6, speed.decompositions(scale)),
    report.Section('Penalty and remedies', 14, speed.variants(scale)),
    report.Section('Compiled online loops', 10, speed.online(scale), "MinAtar's Breakout."),
    report.Section('Precision of products', 4, speed.precisions(scale)),
    report.Section('Where batches come from', 5, speed.data_paths(scale)),
    report.Section('Peers', 5, peers.cases(scale), 'Written for this comparison.'),
  ]


def machine(arguments: Sequence[str]) -> dict[str, Any]:
  """Returns the report's facts on device, software and the command's arguments."""
  device = jax.devices()[0]
  return {
    'device': device.device_kind if device.platform != 'cpu' else _processor(),
    'platform': device.platform,
    'devices': jax.device_count(),
    'cores of the host': os.cpu_count(),
    'load when begun': f'{os.getloadavg()[0]:.1f}',
    'date': str(datetime.date.today()),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'flax': flax.__version__,
    'optax': optax.__version__,
    'implicit_rl': __version__,
    'command': ' '.join(['python -m implicit_rl.measure_device', *arguments]),
  }


def _processor() -> str:
  path = pathlib.Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
  """Measures, writes device.md and device.json; returns 1 if a correctness check fails."""
  parser = argparse.ArgumentParser(
    prog='implicit-rl measure-device', description='Measures the device that JAX finds.'
  )
  parser.add_argument('--output', required=True, type=pathlib.Path, help='directory to write to')
  how = parser.add_mutually_exclusive_group()
  how.add_argument('--quick', action='store_true', help='at most a minute, small sizes')
  how.add_argument(
    '--tiny', action='store_true', help='one case of each table, to see that it runs'
  )
  options = parser.parse_args(arguments)
  try:
    options.output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    parser.error(f'--output={options.output} cannot be made a directory: {error.strerror}.')
  how_much = 'quick' if options.quick else 'tiny' if options.tiny else 'full'
  full = speed.Scale() if jax.default_backend() != 'cpu' else _CPU
  scale = {'full': full, 'quick': _QUICK, 'tiny': _TINY}[how_much]
  about = machine(sys.argv[1:] if arguments is None else arguments)
  found = report.measure(sections(scale), _SECONDS[how_much], most=1 if options.tiny else None)
  report.add_shares(found, _PRODUCTS)
  print(f'\n{report.write(options.output, about, found)}\n\nWritten to {options.output}.')
  wrong = [row['case'] for row in found[0].rows if not row.get('passed')]
  if wrong:
    print(f'WRONG on this device: {", ".join(wrong)}.', file=sys.stderr)
  return int(bool(wrong))


if __name__ == '__main__':
  sys.exit(main())

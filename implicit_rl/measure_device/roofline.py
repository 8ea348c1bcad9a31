"""Estimates of a device's speed from data sheets: `python -m implicit_rl.measure_device.roofline`.

An update takes about the longest of three times: its operations at the device's rate, its bytes at
the memory's bandwidth, and its kernels in sequence. All numbers here are computed, not measured.
"""

from __future__ import annotations

from typing import NamedTuple

from implicit_rl.measure_device import workloads

BATCH = 32
SEEDS = (1, 5, 16)
RUNS, UPDATES, STEPS = 640, 31_250_000, 62_500_000  # the paper's offline runs; of each run
# Assumptions. Three passes and the target's pass read each weight, and Adam reads 4 arrays and
# writes 4 (with the gradient). An activation is written and read once, and again in the gradient.
WEIGHT_TOUCHES, ACTIVATION_TOUCHES = 12, 4
KERNELS = {'Atari': 120, 'MinAtar': 80}  # of an update after fusion, for any number of seeds


class Device(NamedTuple):
  """A chip's data sheet.

  Attributes:
    name: of the chip.
    rates: operations per second of dense products, by precision.
    bandwidth: of its memory, in bytes per second.
    memory: bytes.
    kernel: assumed seconds of a small dependent kernel.
  """

  name: str
  rates: dict[str, float]
  bandwidth: float
  memory: float
  kernel: float


DEVICES = (
  # NVIDIA's data sheet of the H200 SXM, without sparsity.
  Device('H200', {'float32': 67e12, 'TF32': 494e12, 'bfloat16': 989e12}, 4.8e12, 141e9, 2e-6),
  # Google Cloud's page of TPU v5e; a float32 product is six of bfloat16. Kernels are not launched.
  Device('TPU v5e', {'float32': 33e12, 'bfloat16': 197e12}, 0.819e12, 16e9, 0.5e-6),
)


class Work(NamedTuple):
  """Counts of an update of one seed: operations, bytes and kernels."""

  operations: float
  bytes: float
  kernels: int


class Bound(NamedTuple):
  """The estimated time of one update of all seeds, and its cause."""

  seconds: float
  by: str


def work(network: str) -> Work:
  """Counts an update of DQN with batches of `BATCH`; `network` is a key of `KERNELS`."""
  operations = workloads.operations(network, BATCH)
  parameters, activations = workloads.counts(network)
  touched = WEIGHT_TOUCHES * parameters + 2 * BATCH * ACTIVATION_TOUCHES * activations
  return Work(operations, 4 * touched, KERNELS[network])


def bound(device: Device, one: Work, seeds: int, precision: str) -> Bound:
  """Computes the estimated time of one update of `seeds` seeds in one vmapped program."""
  times = {
    'operations': seeds * one.operations / device.rates[precision],
    'memory': seeds * one.bytes / device.bandwidth,
    'kernels': one.kernels * device.kernel,
  }
  longest = max(times, key=lambda name: times[name])
  return Bound(times[longest], longest)


def table() -> str:
  """Returns the Markdown table of all devices, networks, precisions and numbers of seeds."""
  lines = [
    '| device | network | products in | seeds | µs an update of all | bound by '
    '| updates/s of all | 640 runs, device-hours |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
  ]
  for device in DEVICES:
    for network in KERNELS:
      one = work(network)
      for precision in device.rates:
        for seeds in SEEDS:
          least = bound(device, one, seeds, precision)
          hours = RUNS * UPDATES * least.seconds / seeds / 3600
          shown = f'{hours:,.0f}' if network == 'Atari' else ''
          lines.append(
            f'| {device.name} | {network} | {precision} | {seeds} | {1e6 * least.seconds:,.0f} '
            f'| {least.by} | {seeds / least.seconds:,.0f} | {shown} |'
          )
  return '\n'.join(lines)


def main() -> None:
  """Prints the counts of an update, and the table."""
  for network in KERNELS:
    one = work(network)
    print(
      f'{network}, batch {BATCH}: {one.operations / 1e9:.3g} GFLOP, {one.bytes / 1e6:.3g} MB, '
      f'{one.operations / one.bytes:.0f} operations a byte, {one.kernels} kernels (assumed).'
    )
  print(f'\n{table()}')


if __name__ == '__main__':
  main()

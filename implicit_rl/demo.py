"""The demo: offline DQN on CartPole, where values diverge and rank falls; remedies and controls.

    implicit-rl demo --output=runs/demo

Every run is equal to that of `implicit-rl train` with the shipped gin files, except for its length.
After an interruption the same command resumes.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from implicit_rl.running import parallel_runs

_REGIME = 'gin_configs/regimes/cartpole.gin'
# The gin files that each variant adds to the regime.
VARIANTS: dict[str, tuple[str, ...]] = {
  'DQN': (),
  'DQN + L_p': ('gin_configs/penalties/lp.gin',),
  'DQN + layer norm': ('gin_configs/normalisation/layer_norm.gin',),
  'control: clipped targets': ('gin_configs/regimes/cartpole_clipped.gin',),
  'control: Monte Carlo': ('gin_configs/regimes/cartpole_monte_carlo.gin',),
}
METRICS = ('srank', 'centred_effective_rank', 'q_mean', 'eval_return')
BOUND = 100  # The largest value possible, 1/(1 − γ), with rewards of at most 1 and γ = 0.99.
CAPTION = (
  'The setting was chosen because the effect is large in it. It does not show that a loss of rank '
  'causes a low return: variants order differently by rank, by value error and by return. Line: '
  'mean over seeds; band: least to most.'
)


def jobs(output: pathlib.Path, seeds: int, iterations: int) -> list[parallel_runs.Job]:
  """Returns a run for each variant; its seeds train in one program."""
  bindings = (
    f'OfflineRunner.num_iterations = {iterations}',
    'OfflineRunner.training_steps = 500',
    f'OfflineRunner.num_seeds = {seeds}',
    "OfflineRunner.seeds_as = 'vmap'",
    'Diagnostics.plasticity = None',  # The picture does not show it, and it is slow.
  )
  return [
    parallel_runs.Job(output / _folder(name), (_REGIME, *files), bindings, 0, iterations * seeds)
    for name, files in VARIANTS.items()
  ]


def _folder(name: str) -> str:
  return name.removeprefix('control: ').lower().replace(' + ', '_').replace(' ', '_')


def title(starts: Mapping[str, Any], ends: Mapping[str, Any]) -> str:
  """Returns the numbers that the picture shows.

  Args:
    starts: the first metrics of each variant, averaged over seeds.
    ends: the same for the last metrics.
  """
  seen = []
  for name in ('DQN', 'DQN + L_p', 'control: Monte Carlo'):
    if name in ends:
      first, last = starts[name], ends[name]
      seen.append(
        f'{name.removeprefix("control: ")}: srank {first["srank"]:.0f} → '
        f'{last["srank"]:.0f}, Q {last["q_mean"]:,.0f}, return {last["eval_return"]:.0f}'
      )
  return f'Offline CartPole, where no Q can exceed {BOUND}: {"; ".join(seen)}'


def draw(output: pathlib.Path, made: Sequence[parallel_runs.Job]) -> list[pathlib.Path]:
  """Prints a table of the runs' last metrics; returns the paths of the picture and the page."""
  from implicit_rl.analysis import curves, report, runs, style, tables

  variants = {
    name: sorted(job.base_dir.glob('seed_*')) or [job.base_dir]
    for name, job in zip(VARIANTS, made, strict=True)
  }
  table = runs.load(variants)
  starts, ends = (
    table[table['iteration'] == which].groupby('variant')[list(METRICS)].mean().to_dict('index')
    for which in (table['iteration'].min(), table['iteration'].max())
  )
  print('\nAfter the last update, mean over seeds ± standard deviation:\n')
  print(tables.markdown(tables.last(table, METRICS)))
  figure, numbers = curves.figure(table, METRICS, title=title(starts, ends), log=('q_mean',))
  axis = figure.axes[METRICS.index('q_mean')]
  axis.axhline(BOUND, color='black', linewidth=1.2)
  axis.annotate(
    f'at most {BOUND} is possible',
    (0.99, BOUND),
    xycoords=('axes fraction', 'data'),
    horizontalalignment='right',
    verticalalignment='bottom',
  )
  style.caption(figure, CAPTION)
  picture, page = output / 'rank_values_and_return.png', output / 'report.html'
  style.save(figure, picture, numbers)
  page.write_text(report.build(variants, title='Demo: offline DQN on CartPole'), encoding='utf-8')
  return [picture, page]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='implicit-rl demo',
    description='Trains and draws offline DQN on CartPole with two remedies and two controls.',
  )
  parser.add_argument(
    '--output', type=pathlib.Path, default='runs/demo', help='directory of the runs and the figure'
  )
  parser.add_argument('--seeds', type=int, default=3, help='seeds per variant (3)')
  parser.add_argument(
    '--iterations', type=int, default=20, help='iterations of 500 gradient updates (20)'
  )
  options = parser.parse_args(arguments)
  for name in ('seeds', 'iterations'):
    if (number := getattr(options, name)) < 1:
      parser.error(f'--{name} must be at least 1, got {number}')
  return options


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs all variants, one per core at a time; then prints and draws the results."""
  options = _options(arguments)
  start = time.monotonic()
  made = jobs(options.output, options.seeds, options.iterations)
  print(
    f'{len(made)} variants of {options.seeds} seeds, {options.iterations * 500:,} gradient updates '
    f'each, into {options.output}/'
  )
  try:
    parallel_runs.run_all(made)
  except (OSError, ValueError) as error:
    print(f'implicit-rl demo: {error}', file=sys.stderr)
    return 1
  picture, page = draw(options.output, made)
  print(f'\nDone in {time.monotonic() - start:.0f} s.\nPicture: {picture}\nPage:    {page}')
  return 0


if __name__ == '__main__':
  sys.exit(main())

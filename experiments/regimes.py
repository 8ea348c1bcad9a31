"""Runs the regimes and their controls with five seeds each, and writes rows and verdicts.

  python experiments/regimes.py --output=runs/regimes
  python experiments/regimes.py --output=runs/regimes --regimes=cartpole,catch
  python experiments/regimes.py report --results=docs/results/regimes

The first runs what is not there yet, one run after the other: it resumes where it was stopped.
`report` adds the finished runs' rows to those that are kept in --results, and prints the tables of
docs/regimes. Run it from the repository's root.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import pandas as pd
import run_flags
from absl import app, flags

from implicit_rl import regimes
from implicit_rl.analysis import runs, style, tables
from implicit_rl.running import parallel_runs

FLAGS = flags.FLAGS

KEPT = (
  'iteration updates srank effective_rank centred_effective_rank dead_units q_mean q_data_gap '
  'td_error Losses/MonteCarlo plasticity_error_ratio eval_return train_return'
).split()
# What the second table shows of the last iteration: heading, metric, digits.
SHOWN = (
  ('srank', 'srank', 0),
  ('entropy rank', 'effective_rank', 1),
  ('centred entropy rank', 'centred_effective_rank', 1),
  ('dead units', 'dead_units', 2),
  ('plasticity ratio', 'plasticity_error_ratio', 2),
  ('Q − return', 'q_data_gap', 1),
  ('return', 'eval_return', 1),
)
ITSELF = '(regime)'
REPLAYS = 'runs/minatar_offline/replays'


@functools.cache
def iterations(gin_files: tuple[str, ...], online: bool) -> int:
  """The iterations of a run, as its gin files say."""
  import gin

  from implicit_rl.running import experiment  # TensorFlow: not for a report of kept rows.

  experiment.parse_gin(gin_files, [])
  return gin.query_parameter(f'{"Online" if online else "Offline"}Runner.num_iterations')


def jobs(
  regime: regimes.Regime, control: str | None, output: pathlib.Path, replays: str = REPLAYS
) -> list[parallel_runs.Job]:
  """What to run for a regime or a control: a job for all seeds, or one for each."""
  folder = output / regime.name / (control or 'regime')
  files = regime.gin_files(control)
  count, seeds = iterations(files, regime.online), regimes.SEEDS
  runner = 'OnlineRunner' if regime.online else 'OfflineRunner'
  bindings = (
    f'{runner}.keep_checkpoints = 1',
    *[f'TFDSReplay.data_dir = {replays!r}'] * regime.needs_replay,
  )
  if regime.seeds_apart:
    return [
      parallel_runs.Job(folder / f'seed_{seed}', files, bindings, seed, count) for seed in seeds
    ]
  bindings += (f'{runner}.num_seeds = {len(seeds)}', f"{runner}.seeds_as = 'vmap'")
  return [parallel_runs.Job(folder, files, bindings, seeds[0], count * len(seeds))]


def order(chosen: Sequence[regimes.Regime]) -> list[tuple[regimes.Regime, str | None]]:
  """The regimes and controls in the order in which they run: what is judged comes first."""
  judged = [(regime, control) for regime in chosen for control in (None, regime.controls[0])]
  return judged + [(regime, control) for regime in chosen for control in regime.controls[1:]]


def collect(output: pathlib.Path) -> pd.DataFrame:
  """The rows of the finished runs: a row per regime, control, seed and iteration."""
  parts = []
  for regime in regimes.REGIMES:
    for control in (None, *regime.controls):
      planned = jobs(regime, control, output)
      if not all(job.finished for job in planned):
        continue
      folder = output / regime.name / (control or 'regime')
      for path in runs.find(folder):
        run = runs.read(path)
        part = runs.frame({'': [run]}).reindex(columns=KEPT)
        part.insert(0, 'regime', regime.name)
        part.insert(1, 'control', control or ITSELF)
        part.insert(2, 'seed', run.seed)
        parts.append(part.assign(commit=run.commit))
  return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def per_seed(rows: pd.DataFrame, metric: str, last: int = 1) -> pd.Series:
  """A metric's mean over the last rows of each seed; the index is the seed."""
  ordered = rows.sort_values('iteration')
  return ordered.groupby('seed')[metric].apply(lambda values: values.tail(last).mean())


def part(rows: pd.DataFrame, regime: regimes.Regime, control: str | None) -> pd.DataFrame:
  """The rows of a regime or of one of its controls."""
  chosen = (rows['regime'] == regime.name) & (rows['control'] == (control or ITSELF))
  return rows[chosen]


def verdict_table(rows: pd.DataFrame) -> str:
  """What each criterion says, as Markdown; regimes without rows are marked as not run."""
  found = []
  for regime in regimes.REGIMES:
    control = regime.controls[0]
    line = {
      'regime': f'`{regime.name}`',
      'criterion': f'`{regime.metric}` {regime.direction} `{control}`',
    }
    halves = [part(rows, regime, name) for name in (None, control)]
    if all(len(half) for half in halves):
      one, two = (per_seed(half, regime.metric, regime.last).to_numpy() for half in halves)
      verdict = regimes.judge(regime, one, two)
      line |= {
        'regime, 5 seeds': tables.mean_and_spread(one, 2),
        'control, 5 seeds': tables.mean_and_spread(two, 2),
        'difference / error': f'{verdict.difference / verdict.error:+.1f}',
        'happened': 'yes' if verdict.happened else 'no',
      }
    else:
      line |= dict.fromkeys(('regime, 5 seeds', 'control, 5 seeds', 'difference / error'), '')
      line['happened'] = 'not run yet'
    found.append(line)
  return tables.markdown(pd.DataFrame(found))


def values_table(rows: pd.DataFrame, regime: regimes.Regime) -> str:
  """A regime beside its controls at the end of the runs, as Markdown: mean ± standard deviation."""
  found = []
  for control in (None, *regime.controls):
    half = part(rows, regime, control)
    if not len(half):
      continue
    line = {'run': control or 'regime', 'updates': f'{half["updates"].max():,.0f}'}
    metrics = [*SHOWN, *[(regime.metric, regime.metric, 3)] * (regime.metric.startswith('Losses'))]
    for heading, metric, digits in metrics:
      values = per_seed(half, metric).to_numpy()
      line[heading] = tables.mean_and_spread(values, digits) if pd.notna(values).all() else ''
    found.append(line)
  return tables.markdown(pd.DataFrame(found)) if found else ''


def merged(kept: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
  """The kept rows with the new ones, which replace those of the same regime and control."""
  key = lambda rows: list(zip(rows['regime'], rows['control'], strict=True))
  left = kept[[one not in set(key(new)) for one in key(kept)]]
  rank = {regime.name: number for number, regime in enumerate(regimes.REGIMES)}
  rows = pd.concat([left, new], ignore_index=True)
  return rows.sort_values('regime', key=lambda names: names.map(rank), kind='stable')


def report(output: pathlib.Path, results: pathlib.Path) -> None:
  """Adds the rows of the finished runs to the CSV of results, and prints the tables."""
  new = collect(output) if output.is_dir() else pd.DataFrame()
  path = results / 'rows.csv'
  if len(new):
    results.mkdir(parents=True, exist_ok=True)
    style.write_csv(merged(pd.read_csv(path), new) if path.exists() else new, path)
  rows = pd.read_csv(path)
  print(verdict_table(rows))
  for regime in regimes.REGIMES:
    print(f'\n{regime.name}\n\n{values_table(rows, regime)}')


def main(argv: Sequence[str]) -> None:
  """Runs, then reports; with `report`, reports alone."""
  if argv[1:] not in ([], ['report']):
    raise SystemExit(f'regimes: no step {" ".join(argv[1:])}; there is report.')
  output = run_flags.folder(FLAGS.output)
  try:
    chosen = [regimes.find(name) for name in FLAGS.regimes] or regimes.REGIMES
    if not argv[1:]:
      left_out = [one.name for one in chosen if one.needs_replay]
      if left_out and not pathlib.Path(FLAGS.replays).is_dir():
        chosen = [one for one in chosen if not one.needs_replay]
        print(f'--replays: no {FLAGS.replays}, so {", ".join(left_out)} are left out.')
      planned = [job for pair in order(chosen) for job in jobs(*pair, output, FLAGS.replays)]
      cache = output / 'compiled'
      planned = run_flags.chosen(planned)
      parallel_runs.run_all(planned, processes=FLAGS.processes, compilation_cache=cache)
    report(output, pathlib.Path(FLAGS.results or output / 'report'))
  except (OSError, ValueError) as error:
    raise SystemExit(f'regimes: {error}') from error


if __name__ == '__main__':
  run_flags.define('regimes', processes=1)
  flags.DEFINE_list('regimes', [], 'Only these regimes.')
  flags.DEFINE_string(
    'replays', REPLAYS, 'Replays that experiments/minatar_offline.py made; some regimes need them.'
  )
  app.run(main)

"""The numbers of docs/reproduction.md that come from two sweeps and from online MinAtar's rows.

    implicit-rl sweep --spec=sweeps/minatar_all_measures.yaml
    implicit-rl sweep --spec=sweeps/minatar_rainbow_penalty.yaml
    python experiments/paper_rows.py keep    (writes rows.csv from the sweeps' finished runs)
    python experiments/paper_rows.py         (prints the numbers from the kept rows)

Run it from the repository's root.
"""

from __future__ import annotations

import pathlib
import sys

import pandas as pd

from implicit_rl.analysis import runs, style, tables

RESULTS = pathlib.Path('docs/results')
_MEASURES = (
  'eval_return srank effective_rank centred_effective_rank pca_rank td_error q_mean revision'
).split()
# Sweep: its iterations, and what is kept of each.
KEPT = {
  'minatar_all_measures': (10, ['eigenvalue_srank', 'srank/target', *_MEASURES]),
  'minatar_rainbow_penalty': (6, ['environment_steps', *_MEASURES]),
}


def collect(sweep: str) -> pd.DataFrame:
  """The rows of a sweep's finished runs, each with the commit that ran."""
  iterations, names = KEPT[sweep]
  parts = []
  for variant in ('none', 'lp'):
    for path in runs.find(pathlib.Path('runs') / sweep / variant):
      run = runs.read(path)
      if len(run.rows) == iterations:
        parts.append(runs.frame({variant: [run]}).assign(revision=run.commit))
  return pd.concat(parts)[['variant', 'game', 'seed', 'iteration', 'updates', *names]]


def first_and_last(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
  """A row per variant, game and measure: mean ± deviation over seeds, at both ends of the runs."""
  found = []
  for (variant, game), group in rows.groupby(['variant', 'game'], sort=False):
    ends = [group[group['iteration'] == at] for at in (0, group['iteration'].max())]
    for name in names:
      first, last = (tables.mean_and_spread(end[name].to_numpy()) for end in ends)
      found.append(
        {'variant': variant, 'game': game, 'measure': name, 'first': first, 'last': last}
      )
    best = group.groupby('seed')['eval_return'].max().to_numpy()
    found[-1] |= {'best return': tables.mean_and_spread(best)}
  return pd.DataFrame(found).fillna('')


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
  """Spearman's ρ between srank and TD error within each run of DQN at n = 0.25 (Figure A.12)."""
  rows = rows[rows['variant'] == 'DQN, n = 0.25']
  found = [
    {'game': game, 'seed': seed, 'ρ': f'{run["srank"].corr(run["td_error"], "spearman"):+.2f}'}
    for (game, seed), run in rows.groupby(['game', 'seed'], sort=False)
  ]
  return pd.DataFrame(found)


def main() -> None:
  """Keeps rows, or prints the tables."""
  for sweep, (_, names) in KEPT.items():
    path = RESULTS / sweep / 'rows.csv'
    if sys.argv[1:] == ['keep']:
      style.write_csv(collect(sweep), path)
    measures = [name for name in names if 'rank' in name] + ['eval_return']
    print(f'{sweep}\n\n{tables.markdown(first_and_last(pd.read_csv(path), measures))}\n')
  online = pd.read_csv(RESULTS / 'minatar_online' / 'runs.csv')
  print(f'A.12\n\n{tables.markdown(correlations(online))}')


if __name__ == '__main__':
  main()

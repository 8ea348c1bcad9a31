"""Chooses each method's strength from the tuning runs, by one rule that was fixed before them.

The rule: the value with the best mean final return over the tuning seeds. Of equal values the first
in the file is taken, which is the authors' default. A value of which a seed is missing or has no
return is no candidate.
"""

from __future__ import annotations

import pandas as pd

from implicit_rl.leaderboard.spec import Spec


def choose(tuning: pd.DataFrame, spec: Spec) -> dict[str, float]:
  """Returns the chosen strength of each method that has complete tuning rows.

  Args:
    tuning: the rows of tuning.csv.
    spec: the leaderboard's.
  """
  chosen = {}
  for name, method in spec.methods.items():
    rows = tuning[tuning['remedy'] == name]
    means = {}
    for value in method.values:
      returns = rows.loc[rows['setting'] == f'{value:g}', 'final_return'].dropna()
      if len(returns) == len(spec.tuning_seeds):
        means[value] = returns.mean()
    if means:
      chosen[name] = max(means, key=means.__getitem__)  # The first of equal ones.
  return chosen

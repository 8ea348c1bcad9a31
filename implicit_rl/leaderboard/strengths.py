"""Chooses each method's strength from the tuning runs, by a rule that was fixed before them.

The rule chooses the value with the best mean final return over the tuning seeds. In a tie it
chooses the first in the file, which is the authors' default. A value without a return for a seed,
for example after non-finite training, is chosen only if all values are like this.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from implicit_rl.leaderboard.spec import Spec


def choose(tuning: pd.DataFrame, spec: Spec) -> dict[str, float]:
  """Returns the chosen strength of each method whose values have all been tried.

  Without `tuning` in the file it is each method's first value.

  Args:
    tuning: the rows of tuning.csv.
    spec: the leaderboard's.
  """
  if spec.tuning_regime is None:
    return {name: method.values[0] for name, method in spec.methods.items() if method.values}
  chosen = {}
  for name, method in spec.methods.items():
    means = {}
    for value in method.values:
      here = (tuning['remedy'] == name) & (tuning['setting'] == f'{value:g}')
      returns = tuning.loc[here, 'final_return'].to_numpy(float)
      if len(returns) == len(spec.tuning_seeds):
        means[value] = -np.inf if np.isnan(returns).any() else returns.mean()
    if means and len(means) == len(method.values):
      chosen[name] = max(means, key=means.__getitem__)  # The first of equal ones.
  return chosen

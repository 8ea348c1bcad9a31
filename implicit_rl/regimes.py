"""Settings in which a loss of rank, plasticity or accuracy may happen, and criteria for it.

A regime is gin_configs/regimes/NAME.gin; each control is an overlay NAME_CONTROL.gin beside it. Its
criterion compares one metric of `metrics.jsonl` with one control, in one direction. Criteria are
fixed on other seeds (100 and above) before the seeds that judge them (0 to 4) are run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SEEDS = range(5)
BEYOND = 2.0  # standard errors of the difference of two means


class Regime(NamedTuple):
  """A setting, its controls and its criterion.

  Attributes:
    name: the gin file's, without extension.
    title: what it is, in a few words.
    metric: key of `metrics.jsonl` that the criterion compares.
    direction: 'below' or 'above': where the regime's metric must be relative to the control's.
    controls: names of the overlays; the first is the one that the criterion compares with.
    meaning: what it means when the criterion holds.
    last: rows at the end of a run that the metric is averaged over.
    online: whether the agent acts; otherwise it trains offline.
    seeds_apart: whether each seed is a process of its own, not all one vmapped program: where the
      agent acts step by step on the host, and where training takes long on a CPU, on which
      processes are the faster way (docs/scaling.md).
    needs_replay: whether the regime needs a replay that does not ship with the package;
      `experiments/minatar_offline.py replays` makes it.
  """

  name: str
  title: str
  metric: str
  direction: str
  controls: tuple[str, ...]
  meaning: str
  last: int = 1
  online: bool = False
  seeds_apart: bool = False
  needs_replay: bool = False

  def gin_files(self, control: str | None = None) -> tuple[str, ...]:
    """Returns the gin files of the regime, or of one of its controls.

    Raises:
      ValueError: for a control that the regime does not have.
    """
    if control is not None and control not in self.controls:
      raise ValueError(f'{self.name} has the controls {", ".join(self.controls)}, not {control!r}.')
    names = [self.name, *([] if control is None else [f'{self.name}_{control}'])]
    return tuple(f'gin_configs/regimes/{name}.gin' for name in names)


class Verdict(NamedTuple):
  """Comparison of a regime with its control.

  Attributes:
    regime: mean of the metric over the regime's seeds.
    control: the same for the control.
    difference: regime − control.
    error: standard error of the difference, √(s₁²/n₁ + s₂²/n₂).
    happened: the difference lies in the criterion's direction, by more than `BEYOND` errors.
  """

  regime: float
  control: float
  difference: float
  error: float
  happened: bool


def judge(regime: Regime, values: Sequence[float], control: Sequence[float]) -> Verdict:
  """Applies a regime's criterion.

  Args:
    regime: the regime, whose direction is used.
    values: the metric of each seed of the regime.
    control: the same for the control.

  Raises:
    ValueError: with fewer than two seeds of either, or a value that is not finite.
  """
  one, two = np.asarray(values, np.float64), np.asarray(control, np.float64)
  if min(len(one), len(two)) < 2 or not (np.isfinite(one).all() and np.isfinite(two).all()):
    raise ValueError(
      f'{regime.name} needs two seeds with finite values of {regime.metric}, and so does its '
      f'control; got {one.tolist()} and {two.tolist()}.'
    )
  difference = float(one.mean() - two.mean())
  error = math.sqrt(one.var(ddof=1) / len(one) + two.var(ddof=1) / len(two))
  towards = difference if regime.direction == 'above' else -difference
  return Verdict(float(one.mean()), float(two.mean()), difference, error, towards > BEYOND * error)


REGIMES = (
  Regime(
    'gridworld_small_data',
    'Gridworld, 500 transitions',
    'centred_effective_rank',
    'below',
    ('clipped', 'supervised'),
    'Diverging values reduce the rank, and clipped targets keep more of it.',
  ),
  Regime(
    'target_scale',
    'Targets with a large mean',
    'centred_effective_rank',
    'below',
    ('0', '10'),
    'A constant that changes no policy reduces the rank.',
  ),
  Regime(
    'random_targets',
    'A stream of random targets',
    'Losses/MonteCarlo',
    'above',
    ('fresh',),
    'A network that has learned many tasks learns new ones worse than fresh networks do.',
  ),
  Regime(
    'late_reward',
    'A reward that is revealed late',
    'centred_effective_rank',
    'below',
    ('fresh', 'from_start'),
    'A network that first learned to predict 0 has a lower rank after as many rewarded updates.',
  ),
  Regime(
    'dead_relu',
    'Rectified units that die',
    'effective_rank',
    'below',
    ('tanh', 'slow'),
    'Dead units reduce the rank, and units that cannot die keep more of it.',
  ),
  Regime(
    'cartpole',
    'Offline CartPole',
    'centred_effective_rank',
    'below',
    ('clipped', 'fqe', 'monte_carlo'),
    'Diverging values reduce the rank, and clipped targets keep more of it.',
  ),
  Regime(
    'catch',
    'Offline Catch',
    'effective_rank',
    'below',
    ('monte_carlo', 'fqe'),
    'Bootstrapping reduces the raw rank, and regression to the returns keeps more of it.',
  ),
  Regime(
    'deep_sea',
    'Offline DeepSea',
    'effective_rank',
    'below',
    ('monte_carlo', 'fqe'),
    'Bootstrapping reduces the raw rank, and regression to the returns keeps more of it.',
  ),
  Regime(
    'heavy_priming',
    'Heavy priming on the first 200 steps',
    'plasticity_error_ratio',
    'above',
    ('none', 'fresh'),
    'A network that was fitted to its first data for a long time learns new targets worse.',
    online=True,
  ),
  Regime(
    'replay_ratio',
    'Sixteen updates per step',
    'centred_effective_rank',
    'below',
    ('1', 'equal_updates'),
    'Many updates on the same data reduce the rank.',
    online=True,
  ),
  Regime(
    'continual_minatar',
    'Three MinAtar games in sequence, twice',
    'eval_return',
    'below',
    ('fresh',),
    'An agent that has played other games learns a game worse than a fresh agent.',
    online=True,
    seeds_apart=True,
  ),
  Regime(
    'minatar_short_target',
    'MinAtar Breakout, short target period',
    'effective_rank',
    'below',
    ('fqe', 'monte_carlo'),
    'Bootstrapping with a maximum reduces the raw rank, and without it more of it stays.',
  ),
  Regime(
    'minatar_long_breakout',
    'MinAtar Breakout, 400 epochs',
    'effective_rank',
    'below',
    ('monte_carlo',),
    'Over as many epochs as in the paper, bootstrapping reduces the raw rank.',
    seeds_apart=True,
  ),
  Regime(
    'minatar_long_space_invaders',
    'MinAtar Space Invaders, 400 epochs',
    'effective_rank',
    'below',
    ('monte_carlo',),
    'Over as many epochs as in the paper, bootstrapping reduces the raw rank.',
    seeds_apart=True,
    needs_replay=True,
  ),
  Regime(
    'minatar_long_asterix',
    'MinAtar Asterix, 400 epochs',
    'effective_rank',
    'below',
    ('monte_carlo',),
    'Over as many epochs as in the paper, bootstrapping reduces the raw rank.',
    seeds_apart=True,
    needs_replay=True,
  ),
)


def find(name: str) -> Regime:
  """Returns the regime of a name.

  Raises:
    ValueError: for an unknown name; the error lists all names.
  """
  for regime in REGIMES:
    if regime.name == name:
      return regime
  raise ValueError(f'No regime {name!r}; there are {", ".join(one.name for one in REGIMES)}.')

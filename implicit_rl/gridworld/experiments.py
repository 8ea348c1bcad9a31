"""The experiments: runs of each gridworld figure of the paper, and the cells of the map."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from implicit_rl.gridworld.config import FittedQConfig

BASE = FittedQConfig()
MAP_UPDATES = 20_000  # gradient steps of every run in the map
replace = dataclasses.replace
Axis = Mapping[str, Mapping[str, Any]]  # fields of a configuration, by the name of the choice


class Figure(NamedTuple):
  """One figure of the paper.

  Attributes:
    title: its content.
    variants: configurations by the name in the legend.
    panels: names of the measures drawn, left to right.
    axis: measure on the horizontal axis.
  """

  title: str
  variants: Mapping[str, FittedQConfig]
  panels: Sequence[str]
  axis: str = 'updates'


_OFFLINE = {
  'T=10': replace(BASE, steps=10),
  'T=200': BASE,
  'T=10, equal updates': replace(BASE, steps=10, iterations=10_000, log_every=200),
  'supervised, T=200': replace(BASE, target='optimal'),
}
_ONLINE_BASE = replace(BASE, data='online')
_ONLINE = {
  'n=10': replace(_ONLINE_BASE, steps=10),
  'n=200': _ONLINE_BASE,
  'n=10, equal updates': replace(_ONLINE_BASE, steps=10, iterations=10_000, log_every=200),
  'supervised, n=200': replace(_ONLINE_BASE, target='optimal'),
}
_ONE_HOT = {name: replace(c, observation='xy_one_hot') for name, c in _ONLINE.items()}
_WIDE_LINEAR = replace(BASE, hidden_units=(64, 1280), activation='linear', steps=20)
_RANKS = ('srank', 'reference_srank')

FIGURES = {
  'figure_2': Figure('Offline: rank and return', _OFFLINE, (*_RANKS, 'eval_return', 'q_mean')),
  'figure_3': Figure('Online: rank and return', _ONLINE, (*_RANKS, 'eval_return', 'q_mean')),
  'figure_4a': Figure(
    'Online: error of fitting Q* linearly from the features', _ONLINE, ('q_fit_error', *_RANKS)
  ),
  'figure_4c': Figure(
    'A new network for every fitting iteration',
    {
      're-initialised, T=200': replace(BASE, reinitialize=True),
      're-initialised, supervised': replace(BASE, reinitialize=True, target='optimal'),
      'T=200': BASE,
      'supervised, T=200': _OFFLINE['supervised, T=200'],
    },
    (*_RANKS, 'eval_return'),
  ),
  'figure_4d': Figure(
    'Policy evaluation: bootstrapped (FQE) and Monte Carlo',
    {
      'FQE, T=200': replace(BASE, target='policy'),
      'Monte Carlo, T=200': replace(BASE, target='monte_carlo'),
      'FQE, T=10': replace(BASE, target='policy', steps=10),
    },
    (*_RANKS, 'q_error'),
  ),
  'figure_6a': Figure(
    'Offline: the penalty',
    {
      'T=200': BASE,
      'T=200, penalty 0.001': replace(BASE, penalty_weight=1e-3),
      'supervised, T=200': _OFFLINE['supervised, T=200'],
    },
    (*_RANKS, 'eval_return', 'sigma_max'),
  ),
  'figure_a11a': Figure(
    "Regression to the current policy's exact values",
    {
      'exact values, T=200': replace(BASE, target='current_policy'),
      'exact values, T=10': replace(BASE, target='current_policy', steps=10),
      'bootstrapped, T=200': BASE,
    },
    (*_RANKS, 'eval_return'),
  ),
  'figure_a11b': Figure(
    'Online with one-hot coordinates', _ONE_HOT, ('q_fit_error', *_RANKS, 'eval_return')
  ),
  'figure_a21': Figure(
    'Deep linear network with |S||A| features: eigenvalue and singular value ranks',
    {
      'offline': _WIDE_LINEAR,
      'online': replace(_WIDE_LINEAR, data='online'),
      'offline, supervised': replace(_WIDE_LINEAR, target='optimal'),
    },
    ('eigen_srank', 'eigen_batch_srank', 'reference_srank'),
    axis='iteration',
  ),
}


def shortened(figure: Figure, rows: int) -> Figure:
  """Returns a figure whose runs end after `rows` rows of measures beside the initial one."""
  shorter = {
    name: replace(config, iterations=rows * config.log_every)
    for name, config in figure.variants.items()
  }
  return figure._replace(variants=shorter)


# The map. A cell is a configuration; all use MAP_UPDATES gradient steps.
_DATA: Axis = {
  'uniform 500': {'data_size': 500},
  'uniform 1000': {'data_size': 1000},
  'uniform 2000': {'data_size': 2000},
  'uniform 10000': {'data_size': 10_000},
  'random policy 10000': {'data': 'random'},
  'near-optimal policy 10000': {'data': 'epsilon_greedy', 'epsilon': 0.3},
}
_OPTIMIZER: Axis = {
  'Adam 1e-3': {},
  'Adam 5e-3': {'learning_rate': 5e-3},
  'SGD 0.05': {'optimizer': 'sgd', 'learning_rate': 0.05},
  'RMSProp 1e-3': {'optimizer': 'rmsprop'},
}
_METHOD: Axis = {
  'T=10': {'steps': 10},
  'T=200': {},
  'supervised': {'target': 'optimal'},
}
_CLIP: Axis = {'free targets': {}, 'clipped targets': {'clip_targets': True}}
_PENALTY: Axis = {f'penalty {w:g}': {'penalty_weight': w} for w in (1e-3, 1e-2)}
_PENALTY_DATA: Axis = {
  name: _DATA[name] for name in ('uniform 500', 'uniform 2000', 'uniform 10000')
}
_ACTIVATION: Axis = {'relu': {}, 'tanh': {'activation': 'tanh'}}
_REWARD: Axis = {name: {'reward': name} for name in ('distance', 'distance_cost', 'sparse')}
_BACKUP: Axis = {'soft': {}, 'hard': {'temperature': 0.0}}
_ENV_STEPS: Axis = {f'online, {n} steps': {'data': 'online', 'env_steps': n} for n in (1, 50)}

# In the order in which they run, so that a map that is stopped early has complete groups.
GROUPS: Mapping[str, Sequence[Axis]] = {
  'data_optimizer_clipping': (_DATA, _OPTIMIZER, _METHOD, _CLIP),
  'penalty': (_PENALTY, _PENALTY_DATA, _METHOD, _CLIP),
  'activation_reward_backup': (
    {name: _DATA[name] for name in ('uniform 500', 'uniform 10000')},
    _ACTIVATION,
    _REWARD,
    _BACKUP,
    _METHOD,
  ),
  'data_steps_clipping': (_DATA, {'T=50': {'steps': 50}}, _CLIP),
  'online': (_ENV_STEPS, _METHOD),
}


def map_config(*choices: Mapping[str, Any]) -> FittedQConfig:
  """Returns the configuration of a cell: the base with `choices` and MAP_UPDATES gradient steps."""
  fields: dict[str, Any] = {}
  for choice in choices:
    fields.update(choice)
  if fields.get('target') == 'optimal':
    fields.pop('clip_targets', None)  # Exact targets need no clipping: one cell, not two.
  return _at_map_updates(replace(BASE, **fields))


def map_cells() -> dict[FittedQConfig, str]:
  """Returns every cell of the map once, with the first group that contains it."""
  cells: dict[FittedQConfig, str] = {}
  for group, axes in GROUPS.items():
    for choices in itertools.product(*(axis.values() for axis in axes)):
      cells.setdefault(map_config(*choices), group)
  return cells


def control_of(config: FittedQConfig, method: str) -> FittedQConfig:
  """Returns the cell that differs from `config` by the method: 'supervised', 'T=10' or 'T=200'."""
  fields = {'steps': BASE.steps, 'target': 'bootstrap', **_METHOD[method]}
  if fields['target'] == 'optimal':
    fields['clip_targets'] = False
  return _at_map_updates(replace(config, **fields))


def _at_map_updates(config: FittedQConfig) -> FittedQConfig:
  iterations = MAP_UPDATES // config.steps
  return replace(config, iterations=iterations, log_every=iterations // 20)

"""Updates of different settings, vmapped as one program, are each setting's own updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl.remedies.l2_init import L2Init
from implicit_rl.remedies.redo import ReDo
from implicit_rl.running.merged_updates import DifferentProgramsError, merge
from tests.cases import cases
from tests.remedies import small_learners

K = 4


def make(rate=1e-3, weight=1e-3, period=2, optimizer=optax.adam, **settings):
  remedies = {'l2': L2Init(weight), 'redo': ReDo(period=period)}
  return small_learners.make('DQN', remedies, optimizer=optimizer(rate), **settings)


SETTINGS = {
  'learning rate and penalty': [
    {'rate': 1e-3, 'penalty_weight': 1e-3},
    {'rate': 3e-2, 'penalty_weight': 1e-1},
    {'rate': 1e-4, 'penalty_weight': 1e-1},
  ],
  'target network and clipping': [
    {'target_update_period': 2, 'target_update_rate': 0.5, 'max_gradient_norm': 0.1},
    {'target_update_period': 3, 'target_update_rate': 0.01, 'max_gradient_norm': 1.0},
  ],
  'remedies': [{'weight': 1e-2, 'period': 2}, {'weight': 1.0, 'period': 3}],
}


@pytest.mark.parametrize('kind', cases(((kind,) for kind in SETTINGS), lambda kind: 'rate' in kind))
def test_vmapped_settings_are_separate_ones(kind):
  learners = [make(**settings) for settings in SETTINGS[kind]]
  count = len(learners)
  batches = small_learners.batches('DQN', K)
  together = learners[0].over_seeds(count, merge([one.pure_update for one in learners]))
  states = [small_learners.start(one, seed) for seed, one in enumerate(learners)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
  many = jax.tree.map(lambda x: np.stack([x] * count, axis=1), batches)
  stacked, info = together.update_many(stacked, many)
  ends = [one.update_many(state, batches) for one, state in zip(learners, states, strict=True)]
  for number, expected in enumerate(ends):
    got = (
      jax.tree.map(lambda x, n=number: x[n], stacked),
      jax.tree.map(lambda x, n=number: x[:, n], info),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)
  # The settings matter: the same state under another one's update ends elsewhere.
  other, _ = learners[1].update_many(small_learners.start(learners[0], 0), batches)
  ended = jax.tree.leaves((ends[0][0].params, ends[0][0].target_params))
  differing = jax.tree.leaves((other.params, other.target_params))
  assert any((a != b).any() for a, b in zip(ended, differing, strict=True))


def test_one_number_of_many_is_no_more_work_than_one():
  """The merged update has the operations of one, and a look-up of what differs."""
  learners = [make(rate=rate) for rate in (1e-3, 1e-2, 1e-1)]
  merged = merge([one.pure_update for one in learners])
  state, batch = small_learners.start(learners[0]), small_learners.batches('DQN')
  sizes = [
    str(jax.make_jaxpr(function)(*given, state, batch)).count(' dot_general[')
    for function, given in ((learners[0].pure_update, ()), (merged, (0,)))
  ]
  assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ({'penalty_weight': 0.0}, {'penalty_weight': 1e-3}),
    ({'target_update_rate': 1.0}, {'target_update_rate': 0.5}),
    ({'optimizer': optax.adam}, {'optimizer': functools.partial(optax.adam, nesterov=True)}),
  ],
)
def test_what_is_another_program_is_refused(one, other):
  merged = merge([make(**settings).pure_update for settings in (one, other)])
  learner = make(**one)
  with pytest.raises(DifferentProgramsError, match='they differ in'):
    jax.eval_shape(merged, 0, small_learners.start(learner), small_learners.batches('DQN'))

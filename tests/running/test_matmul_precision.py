"""`Experiment.matmul_precision`: the precision of products that accelerators compute in."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from implicit_rl import rank
from implicit_rl.measure_device import workloads
from implicit_rl.running import experiment
from tests.command_line import ROOT


@pytest.fixture
def restored():
  before = jax.config.jax_default_matmul_precision
  yield
  jax.config.update('jax_default_matmul_precision', before)


def precisions(function, *arguments):
  text = jax.jit(function).lower(*arguments).as_text()
  return {name for name in ('DEFAULT', 'HIGHEST', 'HIGH') if f'{name},' in text}


def test_products_take_it_and_the_ranks_stay_precise(restored):
  x = np.ones((3, 4), np.float32)
  product = lambda: lambda a: jnp.matmul(a, a.T)  # A new function is traced anew.
  experiment._set_matmul_precision(None)
  before = precisions(product(), x)
  for name, expected in (('float32', 'HIGHEST'), ('tensorfloat32', 'HIGH')):
    experiment._set_matmul_precision(name)
    assert precisions(product(), x) == {expected}
    assert precisions(lambda a: rank.lp_penalty(a), x) == {'HIGHEST'}
  assert before == {'DEFAULT'}


def test_an_unknown_one_is_named_and_nothing_is_written(tmp_path, restored):
  with pytest.raises(ValueError, match=r"Experiment.matmul_precision must be .*bfloat16, got 'x'"):
    experiment.create_runner(
      str(tmp_path / 'run'), environment=None, agent=None, matmul_precision='x'
    )
  assert not list(tmp_path.iterdir())


def test_rounded_products_are_rounded_forward_backward_and_in_loops(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'experiments')
  import matmul_precision

  x, w, g = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
  cut = lambda a: np.asarray(a, jnp.bfloat16).astype(np.float32)  # NumPy's own rounding.

  def loss(w):
    _, products = jax.lax.scan(lambda carry, a: (carry, jax.nn.relu(a[None] @ w)[0]), 0, x)
    return jnp.sum(products * g)

  value, slope = jax.jit(matmul_precision.rounded(jax.value_and_grad(loss), 7))(w)
  forward = cut(x) @ cut(w)
  np.testing.assert_allclose(value, np.sum(np.maximum(forward, 0) * g), rtol=1e-5)
  expected = cut(x).T @ cut(np.where(forward > 0, g, 0))
  np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-5)


def test_products_rounded_to_their_own_mantissa_are_the_same(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'experiments')
  import matmul_precision

  learner = workloads.learner('MinAtar', 4, penalty_weight=0.001)
  state = workloads.states('MinAtar', learner, 1)
  batch = workloads.batches(workloads.SIZES['MinAtar'], 4)
  ends = []
  for update in (learner.pure_update, matmul_precision.rounded(learner.pure_update, 23)):
    ends.append(jax.tree.leaves(jax.jit(update)(state, batch)[0].params))
  for one, other in zip(*ends, strict=True):
    np.testing.assert_array_equal(one, other)


def test_an_effect_has_one_sign_and_is_larger_than_the_controls(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'experiments')
  import matmul_precision

  moved = {
    'float32': (0, 0, 0),
    matmul_precision.CONTROL: (1, -2, 0),
    'TF32': (2, 1, 1),  # One sign, and no more than the control moves.
    'bfloat16': (-3, -2, -4),
  }
  measures = ('srank', 'centred_srank', 'effective_rank', 'centred_effective_rank', 'q_mean')
  rows = [
    {'variant': name, 'seed': seed, 'iteration': iteration, 'eval_return': iteration + by}
    | dict.fromkeys(measures, 50 + iteration + by)
    | ({matmul_precision._ROUNDED: 40.0} if iteration == 5 else {})
    for name, each in moved.items()
    for seed, by in enumerate(each)
    for iteration in range(6)
  ]
  measured, compared = matmul_precision.tables_of(pd.DataFrame(rows))
  assert measured['srank'][0] == '55.00 ± 0.00 (55, 55, 55)'  # Of the last iteration.
  assert measured['return'][3].endswith('(1, 2, 0)')  # The mean of 3, 4 and 5, and what was moved.
  found = {(row['measure'], row['products in']): row['effect'] for _, row in compared.iterrows()}
  assert found['srank', 'TF32'] == 'no' and found['srank', 'bfloat16'] == 'yes'
  assert found['return', 'bfloat16'] == 'yes'
  assert found['srank, rounded', 'bfloat16'] == 'no'  # No difference at all.

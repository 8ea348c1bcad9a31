"""Gradual magnitude pruning against sorting in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from implicit_rl.remedies.pruning import MagnitudePruning, left
from tests.cases import cases
from tests.remedies import small_learners
from tests.remedies.small_learners import assert_equal

SOON = MagnitudePruning(period=2, sparsity=0.9, begin=2, end=8)


def kernels(params):
  flat = traverse_util.flatten_dict(params['params'], sep='/')
  return {path: np.asarray(x) for path, x in flat.items() if 'kernel' in path.split('/')[-1]}


def test_the_smallest_go_and_none_comes_back():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(6, 7)).astype(np.float32)
  mask = np.ones((6, 7), bool)
  for share in (0.0, 0.25, 0.5, 0.5, 0.9):
    count = round(share * 42)
    expected = np.ones(42, bool)
    expected[sorted(range(42), key=lambda i: (mask.flat[i], abs(weights.flat[i])))[:count]] = False
    mask = np.asarray(jax.jit(left)(weights, mask, share))
    np.testing.assert_array_equal(mask.ravel(), expected)
    assert (~mask).sum() == count
    weights = np.where(mask, rng.normal(size=(6, 7)), 0).astype(np.float32)


def test_the_share_follows_the_cubic_schedule():
  remedy = MagnitudePruning(sparsity=0.95, begin=500_000, end=2_000_000)
  for updates, expected in (
    (0, 0.0),
    (500_000, 0.0),
    (1_250_000, 0.95 * (1 - 0.5**3)),
    (1_625_000, 0.95 * (1 - 0.25**3)),
    (2_000_000, 0.95),
    (9_000_000, 0.95),
  ):
    np.testing.assert_allclose(remedy.share(jnp.asarray(updates)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  'name',
  cases(((one,) for one in ['DQN', 'Rainbow', 'MinAtar', 'SAC']), 'SAC'.__eq__),
)
def test_pruned_weights_stay_0_in_both_networks_and_the_rest_learns(name):
  learner = small_learners.make(name, {'pruning': SOON}, target_update_period=3)
  state = small_learners.start(learner)
  initial = kernels(state.params)
  gone = {path: np.zeros(x.shape, bool) for path, x in initial.items()}
  batches = small_learners.batches(name, 10)
  for k in range(10):
    state, info = learner.update(state, jax.tree.map(lambda x, k=k: x[k], batches))
    sparsity = float(info.metrics['MagnitudePruning/Sparsity'])
    now = kernels(state.params)
    decide = [path for path in now if 'sigma' not in path]
    pruned = sum((now[path] == 0).sum() for path in decide)
    np.testing.assert_allclose(sparsity, pruned / sum(now[path].size for path in decide), rtol=1e-5)
    share = 0.9 * (1 - (1 - np.clip(((k + 1) // 2 * 2 - 2) / 6, 0, 1)) ** 3)
    for path in decide:
      assert (now[path] == 0).sum() == round(np.float32(share) * now[path].size), (k, path)
    for path in now:
      assert np.all(now[path][gone[path]] == 0)
      gone[path] = now[path] == 0
      if 'mu' in path:
        np.testing.assert_array_equal(gone[path], now[path.replace('mu', 'sigma')] == 0)
    for path, x in kernels(state.target_params).items():
      assert np.all(x[gone[path]] == 0)
  assert all(np.any(now[path][~gone[path]] != initial[path][~gone[path]]) for path in decide)
  flat = traverse_util.flatten_dict(state.params)
  assert all(np.all(x == 1) or np.any(x != 0) for path, x in flat.items() if path[-1] == 'scale')


def test_the_last_share_is_reached_where_the_period_passes_the_end():
  remedy = MagnitudePruning(period=3, sparsity=0.5, begin=0, end=4)
  learner = small_learners.make('DQN', {'p': remedy})
  batches = small_learners.batches('DQN', 7)
  _, info = learner.update_many(small_learners.start(learner), batches)
  sparsity = np.asarray(info.metrics['MagnitudePruning/Sparsity'])
  np.testing.assert_allclose(sparsity[[0, 1, 5, 6]], [0, 0, 0.5, 0.5], atol=0.01)
  assert 0.4 < sparsity[2] == sparsity[4] < 0.5


def test_before_it_begins_and_with_sparsity_0_it_trains_as_without():
  assert small_learners.make('DQN', {'p': MagnitudePruning(sparsity=0.0)}).remedies == {}
  ends = []
  for remedies in ({}, {'p': MagnitudePruning(period=1, begin=5, end=6)}):
    learner = small_learners.make('MinAtar', remedies)
    batches = small_learners.batches('MinAtar', 4)
    ends.append(learner.update_many(small_learners.start(learner), batches)[0]._replace(extra={}))
  assert_equal(*ends)

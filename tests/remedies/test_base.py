"""Remedies in the learner: against NumPy, in every way of running updates, and off bit for bit."""

import dataclasses
import functools

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import losses, networks
from implicit_rl.context import Context
from implicit_rl.learner import Learner
from implicit_rl.remedies import LossTerm, PeriodicRemedy, Remedy, bound_remedies
from implicit_rl.types import Batch

A = 3
MLP = networks.MLP(num_actions=A, hidden_units=(16, 8))
CONTEXT = Context(
  apply=MLP.apply,
  init=lambda key: MLP.init(key, np.zeros((1, 1, 4), np.float32)),
  discount=0.9,
  num_actions=A,
)


def make_batches(count, seed=7, size=8):
  rng = np.random.default_rng(seed)
  lead = (count, size)
  states = lambda: rng.normal(size=(*lead, 1, 4)).astype(np.float32)
  return Batch(
    state=states(),
    action=rng.integers(0, A, lead).astype(np.int32),
    reward=rng.normal(size=lead).astype(np.float32),
    next_state=states(),
    next_action=rng.integers(0, A, lead).astype(np.int32),
    discount=rng.integers(0, 2, lead).astype(np.float32),
    weight=np.ones(lead, np.float32),
  )


def make_learner(remedies, **settings):
  loss = functools.partial(losses.dqn_loss, apply=MLP.apply, discount=0.9)
  return Learner(loss, remedies=remedies, context=CONTEXT, **settings)


def start(learner, seed=0):
  key = jax.random.PRNGKey(seed)
  return learner.init(CONTEXT.init(key), key)


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_close(one, other):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@dataclasses.dataclass(frozen=True)
class Anchor(LossTerm):
  """½‖θ − anchor‖², where the anchor starts as θ₀ and follows θ slowly: a term with a state."""

  weight: float = 0.1
  rate: float = 0.5

  def init(self, context, params, key):
    return params

  def term(self, context, params, target_params, batch, aux, key, extra):
    apart = jax.tree.map(lambda p, q: jnp.sum(jnp.square(p - q)), params, extra)
    return 0.5 * sum(jax.tree.leaves(apart))

  def after_update(self, context, state, batch, key):
    anchor = optax.incremental_update(state.params, state.extra, self.rate)
    return state._replace(extra=anchor), {}


@dataclasses.dataclass(frozen=True)
class Shrink(PeriodicRemedy):
  """Shrinks parameters, target and Adam's first moments, and adds noise to the parameters."""

  period: int | None = 2
  factor: float = 0.5

  def operate(self, context, state, batch, key):
    shrink = functools.partial(jax.tree.map, lambda x: self.factor * x)
    adam = state.optimizer_state[0]
    adam = adam._replace(mu=shrink(adam.mu))
    noise = optax.tree.random_like(key, state.params, jax.random.normal)
    state = state._replace(
      params=jax.tree.map(lambda p, e: p + 0.01 * e, shrink(state.params), noise),
      target_params=shrink(state.target_params),
      optimizer_state=(adam, *state.optimizer_state[1:]),
    )
    return state, {'Shrink/Done': jnp.ones(())}


class Noisy(Remedy):
  """A term that is random, and nothing but that."""

  def loss_term(self, context, params, target_params, batch, aux, key, extra):
    drawn = jax.random.normal(key)
    return drawn * jnp.mean(aux.outputs.features), {'Noisy/Drawn': drawn}


def test_a_loss_term_and_its_state_are_what_numpy_computes():
  """SGD on one step of the sum; the anchor moves after the step."""
  rate, weight = 0.1, 0.3
  plain = make_learner({}, optimizer=optax.sgd(rate))
  anchored = make_learner({'anchor': Anchor(weight)}, optimizer=optax.sgd(rate))
  states, anchors = [start(plain), start(anchored)], None
  batches = make_batches(4)
  assert_equal(states[1].extra['anchor'], states[1].params)
  anchors = jax.tree.map(lambda p: np.asarray(p, np.float64), states[1].params)
  for k in range(4):
    batch = jax.tree.map(lambda x, k=k: x[k], batches)
    before = jax.tree.map(lambda p: np.asarray(p, np.float64), states[1].params)
    # The agent's own gradient, from a learner without remedies that stands at the same place.
    own = states[0]._replace(
      params=jax.tree.map(jnp.copy, states[1].params),
      target_params=jax.tree.map(jnp.copy, states[1].target_params),
    )
    states[0], _ = plain.update(own, batch)
    states[1], info = anchored.update(states[1], batch)
    squares = jax.tree.map(lambda p, q: np.sum((p - q) ** 2), before, anchors)
    size = 0.5 * sum(jax.tree.leaves(squares))
    np.testing.assert_allclose(info.metrics['Losses/Anchor'], size, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
      info.metrics['Losses/Total'], info.metrics['Losses/TD'] + weight * size, rtol=1e-5
    )
    expected = jax.tree.map(
      lambda moved, p, q: np.asarray(moved) - rate * weight * (p - q),
      states[0].params,
      before,
      anchors,
    )
    assert_close(states[1].params, expected)
    anchors = jax.tree.map(lambda q, p: 0.5 * q + 0.5 * np.asarray(p), anchors, states[1].params)
    assert_close(states[1].extra['anchor'], anchors)


def test_a_periodic_operation_rewrites_parameters_target_and_moments_when_it_is_due():
  learner, plain = make_learner({'shrink': Shrink(3)}), make_learner({})
  state, twin = start(learner), start(plain)
  batches = make_batches(6)
  done = []
  for k in range(6):
    batch = jax.tree.map(lambda x, k=k: x[k], batches)
    twin = jax.tree.map(jnp.copy, state)._replace(extra={})
    state, info = learner.update(state, batch)
    twin, _ = plain.update(twin, batch)
    done.append(float(info.metrics['Shrink/Done']))
    if done[-1]:
      apart = jax.tree.map(lambda p, q: np.abs(p - 0.5 * q).max(), state.params, twin.params)
      assert 0 < max(jax.tree.leaves(apart)) < 0.1  # The noise.
      assert_equal(state.target_params, jax.tree.map(lambda x: 0.5 * x, twin.target_params))
      mu = jax.tree.map(lambda x: 0.5 * x, twin.optimizer_state[0].mu)
      assert_equal(state.optimizer_state[0].mu, mu)
      assert_equal(state.optimizer_state[0].nu, twin.optimizer_state[0].nu)
    else:
      assert_equal(state, twin)
  assert done == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
  'remedies',
  [
    {'anchor': Anchor(0.0)},
    {'shrink': Shrink(None)},
    {'nothing': Remedy()},
    {'anchor': Anchor(0.0), 'nothing': Remedy(), 'shrink': Shrink(None)},
  ],
)
def test_what_is_off_leaves_program_and_state_as_without(remedies):
  plain, off = make_learner({}), make_learner(remedies)
  state, batch = start(plain), jax.tree.map(lambda x: x[0], make_batches(1))
  assert jax.tree.structure(start(off)) == jax.tree.structure(state)
  programs = [jax.jit(one.pure_update).lower(state, batch).as_text() for one in (plain, off)]
  assert programs[0] == programs[1]
  ends = [one.update_many(start(one), make_batches(5)) for one in (plain, off)]
  assert_equal(*ends)


def test_a_remedys_draws_do_not_depend_on_what_others_there_are():
  batches = make_batches(3)
  alone, both = make_learner({'noisy': Noisy()}), make_learner({'a': Anchor(), 'noisy': Noisy()})
  drawn = [
    np.asarray(one.update_many(start(one), batches)[1].metrics['Noisy/Drawn'])
    for one in (alone, both)
  ]
  np.testing.assert_array_equal(*drawn)
  assert len({float(x) for x in drawn[0]}) == 3  # Another one at every update.


EVERY = {'anchor': Anchor(), 'noisy': Noisy(), 'shrink': Shrink(2)}


@pytest.mark.parametrize('loop', ['scan', 'dispatch'])
def test_updates_in_a_row_are_updates_one_by_one(loop):
  learner, batches = make_learner(EVERY, loop=loop), make_batches(5)
  state, _ = learner.update_many(start(learner), batches)
  single = start(learner)
  for k in range(5):
    single, _ = learner.update(single, jax.tree.map(lambda x, k=k: x[k], batches))
  assert_close(state, single)
  flat = jax.tree.map(lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])), batches)
  fetch = lambda store, rows: jax.tree.map(lambda x: x[rows], store)
  stored, _ = learner.update_from(fetch, start(learner), flat, np.arange(40).reshape(5, 8))
  assert_close(stored, single)


def test_seeds_side_by_side_are_separate_seeds():
  batches = [make_batches(4, seed) for seed in (1, 2, 3)]
  learner = make_learner(EVERY)
  together = learner.over_seeds(3)
  states = jax.tree.map(lambda *x: jnp.stack(x), *(start(learner, seed) for seed in range(3)))
  stacked = jax.tree.map(lambda *x: np.stack(x, axis=1), *batches)
  states, info = together.update_many(states, stacked)
  np.testing.assert_array_equal(info.metrics['Shrink/Done'][:, 0], [0, 1, 0, 1])
  for seed in range(3):
    expected, _ = learner.update_many(start(learner, seed), batches[seed])
    assert_close(jax.tree.map(lambda x, s=seed: x[s], states), expected)
  # All have done as many updates: the operation stays a branch, and costs nothing in between.
  program = jax.make_jaxpr(together._update)(states, jax.tree.map(lambda x: x[0], stacked))
  assert ' cond[' in str(program)


@dataclasses.dataclass(frozen=True)
class AtMost(Remedy):
  """Parameters of at most their initial largest one, halved."""

  def init(self, context, params, key):
    return max(jnp.max(jnp.abs(p)) for p in jax.tree.leaves(params)) / 2

  def project(self, context, params, extra):
    return jax.tree.map(lambda p: jnp.clip(p, -extra, extra), params)


@pytest.mark.parametrize('rate', [1.0, 0.25])
def test_a_projection_ends_the_step_and_the_target_follows_it(rate):
  batch = jax.tree.map(lambda x: x[0], make_batches(1))
  settings = {'target_update_period': 1, 'target_update_rate': rate, 'optimizer': optax.sgd(0.1)}
  before = start(make_learner({}, **settings))
  expected, _ = make_learner({}, **settings).update(start(make_learner({}, **settings)), batch)
  learner = make_learner({'at_most': AtMost()}, **settings)
  state, _ = learner.update(start(learner), batch)
  bound = max(np.abs(p).max() for p in jax.tree.leaves(before.params)) / 2
  clipped = jax.tree.map(lambda p: np.clip(p, -bound, bound), expected.params)
  assert_close(state.params, clipped)
  mixed = lambda p, q: rate * np.asarray(p) + (1 - rate) * np.asarray(q)
  assert_close(state.target_params, jax.tree.map(mixed, clipped, before.params))
  assert any(
    np.any(p != q) for p, q in zip(*map(jax.tree.leaves, (clipped, expected.params)), strict=True)
  )


def test_updates_stand_within_what_the_caller_compiles_and_differentiates():
  learner, batches = make_learner(EVERY), make_batches(4)
  expected, _ = learner.update_many(start(learner), batches)
  scanned, _ = jax.lax.scan(learner.update, start(learner), batches)
  assert_close(scanned, expected)
  assert_close(jax.jit(learner.update_many)(start(learner), batches)[0], expected)
  first = jax.tree.map(lambda x: x[0], batches)
  assert 'scan' in str(jax.make_jaxpr(learner.update_many)(start(learner), batches))
  jax.make_jaxpr(learner.update)(start(learner), first)
  seeds = jax.tree.map(lambda *x: jnp.stack(x), *(start(learner, seed) for seed in range(2)))
  mapped, _ = jax.vmap(learner.update, in_axes=(0, None))(seeds, first)
  assert_close(jax.tree.map(lambda x: x[1], mapped), learner.update(start(learner, 1), first)[0])

  # √ν of Adam has an infinite slope at 0, where a unit has had no gradient.
  learner = make_learner(EVERY, optimizer=optax.adam(1e-3, eps_root=1e-8))

  def loss_after(weights):  # A meta-gradient: of the loss after two updates, by the weights.
    state, _ = learner.update(start(learner), first._replace(weight=weights))
    state, _ = learner.update(state, first)
    return losses.dqn_loss(
      state.params, state.target_params, first, state.key, apply=MLP.apply, discount=0.9
    )[0]

  weights = jnp.asarray(first.weight)
  direction = jnp.asarray(np.random.default_rng(0).normal(size=weights.shape), jnp.float32)
  slope = jnp.vdot(jax.grad(loss_after)(weights), direction)
  _, tangent = jax.jvp(loss_after, (weights,), (direction,))
  np.testing.assert_allclose(slope, tangent, rtol=1e-3)
  assert float(jnp.abs(slope)) > 0


@pytest.mark.parametrize(
  'wrong, said',
  [
    (lambda: Anchor(-1.0), r'Anchor\.weight must be a number of at least 0, got -1\.0'),
    (lambda: Anchor('much'), r"Anchor\.weight must be a number of at least 0, got 'much'"),
    (lambda: Shrink(0), r'Shrink\.period must be a whole number .* got 0'),
    (lambda: Shrink(2.5), r'Shrink\.period must be .* got 2\.5'),
    (lambda: make_learner({'mine': Anchor}), r'Remedies\.mine must be .*: say @Anchor\(\)'),
    (lambda: make_learner({'mine': 3}), r'Remedies\.mine must be a Remedy or None, got 3'),
  ],
)
def test_wrong_settings_are_refused_by_name(wrong, said):
  with pytest.raises(ValueError, match=said):
    wrong()


def test_names_and_parts_that_are_missing_are_said():
  learner = make_learner({'one': Anchor(), 'two': Anchor()})
  with pytest.raises(ValueError, match=r"Remedies\.two reports 'Losses/Anchor', which is reported"):
    learner.update_many(start(learner), make_batches(1))

  class Needs(Remedy):
    def after_update(self, context, state, batch, key):
      return state._replace(params=context.init(key)), {}

  loss = functools.partial(losses.dqn_loss, apply=MLP.apply, discount=0.9)
  learner = Learner(loss, remedies={'needs': Needs()})
  with pytest.raises(ValueError, match=r'needs `context\.init`: construct the learner as Learner'):
    learner.update_many(start(learner), make_batches(1))


def test_gin_files_add_up_and_a_later_none_removes():
  gin.external_configurable(Anchor, module='outside')
  gin.external_configurable(Shrink, module='outside')
  gin.parse_config('Remedies.b = @outside.Anchor()')
  gin.parse_config('Remedies.a = @outside.Shrink()\noutside.Shrink.period = 7')
  assert bound_remedies() == {'a': Shrink(7), 'b': Anchor()}
  assert list(make_learner(None).remedies) == ['a', 'b']
  gin.parse_config('Remedies.a = None')
  assert list(make_learner(None).remedies) == ['b']

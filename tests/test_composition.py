"""Networks and losses under JAX's transformations on the CPU, with its kernels off and on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl import cpu, losses, networks, rank
from implicit_rl.heads import C51Head, QHead, QuantileHead
from tests.cases import cases
from tests.loss_setting import random_batch
from tests.test_networks import NETWORKS, made

# SmallCNN has NatureCNN's kinds of layers.
each = pytest.mark.parametrize(
  'name', cases(((name,) for name in NETWORKS), lambda name: name != 'NatureCNN')
)
each_head = pytest.mark.parametrize('head', [QHead(dueling=True, noisy=True), C51Head(num_atoms=5)])


def smooth(name, **settings):
  """A network without kinks, so that finite differences hold, its parameters and a loss of them."""
  network, params, states = made(name, **{'activation': 'tanh', **settings})

  def loss(params, states=states):
    outputs = network.apply(params, states)
    features = jnp.concatenate(jax.tree.leaves(outputs.features), axis=-1)
    return jnp.sum(jnp.sin(outputs.q_values)) + 0.01 * rank.lp_penalty(features)

  return network, params, states, loss


def direction_of(params, seed=3):
  """A random direction of unit length in the space of the parameters."""
  rng = np.random.default_rng(seed)
  drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), params)
  norm = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(drawn)))
  return jax.tree.map(lambda x: jnp.asarray(x / norm), drawn)


def dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def close(found, expected, rtol=1e-4):
  size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * size), found, expected
  )


def forward_over_reverse(loss, params, direction):
  return jax.jvp(jax.grad(loss), (params,), (direction,))[1]


def reverse_over_reverse(loss, params, direction):
  return jax.grad(lambda p: dot(jax.grad(loss)(p), direction))(params)


@each
def test_with_the_kernels_off_every_derivative_composes(name):
  """Against central differences in float64 of the gradient, itself one of the value."""
  with jax.enable_x64(True):
    _, params, _, loss = smooth(name)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    direction = direction_of(wide)
    h = 1e-5
    moved = [jax.tree.map(lambda x, v, s=s: x + s * h * v, wide, direction) for s in (1, -1)]
    gradient = jax.jit(jax.grad(loss))
    value = jax.jit(loss)
    slope = (value(moved[0]) - value(moved[1])) / (2 * h)
    np.testing.assert_allclose(dot(gradient(wide), direction), slope, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
      jax.jvp(value, (wide,), (direction,))[1], slope, rtol=1e-5, atol=1e-7
    )
    linear = jax.linearize(value, wide)[1](direction)
    np.testing.assert_allclose(linear, slope, rtol=1e-5, atol=1e-7)
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * h), *map(gradient, moved))
    close(jax.jit(functools.partial(forward_over_reverse, loss))(wide, direction), expected)
    close(jax.jit(functools.partial(reverse_over_reverse, loss))(wide, direction), expected)


@each
def test_with_the_kernels_off_a_network_is_plain_flax(name):
  network, params, states = made(name)
  total = lambda p, s: jnp.sum(network.apply(p, s).q_values)
  gradient = jax.jit(jax.grad(total))
  program = str(jax.make_jaxpr(gradient)(params, states))
  assert 'custom_vjp' not in program and 'optimization_barrier' not in program
  again = jax.jit(jax.grad(jax.checkpoint(total)))(params, states)
  close(again, gradient(params, states))
  _, along = jax.lax.scan(lambda c, s: (c, gradient(params, s)), 0, jnp.stack([states, states]))
  close(jax.tree.map(lambda x: x[1], along), gradient(params, states), rtol=1e-3)
  both = jax.vmap(gradient, (None, 0))(params, jnp.stack([states, states]))
  close(jax.tree.map(lambda x: x[0], both), gradient(params, states), rtol=1e-3)


@each
def test_with_the_kernels_off_a_network_is_exported_for_any_batch(name):
  network, params, states = made(name)
  (batch,) = jax.export.symbolic_shape('b')
  shape = jax.ShapeDtypeStruct((batch, *states.shape[1:]), states.dtype)
  exported = jax.export.export(jax.jit(lambda s: network.apply(params, s).q_values))(shape)
  again = jax.export.deserialize(exported.serialize())
  for count in (1, 2, 5):
    some = np.resize(states, (count, *states.shape[1:]))
    np.testing.assert_allclose(
      again.call(some), network.apply(params, some).q_values, rtol=1e-4, atol=1e-5
    )


@each
def test_a_gauss_newton_product_is_the_jacobian_twice(name):
  """Jᵀ·J·v by a forward and a reverse pass, against the whole Jacobian by rows."""
  network, params, states = made(name, activation='tanh')
  values = lambda p: network.apply(p, states).q_values
  direction = direction_of(params)

  @jax.jit
  def product(params, direction):
    _, along = jax.jvp(values, (params,), (direction,))
    return jax.vjp(values, params)[1](along)[0]

  jacobian = jax.jit(jax.jacrev(values))(params)  # leaves [B, A, ...]
  pairs = zip(jax.tree.leaves(jacobian), jax.tree.leaves(direction), strict=True)
  along = sum(jnp.tensordot(j, v, v.ndim) for j, v in pairs)
  expected = jax.tree.map(lambda j: jnp.tensordot(along, j, 2), jacobian)
  close(product(params, direction), expected, rtol=1e-3)


@each
def test_the_kernels_change_rounding_alone(name):
  network, params, states = made(name)
  loss = lambda p: jnp.sum(jnp.sin(network.apply(p, states).q_values))
  off = jax.jit(jax.value_and_grad(loss))(params)
  cpu.use_kernels()
  assert cpu.kernels_in_use() == (jax.default_backend() == 'cpu')
  on = jax.jit(jax.value_and_grad(loss))(params)
  close(on, off)
  again = network.init(jax.random.PRNGKey(0), states)
  jax.tree.map(np.testing.assert_array_equal, again, params)


@each_head
@pytest.mark.exhaustive
def test_the_kernels_change_rounding_alone_in_heads(head):
  network, _, states = made('NatureCNN', head=head)
  params = network.init(jax.random.key(0), states)
  rngs = {'noise': jax.random.key(1)}
  loss = lambda p: jnp.sum(jnp.sin(network.apply(p, states, rngs=rngs).q_values))
  off = jax.jit(jax.value_and_grad(loss))(params)
  cpu.use_kernels()
  close(jax.jit(jax.value_and_grad(loss))(params), off)


@each
@pytest.mark.usefixtures('cpu_kernels')
def test_with_the_kernels_on_a_gradient_has_a_gradient(name):
  _, params, _, loss = smooth(name)
  direction = direction_of(params)
  product = lambda: jax.jit(functools.partial(reverse_over_reverse, loss))(params, direction)
  found = product()
  cpu.use_kernels(False)
  close(found, product(), rtol=1e-3)


@pytest.mark.skipif("jax.default_backend() != 'cpu'")
@pytest.mark.usefixtures('cpu_kernels')
def test_with_the_kernels_on_forward_mode_is_refused_by_jax():
  _, params, _, loss = smooth('MLP')
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(loss, (params,), (direction_of(params),))


@pytest.mark.skipif("jax.default_backend() != 'cpu'")
def test_compiled_functions_follow_the_switch():
  """What was compiled with the kernels is not used without them."""
  network, params, states = made('MLP')
  traced = []

  @jax.jit
  def values(params):
    traced.append(cpu.kernels_in_use())
    return network.apply(params, states).q_values

  for use in (False, True, True, False):
    cpu.use_kernels(use)
    values(params)
  assert traced == [False, True]
  jax.jvp(values, (params,), (params,))


LOSSES = {
  'dqn': (losses.dqn_loss, {'discount': 0.9}),
  'double dqn': (losses.dqn_loss, {'discount': 0.9, 'double': True}),
  'fqe': (losses.fqe_loss, {'discount': 0.9}),
  'monte carlo': (losses.monte_carlo_loss, {}),
  'behaviour cloning': (losses.behaviour_cloning_loss, {}),
  'c51': (losses.c51_loss, {'discount': 0.9}),
  'qr-dqn': (losses.qr_dqn_loss, {'discount': 0.9}),
  'rem': (losses.rem_loss, {'discount': 0.9}),
}
HEADS = {'c51': C51Head(num_atoms=5), 'qr-dqn': QuantileHead(num_quantiles=4)}
HEADS['rem'] = HEADS['qr-dqn']


@pytest.mark.parametrize(
  ('name', 'conservative'),
  cases(
    [(name, conservative) for name in LOSSES for conservative in (False, True)],
    lambda name, conservative: (
      (name in ('dqn', 'c51', 'rem') and not conservative) or (name == 'qr-dqn' and conservative)
    ),
  ),
)
def test_derivatives_of_value_losses_compose(name, conservative):
  function, settings = LOSSES[name]
  with jax.enable_x64(True):
    network = networks.MLP(5, (8,), activation='tanh', head=HEADS.get(name, QHead()))
    batch, key = random_batch(), jax.random.key(0)
    params, target = (
      jax.tree.map(lambda x: x.astype(jnp.float64), network.init(jax.random.key(i), batch.state))
      for i in (0, 1)
    )
    plain = functools.partial(function, apply=network.apply, **settings)
    if conservative:
      plain = functools.partial(losses.cql_loss, loss=plain, weight=0.5)
    loss = lambda p: plain(p, target, batch, key)[0]
    direction = direction_of(params)
    h = 1e-6
    moved = [jax.tree.map(lambda x, v, s=s: x + s * h * v, params, direction) for s in (1, -1)]
    gradient = jax.jit(jax.grad(loss))
    slope = dot(gradient(params), direction)
    np.testing.assert_allclose((loss(moved[0]) - loss(moved[1])) / (2 * h), slope, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(loss, (params,), (direction,))[1], slope, rtol=1e-8)
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * h), *map(gradient, moved))
    for product in (forward_over_reverse, reverse_over_reverse):
      close(jax.jit(functools.partial(product, loss))(params, direction), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize('conservative', [False, True])
def test_derivatives_of_actor_critic_losses_compose(conservative):
  """Parts stop gradients, so that only JAX's own ways are compared with each other."""
  rng = np.random.default_rng(0)
  network = networks.ActorCritic(num_actions=2, hidden_units=(8,), activation='tanh')
  batch, key = random_batch(), jax.random.key(0)
  action = rng.uniform(-1, 1, (len(batch.action), 2)).astype(np.float32)
  batch = batch._replace(action=action, next_action=action)
  params, target = (network.init(jax.random.key(i), batch.state) for i in (0, 1))
  plain = functools.partial(losses.sac_loss, apply=network.apply, discount=0.9, target_entropy=-2.0)
  if conservative:
    plain = functools.partial(
      losses.continuous_cql_loss, apply=network.apply, loss=plain, weight=0.5, num_samples=2
    )
  loss = lambda p: plain(p, target, batch, key)[0]
  direction = direction_of(params)
  slope = dot(jax.jit(jax.grad(loss))(params), direction)
  jvp = jax.jit(lambda p, v: jax.jvp(loss, (p,), (v,))[1])
  linear = jax.jit(lambda p, v: jax.linearize(loss, p)[1](v))
  np.testing.assert_allclose(jvp(params, direction), slope, rtol=1e-3)
  np.testing.assert_allclose(linear(params, direction), slope, rtol=1e-3)
  found, expected = (
    jax.jit(functools.partial(product, loss))(params, direction)
    for product in (forward_over_reverse, reverse_over_reverse)
  )
  close(found, expected, rtol=1e-3)

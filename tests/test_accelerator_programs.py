"""What a GPU or TPU is given, lowered on this CPU: one loop, and nothing of the host in it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.running.vmapped_loops import VmappedLoops
from tests.running.test_compiled_online_loop import make
from tests.test_programs import ATARI, MINATAR, operations, prepare


def scan_of_updates(kind):
  """K updates of a learner with the penalty, and what they are called with."""
  learner, start, batches = prepare(*kind)

  def scan(state, batches):
    return jax.lax.scan(learner.pure_update, state, batches)

  return scan, (jax.eval_shape(start), batches)


def online_loop(seeds):
  """Turns of the compiled loop with priorities, of one seed or of several side by side."""
  loops = [make(prioritized=True, seed=seed)[1] for seed in range(seeds)]
  if seeds > 1:
    together = VmappedLoops(loops)
    return together.turns, (together.joined(range(seeds)),)
  return loops[0].turns, (loops[0].keys, loops[0].state)


PROGRAMS = {
  'updates, Atari': (lambda: scan_of_updates(ATARI), {}),
  'updates, MinAtar': (lambda: scan_of_updates(MINATAR), {}),
  'online loop': (lambda: online_loop(1), {'count': 5}),
  'online loops of three seeds': (lambda: online_loop(3), {'count': 5}),
}


@pytest.fixture(scope='module', params=PROGRAMS)
def program(request):
  """A function and its arguments."""
  make_program, static = PROGRAMS[request.param]
  function, arguments = make_program()
  return lambda *given: function(*given, **static), arguments


def check(function, arguments, platform):
  """Asserts what the first line of this file says."""
  jitted = jax.jit(function)
  # Export refuses what only this machine could run.
  exported = jax.export.export(jitted, platforms=[platform])(*arguments)
  assert exported.platforms == (platform,)
  module = exported.mlir_module()
  assert 'callback' not in module, re.findall(r'\S*callback\S*', module)[:3]
  lowered = jitted.trace(*arguments).lower(lowering_platforms=(platform,))
  found = operations(lowered.as_text('hlo'))
  assert found['while', False] == 1
  moved = ('infeed', 'outfeed', 'send', 'recv', 'copy-start')
  assert not [one for one in found if one[0] in moved]
  assert 'xf64>' not in module and 'tensor<f64>' not in module
  assert found['conditional', True] >= 1  # The target network is copied where it is due only.
  for work in ('dot', 'convolution', 'scatter', 'sort'):
    assert not found[work, False], work


@pytest.mark.parametrize('platform', ['cuda', pytest.param('tpu', marks=pytest.mark.exhaustive)])
def test_all_work_stands_in_one_loop_that_asks_nothing_of_the_host(program, platform):
  check(*program, platform)


def test_what_is_looked_for_is_found_where_it_is():
  """A callback within the loop, a second loop, and work in float64."""

  def loop(body):
    return lambda x: jax.lax.scan(
      lambda x, _: (jax.lax.cond(x[0, 0] > 0, lambda: body(x) @ x, lambda: x), None), x, length=3
    )[0]

  x = jnp.ones((2, 2))
  check(loop(lambda x: x), (x,), 'cuda')
  callback = lambda x: jax.pure_callback(lambda x: np.asarray(x), x, x)
  twice = lambda x: loop(jnp.sin)(loop(jnp.sin)(x))
  for wrong in (loop(callback), twice, lambda x: loop(jnp.sin)(x) @ x):
    with pytest.raises((AssertionError, ValueError)):
      check(wrong, (x,), 'cuda')
  with jax.enable_x64(True), pytest.raises(AssertionError):
    check(loop(jnp.sin), (jnp.ones((2, 2), jnp.float64),), 'cuda')

"""Any optax optimiser by gin, chains of them, and their state in checkpoints."""

import copy
import re

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from implicit_rl import optimizers
from implicit_rl.logs import checkpoints
from implicit_rl.running import experiment
from tests.command_line import ROOT, refusal, run, strip_speed

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
NOISE = {
  'Learner.optimizer': '@chain()',
  'chain.transformations': '[@optax.add_noise(), @optax.lion()]',
  'optax.add_noise.eta': 0.5,
  'optax.add_noise.gamma': 0.55,
  'optax.add_noise.key': 3,
  'optax.lion.learning_rate': '@optax.linear_schedule()',
  'optax.linear_schedule.init_value': 0.01,
  'optax.linear_schedule.end_value': 0.001,
  'optax.linear_schedule.transition_steps': 3,
}
WITH_NOISE = [f'{name} = {value}' for name, value in NOISE.items()]


def test_every_optimiser_of_optax_has_a_name():
  """Those that optax documents as optimisers, whatever version is installed."""
  for name in optax._src.alias.__dict__:
    function = getattr(optax, name, None)
    if getattr(function, '__module__', '') == 'optax._src.alias' and callable(function):
      assert gin.get_configurable(f'optax.{name}') is not None
  assert gin.get_configurable('optax.contrib.muon') is not None


def test_a_chain_by_gin_is_optaxs():
  experiment.parse_gin([str(ROOT / MINATAR)], WITH_NOISE)
  ours = optimizers.chain()
  rate = optax.linear_schedule(0.01, 0.001, 3)
  theirs = optax.chain(optax.add_noise(0.5, 0.55, 3), optax.lion(rate))
  params = {'w': jnp.arange(4.0)}
  states = [one.init(params) for one in (ours, theirs)]
  for step in range(3):
    gradients = {'w': jnp.cos(jnp.arange(4.0) + step)}
    (mine, states[0]), (other, states[1]) = (
      one.update(gradients, state, params)
      for one, state in zip((ours, theirs), states, strict=True)
    )
    np.testing.assert_array_equal(mine['w'], other['w'])


def test_weight_decay_beside_adam_is_adamw_on_kernels():
  rate, decay = 0.01, 0.1
  ours = optimizers.with_weight_decay(optax.adam(rate), rate=rate * decay)
  kernels = lambda params: jax.tree.map(lambda x: x.ndim >= 2, params)
  theirs = optax.adamw(rate, weight_decay=decay, mask=kernels)
  params = [{'kernel': jnp.ones((3, 4)), 'bias': jnp.ones(4), 'log_alpha': jnp.ones(())}] * 2
  states = [one.init(params[0]) for one in (ours, theirs)]
  for step in range(5):
    for i, one in enumerate((ours, theirs)):
      gradients = jax.tree.map(lambda x: jnp.cos(x + step), params[i])  # noqa: B023
      changes, states[i] = one.update(gradients, states[i], params[i])
      params[i] = optax.apply_updates(params[i], changes)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *params)
  alone = optimizers.with_weight_decay(optax.sgd(0.1), rate=0.25)
  changes, _ = alone.update(
    jax.tree.map(jnp.zeros_like, params[0]), alone.init(params[0]), params[0]
  )
  np.testing.assert_allclose(changes['kernel'], -0.25 * params[0]['kernel'], rtol=1e-6)
  assert not np.any(changes['bias']) and not np.any(changes['log_alpha'])


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ((optax.adam, 0.1), r'with_weight_decay.optimizer must be .* @optax.adam\(\)'),
    ((optax.adam(0.1), -0.1), r'with_weight_decay.rate must be a number in \[0, 1\], got -0.1'),
  ],
)
def test_wrong_settings_of_weight_decay_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    optimizers.with_weight_decay(*settings)


@pytest.mark.exhaustive
def test_a_run_whose_optimiser_draws_noise_resumes_as_if_uninterrupted(tmp_path):
  """add_noise keeps a typed PRNG key in the optimiser's state."""
  once, twice = ({'OfflineRunner.num_iterations': n, **NOISE} for n in (1, 2))
  straight = run(tmp_path / 'a', MINATAR, **twice)
  run(tmp_path / 'b', MINATAR, **once)
  assert strip_speed(run(tmp_path / 'b', MINATAR, **twice)) == strip_speed(straight)
  ends = [
    checkpoints.load_newest(tmp_path / name / 'checkpoints')[1]['agent']['learner'] for name in 'ab'
  ]
  jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
def test_typed_keys_survive_a_checkpoint(tmp_path, impl):
  tree = {'keys': jax.random.split(jax.random.key(7, impl=impl), 3), 'raw': jax.random.PRNGKey(1)}
  checkpoints.save(tmp_path, 0, {'state': checkpoints.to_arrays(tree)})
  like = jax.tree.map(jnp.copy, tree) | {'keys': jax.random.split(jax.random.key(0, impl=impl), 3)}
  back = checkpoints.from_arrays(like, checkpoints.load(tmp_path, 0)['state'])
  assert back['keys'].dtype == tree['keys'].dtype
  np.testing.assert_array_equal(
    jax.random.uniform(back['keys'][2], 5), jax.random.uniform(tree['keys'][2], 5)
  )
  np.testing.assert_array_equal(back['raw'], tree['raw'])
  with pytest.raises(ValueError, match='shape'):
    checkpoints.from_arrays(like | {'keys': like['keys'][:2]}, checkpoints.to_arrays(tree))


@pytest.mark.parametrize(
  ('settings', 'expected'),
  [
    ({'chain.transformations': '[@optax.lion]'}, r'chain\.transformations\[0\].*@optax\.lion\(\)'),
    ({'Learner.optimizer': '@optax.lionn()'}, 'Did you mean optax.lion\\?'),
  ],
)
def test_what_is_no_optimiser_is_named(tmp_path, settings, expected):
  assert re.search(
    expected, refusal(tmp_path / 'run', MINATAR, **{'Learner.optimizer': '@chain()'} | settings)
  )


def test_the_documented_lines_build_what_they_say():
  page = (ROOT / 'docs' / 'agents.md').read_text().partition('### Optimisers')[2]
  blocks = re.findall(r'```\n(Learner\.optimizer.*?)```', page, re.DOTALL)
  expected = [
    optax.lion(optax.linear_schedule(3e-4, 0.0, 100_000)),
    optax.chain(optax.clip(1.0), optax.adamw(3e-4)),
  ]
  params = {'w': jnp.arange(4.0)}
  for lines, reference in zip(blocks, expected, strict=True):
    experiment.parse_gin([str(ROOT / MINATAR)], lines.splitlines())
    made = copy.deepcopy(gin.query_parameter('Learner.optimizer'))  # Gin's way to call it.
    changes = [one.update(params, one.init(params), params)[0]['w'] for one in (made, reference)]
    np.testing.assert_array_equal(*changes)

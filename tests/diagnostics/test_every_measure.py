"""What every diagnostic does where there is nothing to measure: NaN or one line, no number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.diagnosis.measuring import every_diagnostic
from implicit_rl.networks import MLP
from tests.cases import cases
from tests.diagnostics.setting import Setting

SMALL = {
  'churn': {'updates': 2, 'batch_size': 4},
  'ntk': {'states': 8},
  'plasticity': {'tasks': 1, 'steps': 2, 'batch_size': 4},
  'sharpness': {'states': 8, 'steps': 2, 'probes': 2},
}
EVERY = {
  name: dataclasses.replace(one, **SMALL.get(name, {})) for name, one in every_diagnostic().items()
}


def take(setting, name, params=None, batch=None):
  params = setting.params if params is None else params
  state = setting.state._replace(params=params, target_params=params)
  batch = setting.batch if batch is None else batch
  found = setting.measurements(EVERY[name]).take(0, state, batch, batch)
  return {key: np.asarray(value) for key, value in found.items()}


@pytest.mark.parametrize(
  'name',
  cases(
    ((one,) for one in EVERY),
    lambda name: name not in ('sharpness', 'plasticity', 'neural_tangent_kernel'),
  ),
)
def test_non_finite_features_give_nan(name):
  setting = Setting(MLP, size=32, hidden_units=(8, 8))
  found = take(setting, name)
  assert found and any(np.all(np.isfinite(value)) for value in found.values())
  for broken in (jnp.nan, jnp.inf):
    params = jax.tree.map(jnp.array, setting.params)
    kernel = params['params']['Dense_1']['kernel']
    params['params']['Dense_1']['kernel'] = kernel.at[0].set(broken)
    spoilt = take(setting, name, params)
    assert spoilt.keys() == found.keys()
    sound = {'Dense_0', 'Dense_2'}  # Layers that the broken weights do not reach.
    numbers = {key for key, value in spoilt.items() if np.any(np.isfinite(value))}
    assert {key.partition('/')[2] for key in numbers} <= sound, numbers


@pytest.mark.parametrize(
  'name',
  cases(
    ((one,) for one in EVERY),
    lambda name: name not in ('sharpness', 'plasticity', 'neural_tangent_kernel'),
  ),
)
def test_networks_that_name_no_layers(name):
  setting = Setting(MLP, size=32, hidden_units=(8, 8))
  setting.use(lambda *arguments: setting.network.apply(*arguments)._replace(layers=None))
  setting.context = dataclasses.replace(setting.context, layers=())
  found = take(setting, name)
  assert (found == {}) == (name == 'dormancy')
  of_layers = [key for key in found if '/' in key and not key.startswith('weight_norm/')]
  assert all(key.endswith('/target') for key in of_layers), of_layers


def test_an_empty_batch_is_refused_in_one_line():
  setting = Setting(MLP, size=32, hidden_units=(8, 8))
  empty = jax.tree.map(lambda x: x[:0], setting.batch)
  for name in EVERY:
    with pytest.raises(ValueError, match='at least one transition to measure on, got none'):
      take(setting, name, batch=empty)

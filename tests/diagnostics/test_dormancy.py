"""Dormant and saturated units against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_rl.diagnostics import dormancy
from implicit_rl.diagnostics.base import Diagnostic
from implicit_rl.logs import checkpoints
from implicit_rl.networks import MLP, MinAtarCNN
from tests.diagnostics.setting import Setting


def numpy_dormant(activation, threshold):
  sizes = np.abs(np.float64(activation)).reshape(-1, activation.shape[-1]).mean(axis=0)
  return sizes <= threshold * sizes.mean()


@pytest.mark.parametrize('network', [MLP, MinAtarCNN])
def test_every_layer_equals_numpy(network):
  setting = Setting(network)
  found = setting.measure(dormancy.Dormancy())
  layers = setting.network.apply(setting.params, setting.batch.state).layers
  for name, layer in layers.items():
    for key, threshold in (('_0', 0.0), ('', 0.025), ('_0.1', 0.1)):
      expected = numpy_dormant(layer.activation, threshold).mean()
      np.testing.assert_allclose(found[f'dormant_units{key}/{name}'], expected, rtol=1e-6)
    assert np.isnan(found[f'dormant_overlap/{name}'])  # Nothing was measured before.
  assert len(found) == 4 * len(layers)


def with_dead_units(setting, units):
  """The learner's state with these units of the last layer switched off."""
  params = {name: dict(layer) for name, layer in setting.params['params'].items()}
  params['Dense_1']['bias'] = jnp.zeros(64).at[jnp.array(units)].set(-1e3)
  return setting.state._replace(params={'params': params})


def test_the_overlap_is_with_the_last_measurement_also_after_a_resume():
  setting = Setting(MLP)
  first, second = with_dead_units(setting, [0, 1, 2, 3]), with_dead_units(setting, [2, 3, 4])
  measurements = setting.measurements(dormancy.Dormancy(period=2))
  take = lambda iteration, state: measurements.take(iteration, state, setting.batch)
  share = take(0, first)['dormant_units/Dense_1']
  assert take(1, first) == {}
  saved = checkpoints.to_arrays(measurements.state_dict())
  found = take(2, second)
  masks = [
    numpy_dormant(setting.network.apply(s.params, setting.batch.state).layers['Dense_1'][1], 0.025)
    for s in (first, second)
  ]
  assert share == masks[0].mean()
  expected = np.sum(masks[0] & masks[1]) / min(masks[0].sum(), masks[1].sum())
  assert 2 / 3 <= expected < 1
  np.testing.assert_allclose(found['dormant_overlap/Dense_1'], expected, rtol=1e-6)
  measurements = setting.measurements(dormancy.Dormancy(period=2))
  measurements.load_state_dict(saved)
  jax.tree.map(np.testing.assert_array_equal, take(2, second), found)


def test_masks_by_hand():
  a, b = jnp.float32([1, 1, 0, 0]), jnp.float32([0, 1, 1, 1])
  assert dormancy.overlap(a, b) == 0.5
  assert np.isnan(dormancy.overlap(a, 0 * b)) and np.isnan(dormancy.overlap(a, jnp.nan * b))
  assert dormancy.saturated_share(jnp.float32([[0.5, -0.995], [0.999, 0.2]])) == 0.5
  assert np.isnan(dormancy.saturated_share(jnp.float32([[0.5, jnp.nan]])))


def test_saturation_is_measured_of_tanh_alone():
  setting = Setting(MLP, activation='tanh')
  scaled = setting.state._replace(
    params={
      'params': {k: {n: 30 * x for n, x in v.items()} for k, v in setting.params['params'].items()}
    }
  )
  found = setting.measure(dormancy.Dormancy(), scaled)
  layers = setting.network.apply(scaled.params, setting.batch.state).layers
  for name, layer in layers.items():
    expected = np.mean(np.abs(layer.activation) > 0.99)
    assert found[f'saturated_units/{name}'] == pytest.approx(expected) and expected > 0.5
  assert not any('saturated' in name for name in Setting(MLP).measure(dormancy.Dormancy()))


def test_what_is_remembered_is_nan_at_first():
  class Counts(Diagnostic):
    def measure(self, context, state, batch, key):
      return {'last': state.extra['loss']}

    def remember(self, context, state, batch, key):
      return {'loss': context.loss(state.params, state.target_params, batch, key)[0]}

  setting = Setting(MLP)
  measurements = setting.measurements(Counts())
  first, second = (measurements.take(i, setting.state, setting.batch)['last'] for i in (0, 1))
  assert np.isnan(first)
  expected = setting.context.loss(setting.params, setting.params, setting.batch, setting.state.key)
  np.testing.assert_allclose(second, expected[0], rtol=1e-6)

"""Activations that other libraries hand over, PyTorch's among them, are measured right."""

import json
import re

import numpy as np
import pytest

import implicit_rl
from tests.command_line import ROOT

RNG = np.random.default_rng(0)
PHI = np.maximum(RNG.normal(size=(30, 8)), 0).astype(np.float32)


def recorded(prefix):
  """Arrays of `experiments/torch_diagnosis.py`, by the names after the prefix."""
  with np.load(ROOT / 'tests/data/torch_diagnosis.npz') as file:
    return {
      name.removeprefix(f'{prefix}/'): file[name]
      for name in file.files
      if name.startswith(f'{prefix}/')
    }


def layers_of(arrays):
  kept = ('q_values', 'singular_values', 'centred_singular_values', 'dormant_units')
  return {name: value for name, value in arrays.items() if name not in kept}


@pytest.mark.parametrize('library', ['sb3', 'cleanrl'])
def test_pytorchs_networks_measure_what_pytorch_computes(library):
  arrays = recorded(library)
  layers = layers_of(arrays)
  assert len(layers) == 2
  found = implicit_rl.diagnose_features(
    layers, q_values=arrays['q_values'], reward_range=(1, 1), gamma=0.99
  )
  for name in ('singular_values', 'centred_singular_values'):  # By PyTorch, in float64.
    np.testing.assert_allclose(found.arrays[name], arrays[name], rtol=1e-4, atol=1e-4)
    shares = np.cumsum(arrays[name] ** 2) / np.sum(arrays[name] ** 2)
    prefix = 'centred_' if name.startswith('centred') else ''
    assert found[f'{prefix}pca_rank'] == 1 + np.argmax(shares >= 0.99)
  np.testing.assert_allclose(found['dormant_units'], arrays['dormant_units'], rtol=1e-6)
  assert found['dormant_units'] == found[f'dormant_units/{list(layers)[-1]}']
  np.testing.assert_allclose(found['q_max'], arrays['q_values'].max(), rtol=1e-6)
  assert [one.level for one in found.verdicts] == ['unknown', 'good', 'good']
  assert found.bounds == pytest.approx((0, 100))


def test_a_fresh_network_decides_on_rank():
  arrays, fresh = recorded('sb3'), layers_of(recorded('sb3_fresh'))
  found = implicit_rl.diagnose_features(layers_of(arrays), fresh=fresh)
  values = np.linalg.svd(list(fresh.values())[-1].astype(np.float64), compute_uv=False)
  np.testing.assert_allclose(found.fresh['sigma_max'], values[0], rtol=1e-5)
  assert found.verdicts[0].level == 'good'
  assert 'fresh' in str(found)


@pytest.mark.parametrize('name', ['stable_baselines3_dqn.py', 'cleanrl_dqn.py'])
def test_the_documented_lines_are_those_that_were_run(name):
  script = (ROOT / 'experiments/torch_diagnosis.py').read_text()
  run = re.search(rf'# --- {name}\n(.*?)  # ---\n', script, re.DOTALL)[1]
  page = (ROOT / 'docs/diagnose.md').read_text()
  (shown,) = re.findall(rf'```python\n# {name}\n(.*?)```', page, re.DOTALL)
  lines = [line for line in shown.splitlines() if line.strip()]
  assert len(lines) <= 20
  ran = {line.strip() for line in run.splitlines()}
  imports = {'import implicit_rl', 'import torch', 'from torch import nn'}
  assert {line.strip() for line in lines} - imports <= ran


def test_all_diagnostics_are_taken_or_listed():
  found = implicit_rl.diagnose_features({'a': PHI, 'phi': PHI}, diagnostics='all')
  for name in ('ntk', 'plasticity', 'sharpness', 'values', 'norms', 'churn', 'layer_ranks'):
    assert found.not_measured[name].startswith('give ')
  assert not {'weight_norm', 'q_target_gap', 'churn_actions', 'seem_eigenvalue'} & set(found)
  with pytest.raises(ValueError, match="a mapping, 'all' or None, got 'al'"):
    implicit_rl.diagnose_features({'phi': PHI}, diagnostics='al')


def test_channels_first_are_units_too():
  images = np.maximum(RNG.normal(size=(30, 4, 4, 6)), 0).astype(np.float32)
  images[..., 2] = 0
  last = implicit_rl.diagnose_features({'conv': images, 'phi': PHI})
  first = implicit_rl.diagnose_features(
    {'conv': np.moveaxis(images, -1, 1), 'phi': PHI}, channels_first=True
  )
  assert last['dormant_units/conv'] == pytest.approx(1 / 6)
  assert {name: value for name, value in first.items() if value == value} == {
    name: value for name, value in last.items() if value == value
  }


def test_phi_is_the_layer_called_features_or_named_or_the_last():
  small, wide = PHI[:, :3], PHI
  width = lambda layers, **settings: implicit_rl.diagnose_features(layers, **settings).about[
    'width'
  ]
  assert width({'a': wide, 'b': small}) == 3
  assert width({'features': wide, 'b': small}) == 8
  assert width({'a': wide, 'b': small}, features='a') == 8
  # JAX sorts names where Python does not.
  found = implicit_rl.diagnose_features({'z': wide, 'b': small})
  assert found.about['layers'] == ('z', 'b')
  assert found.about['width'] == 3


class OnAnotherDevice:
  """What PyTorch's tensors do that are not on the CPU, or carry gradients."""

  def __array__(self, *args, **kwargs):
    raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use detach() instead.")


WRONG = {
  'layers must hold': ({},),
  r"layers\['a'\] must have a row for at least one state, got shape \(0, 8\)": ({'a': PHI[:0]},),
  r"layers\['b'\] must have a row for each of 30 states": ({'a': PHI, 'b': PHI[:3]},),
  r"Layer 'a' must have the shape \[B, ..., units\].* got \(30,\)": ({'a': PHI[:, 0]},),
  r"layers\['a'\] cannot be read: .*detach": ({'a': OnAnotherDevice()},),
  r'q_values must have a row for each of 30 states': ({'a': PHI}, {'q_values': PHI[:2]}),
  r"fresh\['a'\] must have a row": ({'a': PHI}, {'fresh': {'a': PHI[:0]}}),
  r"layers must map layers' names to activations, .* got a ndarray": (PHI,),
  r"fresh must map layers' names to activations": ({'a': PHI}, {'fresh': PHI}),
  r'features must name a layer': ({'a': PHI}, {'features': 'b'}),
  r'reward_range must be \(smallest, largest\)': ({'a': PHI}, {'reward_range': (1, 0)}),
  r'gamma must be a number in \[0, 1\]': ({'a': PHI}, {'gamma': 1.5}),
  r'delta must lie strictly between 0 and 1': ({'a': PHI}, {'delta': 2.0}),
}


@pytest.mark.parametrize('message', WRONG)
def test_wrong_input_is_told_in_one_line(message):
  layers, *settings = WRONG[message]
  with pytest.raises(ValueError, match=message) as caught:
    implicit_rl.diagnose_features(layers, **dict(*settings))
  assert '\n' not in str(caught.value)


def test_a_diagnosis_prints_and_saves(tmp_path):
  evil = {'<b>conv</b>': PHI, 'phi': PHI}
  found = implicit_rl.diagnose_features(evil, q_values=PHI[:, :2], fresh=evil)
  text = str(found)
  assert re.search(r'^Rank +good ', text)
  assert f'{found["srank"]:.5g}' in text
  whole = json.loads(found.save(tmp_path / 'new' / 'found.json', 'mine').read_text())
  saved = whole['mine']['value']
  assert saved['scalars']['srank'] == found['srank']
  assert saved['scalars']['dormant_overlap/phi'] is None
  assert len(saved['arrays']['singular_values']) == 8
  page = found.save(tmp_path / 'found.html', 'Mine & yours').read_text()
  assert 'Mine &amp; yours' in page and '<b>' not in page
  assert 'prefers-color-scheme: dark' in page
  assert 'class="chart"' in page
  for verdict in found.verdicts:
    assert verdict.question in page
  assert not re.search(r'(src|href)="(?!#)', page)
  with pytest.raises(ValueError, match=r'must end in .json or .html'):
    found.save(tmp_path / 'found.txt')

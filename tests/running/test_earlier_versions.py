"""A run that version 0.1.0 left after one iteration is resumed as if this version had begun it.

tests/golden/run_0_1 was written at commit e76d2b7 by `run_experiment.py` with the bindings below.
"""

import shutil

import pytest

from tests.command_line import ROOT, run, strip_speed

MINATAR = 'gin_configs/minatar/offline_dqn.gin'
SMALL = {'MinAtarCNN.hidden_units': 2, 'OfflineRunner.training_steps': 4}


def test_a_checkpoint_of_version_0_1_is_resumed(tmp_path):
  shutil.copytree(ROOT / 'tests/golden/run_0_1', tmp_path / 'resumed')
  both = SMALL | {'OfflineRunner.num_iterations': 2}
  resumed, whole = (
    strip_speed(run(tmp_path / name, MINATAR, **both)) for name in ('resumed', 'whole')
  )
  assert [row['updates'] for row in resumed] == [4, 8]
  for one, other in zip(resumed, whole, strict=True):
    for rounding in ('condition_number', 'sigma_min'):  # Of a matrix without full rank.
      one.pop(rounding), other.pop(rounding)
    # The old row has what that version measured; it remembered no dormant units.
    known = [name for name in one if name != 'alarms' and 'dormant_overlap' not in name]
    expected = {name: other[name] for name in known}
    assert {name: one[name] for name in known} == pytest.approx(
      expected, rel=1e-3, abs=1e-4, nan_ok=True
    )
  assert resumed[1].keys() == whole[1].keys()

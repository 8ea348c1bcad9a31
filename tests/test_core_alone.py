"""The core trains where neither TensorFlow nor Dopamine can be imported."""

import subprocess
import sys

import pytest

from tests.command_line import ROOT


@pytest.mark.slow
def test_the_core_trains_without_tensorflow_and_dopamine():
  done = subprocess.run(
    [sys.executable, '-m', 'tests.core_training'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    'offline CQLAgent 6',
    'offline RainbowAgent 6',
    'online Breakout 20',
    'two seeds online CartPole-v1 20',
  ]

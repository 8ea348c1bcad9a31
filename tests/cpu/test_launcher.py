"""What a launcher changes in its process, and that the library alone changes none of it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
{first}
import numpy as np
from implicit_rl import cpu
from implicit_rl.agents.dqn import DQNAgent
from implicit_rl.cpu import allocator
kept = allocator.keep_freed_memory.cache_info().currsize
agent = DQNAgent(3, (5,), np.float32, 1, network=__import__('implicit_rl.networks').networks.MLP)
agent.begin_episode(np.zeros(5))
blocks = 'multiheap' in os.environ['XLA_FLAGS']
print(json.dumps([cpu._switch().value, bool(kept), blocks]))
"""


def said(first=''):
  run = subprocess.run(
    [sys.executable, '-c', PROGRAM.format(first=first)],
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    check=True,
  )
  return run.stdout.strip()


@pytest.mark.exhaustive
def test_the_library_leaves_kernels_memory_and_flags_alone():
  assert said() == '[false, false, false]'


def test_a_launcher_turns_all_on_before_jax_starts():
  prepare = 'from implicit_rl.cpu import launcher; launcher.prepare()'
  assert said(prepare) == '[true, true, true]'

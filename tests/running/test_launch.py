"""A run that shares the machine: one thread, on whichever core, and it ends with its parent."""

import json
import os
import signal
import subprocess
import sys

from implicit_rl.running import launch

PROGRAM = """
import json, os, sys
from implicit_rl.running import launch
launch.start_jax()
import jax, jax.numpy as jnp
multiply = jax.jit(lambda x: x @ x)
x = jnp.ones((500, 500))
for _ in range(20):
  x = multiply(x) / 500
x.block_until_ready()
cores = sorted(os.sched_getaffinity(0))
stuck = [t for t in os.listdir('/proc/self/task') if sorted(os.sched_getaffinity(int(t))) != cores]
names = [open(f'/proc/self/task/{t}/comm').read() for t in os.listdir('/proc/self/task')]
print(json.dumps([cores, stuck, sum('XLAEigen' in name for name in names)]))
"""


def test_one_thread_and_no_core_taken_away():
  answer = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'} | launch.environment(),
    check=True,
    capture_output=True,
    text=True,
  )
  cores, stuck, threads = json.loads(answer.stdout)
  assert cores == sorted(os.sched_getaffinity(0))
  assert not stuck
  assert threads == 1


CHILD = """
import os, time
from implicit_rl.running import launch
launch.stop_with_parent()
print(os.getpid(), flush=True)
time.sleep(30)
print('still there')
"""


def test_it_ends_with_what_started_it():
  start = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {CHILD!r}])'
  with subprocess.Popen([sys.executable, '-c', start], stdout=subprocess.PIPE, text=True) as parent:
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert os.path.exists(f'/proc/{child}')
    parent.send_signal(signal.SIGKILL)
    assert not parent.stdout.read()  # Ends once the child, which holds it too, is gone.
